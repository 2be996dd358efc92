"""Reads resources in PostgreSQL patient by patient, for output that is organised by patient.

The compartment table keeps each patient's versions together, type after type. The keys of some patients are read at a time, with
a statement for each type, then the texts in steps. Patients come in the order of their references.
"""

import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from operator import itemgetter

from fhir_bulk_middleware.contract.paging import PageMaker
from fhir_bulk_middleware.contract.query import Block, Compartments, Page, Query
from fhir_bulk_middleware.stores.postgres.resource_steps import in_steps, texts_of
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["blocks"]

_PATIENT = "Patient"
_FIRST_PATIENTS, _MOST_PATIENTS = 4, 500
_MOST_KEYS = 20_000
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
    SELECT c.owner, r.seq, r.size FROM $resource_compartment AS c JOIN $resource AS r ON r.seq = c.seq
    WHERE c.owner = ANY(%(owners)s::text[]) AND c.seq BETWEEN {first} AND {last} AND {living}
"""

_Run = tuple[str, Span]
"""A type, and the keys that its query can hold."""
_Place = tuple[str, int, int]
"""A patient, the number of a run, and the key of a version."""


async def blocks(database: Database, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
    """See `SupportsOrganising`."""
    runs = await _runs(database, queries)
    if not runs:
        return
    pages, owner, run = PageMaker(queries[0].page_bytes), "", 0

    def block(page: Page) -> Block:
        return Block(owner, runs[run][0], page, json.dumps([owner, run, int(page.cursor)]))

    async for place, line in _lines(database, queries[0], runs, ("", -1, 0) if after is None else _place(after)):
        if place[:2] != (owner, run):
            if (page := pages.last()) is not None:
                yield block(page)
            owner, run, _ = place
        if (page := pages.add(line, str(place[2]))) is not None:
            yield block(page)
    if (page := pages.last()) is not None:
        yield block(page)


async def _lines(database: Database, query: Query, runs: Sequence[_Run], begin: _Place) -> AsyncIterator[tuple[_Place, bytes]]:
    """All behind a place, in order."""
    first, most = begin[0], _FIRST_PATIENTS
    while owners := await _owners(database, query, first, most):
        sizes: dict[_Place, int] = {}
        for run, (_, span) in enumerate(runs):
            text = _THEIRS.format(first=span.first, last=span.last, living=span.view.living())
            rows = await database.connections.read(partial(Session.rows, text=text, values={"owners": owners}))
            sizes |= {(owner, run, seq): size for owner, seq, size in rows if (owner, run, seq) > begin}
        for places in in_steps(sorted(sizes), sizes.__getitem__):
            texts = await texts_of(database, {seq for _, _, seq in places})
            for place in places:
                if (line := texts.get(place[2])) is not None:  # else it was removed meanwhile
                    yield place, line
        first = f"{owners[-1]}{_NEXT}"
        most = max(1, min(4 * most, _MOST_PATIENTS, most * _MOST_KEYS // max(1, len(sizes))))


async def _runs(database: Database, queries: Sequence[Query]) -> list[_Run]:
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


def _place(cursor: str) -> _Place:
    owner, run, seq = json.loads(cursor)
    return owner, run, seq
