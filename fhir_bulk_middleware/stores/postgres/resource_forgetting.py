"""The deletion horizon of resources in PostgreSQL, and the removal of versions that ended before it (`SupportsForgetting`)."""

import json
from functools import partial

from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.horizon import Horizon, following
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres.cut import Seen
from fhir_bulk_middleware.stores.postgres.resource_postings import BLOCK_BITS, Postings, remove
from fhir_bulk_middleware.stores.postgres.resource_steps import fitting
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes
from fhir_bulk_middleware.stores.postgres.resource_view import Database, ended, sees
from fhir_bulk_middleware.stores.postgres.resource_writing import CURRENT
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["forget", "known_since"]

Indexes = tuple[NamingIndex, ParameterIndex]
"""By which the versions were indexed that are removed."""

_BATCH = 2_000

_HORIZON = "SELECT since, announced FROM $resource_horizon"
_ANNOUNCE = """
    INSERT INTO $resource_horizon VALUES (1, %(since)s, %(announced)s)
    ON CONFLICT (one) DO UPDATE SET since = excluded.since, announced = excluded.announced
"""
_SUPERSEDED_KEYS = fitting(
    "seq",
    f"""
        SELECT seq, size FROM $resource AS r WHERE ended < {CURRENT} AND ended <= %(until)s AND {{ended}}
        LIMIT {_BATCH} FOR UPDATE SKIP LOCKED
    """,  # noqa: S608 - constants of ours only, as below
)
_SUPERSEDED = f"DELETE FROM $resource WHERE seq IN ({_SUPERSEDED_KEYS}) RETURNING seq, owners, json"  # noqa: S608

# A resource goes with its deletion and all versions before it, so that its next version can be the first one.
_DELETED = f"""
    WITH gone AS (
        SELECT type, id FROM $resource AS r
        WHERE deleted AND ended = {CURRENT} AND stamp <= %(until)s AND {{sees}} LIMIT {_BATCH} FOR UPDATE SKIP LOCKED
    )
    DELETE FROM $resource AS r USING gone WHERE r.type = gone.type AND r.id = gone.id RETURNING r.seq, r.owners, r.json
"""  # noqa: S608
_COMPARTMENTS = """
    DELETE FROM $resource_compartment AS c USING unnest(%(owners)s::text[], %(keys)s::bigint[]) AS gone (owner, seq)
    WHERE c.owner = gone.owner AND c.seq = gone.seq
"""
_NAMES = """
    DELETE FROM $resource_naming AS n USING unnest(%(targets)s::bigint[], %(keys)s::bigint[]) AS gone (target, seq)
    WHERE n.target = gone.target AND n.seq = gone.seq
"""
_TARGETS = "DELETE FROM $resource_target WHERE seq = ANY(%(keys)s::bigint[])"


async def known_since(database: Database) -> Instant | None:
    """See `SupportsDeletionHorizon`."""
    horizon = await database.connections.read(_read)
    return None if horizon is None else horizon.since


async def forget(database: Database, indexes: Indexes, before: Instant, now: Instant, grace: float) -> int:
    """Remove what lies before a horizon in force, then announce the next one; see `SupportsForgetting.forget`.

    Each step is a transaction of its own. A process that dies between two of them leaves an announced horizon, which is true,
    and the next call goes on. While a horizon waits to be in force, a call is one read.
    """
    horizon = await database.connections.read(_read)
    removed = 0
    if horizon is not None and horizon.in_force(now, grace):
        seen = await database.seen(horizon.since)
        await database.types.read()
        for text in (_SUPERSEDED.format(ended=ended(seen, "r")), _DELETED.format(sees=sees(seen, "r"))):
            while batch := await database.connections.write(
                partial(_remove, text=text, seen=seen, indexes=indexes, types=database.types)
            ):
                removed += batch
    if following(horizon, before, now, grace) is not None:
        await database.connections.write(partial(_announce, before=before, now=now, grace=grace))
    return removed


def _read(session: Session) -> Horizon | None:
    row = session.row(_HORIZON)
    return None if row is None else Horizon(Instant(row[0]), Instant(row[1]))


def _announce(session: Session, before: Instant, now: Instant, grace: float) -> None:
    if (horizon := following(_read(session), before, now, grace)) is not None:
        session.change(_ANNOUNCE, {"since": horizon.since, "announced": horizon.announced})


def _remove(session: Session, text: str, seen: Seen, indexes: Indexes, types: ResourceTypes) -> int:
    """Remove one batch of versions and what was indexed of them; returns how many. Writers that are under way are passed over."""
    gone = session.rows(text, {"until": seen.instant})
    owned = [(owner, seq) for seq, owners, _ in gone for owner in owners]
    names, parameters = indexes
    named = [(key, seq) for seq, _, line in gone for key in names.keys(line.encode())]
    postings = Postings(types)
    for seq, _, line in gone:
        if line:  # a deletion has none
            postings.add(seq, parameters.keys(json.loads(line)))
    remove(session, postings)
    if owned:
        session.change(_COMPARTMENTS, {"owners": [owner for owner, _ in owned], "keys": [seq for _, seq in owned]})
    if named:
        session.change(_NAMES, {"targets": [key for key, _ in named], "keys": [seq for _, seq in named]})
    if gone:
        session.change(_TARGETS, {"keys": [seq for seq, _, _ in gone]})
        session.copy("$resource_extent (block, versions, live, in_patient, size)", _extents([seq for seq, _, _ in gone]))
    return len(gone)


def _extents(keys: list[int]) -> bytes:
    return b"".join(b"%d\t-1\t0\t0\t0\n" % (seq >> BLOCK_BITS) for seq in keys)
