"""Reads resources in PostgreSQL patient by patient, for output that is organised by patient.

The compartment table keeps each patient's versions together, type after type. Some patients are read at a time, with a statement
for each type. Patients come in the order of their references.
"""

import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter

from fhir_bulk_middleware.contract.query import Block, Compartments, Query
from fhir_bulk_middleware.stores.postgres.resource_reading import pages_of
from fhir_bulk_middleware.stores.postgres.resource_steps import Lines
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["blocks"]

_PATIENT = "Patient"
_FIRST_PATIENTS, _MOST_PATIENTS = 4, 500
_STEP_BYTES = 4 * 1024 * 1024
_NEXT = "\x01"
"""Sorts a reference after itself and before every other one."""

# From one patient to the next, whatever the number of resources of each.
_EVERY = """
    WITH RECURSIVE every (owner) AS (
        SELECT min(owner) FROM $resource_compartment WHERE owner >= %(begin)s AND owner < 'Patient0'
        UNION ALL
        SELECT (SELECT min(c.owner) FROM $resource_compartment AS c WHERE c.owner > every.owner AND c.owner < 'Patient0')
        FROM every WHERE every.owner IS NOT NULL
    )
    SELECT owner FROM every WHERE owner IS NOT NULL LIMIT %(most)s
"""
_THEIRS = """
    SELECT c.owner, r.seq, r.json FROM $resource_compartment AS c JOIN $resource AS r ON r.seq = c.seq
    WHERE c.owner = ANY(%(owners)s::text[]) AND c.seq BETWEEN {first} AND {last} AND {living} ORDER BY c.owner, c.seq
"""


async def blocks(database: Database, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
    """See `SupportsOrganising`."""
    runs = await _runs(database, queries)
    if not runs:
        return
    begin = ("", -1, 0) if after is None else _place(after)
    first, most = begin[0], _FIRST_PATIENTS
    while owners := await _owners(database, queries[0], first, most):
        theirs: dict[str, list[tuple[int, Lines]]] = {owner: [] for owner in owners}
        size = 1
        for place, (_, span) in enumerate(runs):
            text = _THEIRS.format(first=span.first, last=span.last, living=span.view.living())
            rows = await database.connections.read(partial(Session.lines, text=text, values={"owners": owners}))
            for owner, found in groupby(rows, key=itemgetter(0)):
                theirs[owner.decode()].append((place, [(seq, line) for _, seq, line in found]))
            size += sum(len(line) for _, _, line in rows)
        for owner, by_place in theirs.items():
            for place, rows in by_place:
                rest = [(seq, line) for seq, line in rows if (owner, place, seq) > begin]
                for page in pages_of(rest, queries[0].page_bytes):
                    yield Block(owner, runs[place][0], page, json.dumps([owner, place, int(page.cursor)]))
        first = f"{owners[-1]}{_NEXT}"
        most = max(1, min(4 * most, _MOST_PATIENTS, most * _STEP_BYTES // size))


async def _runs(database: Database, queries: Sequence[Query]) -> list[tuple[str, Span]]:
    """The types with the keys that their queries can hold: Patient first, then in the order of the store."""
    found = []
    for query in queries:
        span = await database.span(query)
        if span is not None:
            found.append((query.type != _PATIENT, span.view.number, query.type, span))
    return [(type_, span) for _, _, type_, span in sorted(found, key=itemgetter(0, 1))]


async def _owners(database: Database, query: Query, first: str, most: int) -> list[str]:
    """The next patients of a selection."""
    if isinstance(query.selection, Compartments):
        return sorted(owner for owner in query.selection.references if owner.startswith("Patient/") and owner >= first)[:most]
    values = {"begin": max(first, "Patient/"), "most": most}
    return [owner for (owner,) in await database.connections.read(partial(Session.rows, text=_EVERY, values=values))]


def _place(cursor: str) -> tuple[str, int, int]:
    owner, place, seq = json.loads(cursor)
    return owner, place, seq
