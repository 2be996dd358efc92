"""The base URLs of a resource store in PostgreSQL, below which an absolute reference leads to a resource of the store (KO-85).

They are stored in a table, because compartments, targets and what a version names are computed when it is written. When a base is
added, the versions that name it are indexed again. No base is ever removed: what was written under a former URL of the server
still refers to its resources.
"""

import json
from collections.abc import Collection
from itertools import pairwise

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.provenance import targets
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres.resource_postings import BLOCK_BITS
from fhir_bulk_middleware.stores.postgres.resource_steps import fitting
from fhir_bulk_middleware.stores.postgres.resource_types import first_of
from fhir_bulk_middleware.stores.postgres.resource_writing import CURRENT
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["adopt", "bases"]

_ROWS = 500

_ADD = "INSERT INTO $resource_base SELECT unnest(%(urls)s::text[]) ON CONFLICT DO NOTHING"
_WITHOUT_LIMIT = "SET LOCAL statement_timeout = 0"
_LOCK = "LOCK TABLE $resource IN SHARE ROW EXCLUSIVE MODE"
_NAMING = fitting(
    "seq, type, id, json, ended, in_patient",
    """
        SELECT * FROM $resource
        WHERE NOT deleted AND seq > %(after)s AND position(%(prefix)s in json) > 0 ORDER BY seq LIMIT %(rows)s
    """,
)
_OWNED = "INSERT INTO $resource_compartment VALUES (%(owner)s, %(seq)s) ON CONFLICT DO NOTHING"
_TARGET = "INSERT INTO $resource_target VALUES (%(type)s, %(id)s, %(seq)s) ON CONFLICT DO NOTHING"
_NAMED = "INSERT INTO $resource_naming VALUES (%(key)s, %(seq)s) ON CONFLICT DO NOTHING"
_OWNERS = "UPDATE $resource SET owners = %(owners)s, in_patient = %(in_patient)s WHERE seq = %(seq)s"
_COUNTED = "INSERT INTO $resource_extent VALUES (%(block)s, 0, 0, 1, 0)"
_VERSIONS = "SELECT seq, deleted, owners FROM $resource WHERE type = %(type)s AND id = %(id)s ORDER BY number"
_MOVED = "UPDATE $resource SET moved = %(moved)s WHERE seq = %(seq)s"


def bases(session: Session) -> tuple[str, ...]:
    """The base URLs of the store."""
    return tuple(url for (url,) in session.rows("SELECT url FROM $resource_base ORDER BY url"))


def adopt(session: Session, urls: Collection[str], version: FhirVersion) -> None:
    """Add base URLs, in a write transaction that other writers wait for. Reads the text of each version once per URL."""
    session.change(_WITHOUT_LIMIT)
    session.change(_LOCK)
    session.change(_ADD, {"urls": [*urls]})
    every = bases(session)
    indexing = _Indexing(session, CompartmentMembership(version, every), NamingIndex(version, every))
    for url in urls:
        changed: set[tuple[int, str]] = set()
        after = first_of(0)
        while rows := session.rows(_NAMING, {"prefix": f'"{url}/', "after": after, "rows": _ROWS}):
            after = rows[-1][0]
            for seq, type_, id_, text, ended, in_patient in rows:
                indexing.index(seq, text, current=ended == CURRENT, in_patient=in_patient)
                changed.add((type_, id_))
        for type_, id_ in sorted(changed):
            _compare(session, type_, id_)


class _Indexing:
    """Adds compartments, Provenance targets and names of versions."""

    def __init__(self, session: Session, compartments: CompartmentMembership, index: NamingIndex) -> None:
        self._session = session
        self._compartments = compartments
        self._index = index

    def index(self, seq: int, text: str, *, current: bool, in_patient: bool) -> None:
        """Add those of a version."""
        content = json.loads(text)
        owners = sorted(self._compartments.of(content, MEMBER_KINDS))
        for owner in owners:
            self._session.change(_OWNED, {"owner": owner, "seq": seq})
        for type_, id_ in sorted(targets(content, self._compartments.parse)):
            self._session.change(_TARGET, {"type": type_, "id": id_, "seq": seq})
        for key in sorted(self._index.keys(text.encode())):
            self._session.change(_NAMED, {"key": key, "seq": seq})
        is_patients = any(owner.startswith("Patient/") for owner in owners)
        self._session.change(_OWNERS, {"owners": owners, "in_patient": is_patients, "seq": seq})
        if current and is_patients and not in_patient:
            self._session.change(_COUNTED, {"block": seq >> BLOCK_BITS})


def _compare(session: Session, type_: int, id_: str) -> None:
    """Mark anew which versions of a resource moved; a deletion never does."""
    versions = session.rows(_VERSIONS, {"type": type_, "id": id_})
    for (_, was_deleted, owned), (later, deleted, owns) in pairwise(versions):
        moved = not deleted and (was_deleted or set(owned) != set(owns))
        session.change(_MOVED, {"moved": moved, "seq": later})
