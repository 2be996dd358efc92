"""The base URLs of a resource store, below which an absolute reference leads to a resource of the store (KO-85).

They are stored in the file, because compartments, targets and what a version names are computed when it is written. When a base
is added, the versions that name it are indexed again. No base is ever removed: what was written under a former URL of the server
still refers to its resources.
"""

import json
import secrets
import sqlite3
from collections.abc import Collection, Sequence
from itertools import pairwise

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.provenance import targets
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.digests import digest_of_owners
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.sqlite.resource_schema import BLOCK_BITS, COUNTER_BITS, CURRENT, clock_row, first_of
from fhir_bulk_middleware.stores.sqlite.resource_writing import STAMP_BITS

__all__ = ["adopt", "bases"]


def bases(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The base URLs of the file."""
    return tuple(url for (url,) in connection.execute("SELECT url FROM base ORDER BY url"))


def adopt(connection: sqlite3.Connection, urls: Collection[str], version: FhirVersion) -> None:
    """Add base URLs, in a write transaction. Reads the text of each version once per URL."""
    connection.executemany("INSERT OR IGNORE INTO base VALUES (?)", [(url,) for url in urls])
    every = bases(connection)
    compartments, index = CompartmentMembership(version, every), NamingIndex(version, every)
    for url in urls:
        naming = connection.execute(
            "SELECT seq, id FROM resource WHERE deleted = 0 AND instr(json, ?) > 0", (f'"{url}/',)
        ).fetchall()
        for seq, _ in naming:
            _index(connection, seq, compartments, index)
        _stamp(connection, {seq >> BLOCK_BITS for seq, _ in naming})
        for number, id_ in {(seq >> COUNTER_BITS, id_) for seq, id_ in naming}:
            _compare(connection, number, id_)


def _index(connection: sqlite3.Connection, seq: int, compartments: CompartmentMembership, index: NamingIndex) -> None:
    """Add the compartments of a version, its Provenance targets and what it names."""
    text, valid_to, in_patient = connection.execute(
        "SELECT json, valid_to, in_patient FROM resource WHERE seq = ?", (seq,)
    ).fetchone()
    content = json.loads(text)
    owners: Sequence[str] = sorted(compartments.of(content, MEMBER_KINDS))
    for owner in owners:
        connection.execute("INSERT INTO owner (reference) VALUES (?) ON CONFLICT DO NOTHING", (owner,))
        connection.execute("INSERT OR IGNORE INTO compartment SELECT number, ? FROM owner WHERE reference = ?", (seq, owner))
    connection.executemany(
        "INSERT OR IGNORE INTO target VALUES (?, ?, ?)",
        [(type_, id_, seq) for type_, id_ in sorted(targets(content, compartments.parse))],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO naming VALUES (?, ?)", [(key, seq) for key in sorted(index.keys(text.encode()))]
    )
    connection.execute("UPDATE resource SET owners = ? WHERE seq = ?", (digest_of_owners(frozenset(owners)), seq))
    if not in_patient and any(owner.startswith("Patient/") for owner in owners):
        connection.execute("UPDATE resource SET in_patient = 1 WHERE seq = ?", (seq,))
        if valid_to == CURRENT:
            connection.execute("UPDATE extent SET in_patient = in_patient + 1 WHERE block = ?", (seq >> BLOCK_BITS,))


def _stamp(connection: sqlite3.Connection, blocks: Collection[int]) -> None:
    """Mark extents as changed, since what lies in whose compartment has changed there."""
    instant, stamp = clock_row(connection) + 1, secrets.randbits(STAMP_BITS)
    connection.execute("UPDATE clock SET last = ?", (instant,))  # after every cut
    connection.executemany(
        "UPDATE extent SET changed = ?, stamp = ? WHERE block = ?", [(instant, stamp, block) for block in blocks]
    )


def _compare(connection: sqlite3.Connection, number: int, id_: str) -> None:
    """Mark anew which versions of a resource moved; a deletion never does."""
    versions = connection.execute(
        "SELECT seq, deleted, owners FROM resource WHERE id = ? AND seq > ? AND seq < ? ORDER BY seq",
        (id_, first_of(number), first_of(number + 1)),
    ).fetchall()
    for (_, was_deleted, owned), (later, deleted, owns) in pairwise(versions):
        moved = not deleted and (bool(was_deleted) or owned != owns)
        connection.execute("UPDATE resource SET moved = ? WHERE seq = ?", (moved, later))
