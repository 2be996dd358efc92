"""Reads resources in PostgreSQL that name a given one (law 40).

An index, written with each version, has what it names of the types that are never in a Patient compartment, and of a Provenance
everything (`naming_index.py`). What else names a resource, such as an Observation about a Location, is found by a scan of the
lines; few of those lie in no compartment, and only these are asked for. A key of the index is a digest, so it may also lead to a
line that names something else; the caller looks at each line.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import islice

from fhir_bulk_middleware.contract.query import Compartments, Page, Query
from fhir_bulk_middleware.stores.digests import digest
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres.resource_reading import members_keys, pages, pages_of
from fhir_bulk_middleware.stores.postgres.resource_steps import TEXT, Lines, Step, by_keys
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["naming"]

_FIRST_ROWS = 4
"""Few, since most readers stop at the first line."""

_FIRST_MEMBERS = 8
_KEYS_PER_ROW = 20
"""About how many keys of members are looked up in the index in the time in which one row of it is read."""

_MOST_COUNTED = 100_000

_COUNT = "SELECT count(*) FROM (SELECT 1 FROM $resource_naming WHERE target = %(key)s AND {between} LIMIT %(most)s) AS counted"
_COUNT_MEMBERS = """
    SELECT count(*) FROM (
        SELECT 1 FROM $resource_compartment WHERE owner = ANY(%(owners)s::text[]) AND {between} LIMIT %(most)s
    ) AS counted
"""
_ALL = f"""
    SELECT r.seq, CASE WHEN {{living}} THEN {TEXT} ELSE '' END{{owners}} FROM (
        SELECT seq FROM $resource_naming
        WHERE target = %(key)s AND seq > %(after)s AND seq <= {{last}} ORDER BY seq LIMIT %(rows)s
    ) AS n JOIN $resource AS r ON r.seq = n.seq ORDER BY r.seq
"""  # noqa: S608 - constants of ours only
_OF_MEMBERS = "SELECT seq FROM $resource_naming WHERE target = %(key)s AND seq = ANY(%(keys)s::bigint[]) ORDER BY seq"


async def naming(database: Database, queries: Sequence[Query], reference: str, index: NamingIndex) -> AsyncIterator[Page]:
    """See `SupportsNaming`. `index` says whether the reference is in the index."""
    text = reference.encode()
    for query in queries:
        if not index.covers(text, query.type):
            async for page in _scanned(database, query, text, index):
                yield page
        elif (span := await database.span(query)) is not None:
            async for rows in _looked_up(database, query, span, digest(text)):
                for page in pages_of(rows, query.page_bytes):
                    yield page


async def _scanned(database: Database, query: Query, reference: bytes, index: NamingIndex) -> AsyncIterator[Page]:
    async for page in pages(database, query, None):
        if reference in page.lines:  # most pages have nothing
            lines = [line for line in page.lines.splitlines() if reference in line and reference in index.named(line)]
            if lines:
                yield Page(b"\n".join((*lines, b"")), len(lines), page.cursor)


async def _looked_up(database: Database, query: Query, span: Span, key: int) -> AsyncIterator[Lines]:
    """The versions of a query that have a key in the index."""
    if not isinstance(query.selection, Compartments):
        async for found in _all(database, span, key, None):
            yield found
        return
    between = f"seq BETWEEN {span.first} AND {span.last}"
    most = _KEYS_PER_ROW * await _one(database, _COUNT.format(between=between), {"key": key, "most": _MOST_COUNTED})
    owners = sorted(query.selection.references)
    members = await _one(database, _COUNT_MEMBERS.format(between=between), {"owners": owners, "most": most + 1})
    steps = _of_members(database, owners, span, key) if members <= most else _all(database, span, key, query.selection)
    async for found in steps:
        yield found


async def _all(database: Database, span: Span, key: int, selection: Compartments | None) -> AsyncIterator[Lines]:
    """All in the index, or those of them that lie in the selection."""
    text = _ALL.format(owners="" if selection is None else ", r.owners", last=span.last, living=span.view.living())
    after, asked = span.first - 1, _FIRST_ROWS
    while True:
        step = await Step.read(database, text, {"key": key, "after": after}, asked)
        async for part in step.parts():
            yield [
                (row[0], row[1])
                for row in part
                if row[1] and (selection is None or not selection.references.isdisjoint(owner.decode() for owner in row[2]))
            ]
        if len(step.rows) < step.asked:
            return
        after, asked = step.rows[-1][0], step.following


async def _of_members(database: Database, owners: Sequence[str], span: Span, key: int) -> AsyncIterator[Lines]:
    """Some members after the other; a resource of two members comes with the first of them."""
    members, count, told = iter(owners), _FIRST_MEMBERS, set[int]()
    while some := list(islice(members, count)):
        keys = await members_keys(database, some, span)
        values = {"key": key, "keys": keys}
        named = await database.connections.read(partial(Session.lines, text=_OF_MEMBERS, values=values))
        fresh = [seq for (seq,) in named if seq not in told]
        told.update(fresh)
        async for found in by_keys(database, fresh, span.view.living()):
            yield found
        count *= 4


async def _one(database: Database, text: str, values: dict[str, object]) -> int:
    return int(await database.connections.read(partial(Session.one, text=text, values=values)))
