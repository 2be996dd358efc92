"""Reads versions of resources in PostgreSQL for an export: pages, slices and named resources, as of a cut.

This is the hot path. Text is read in binary form, as bytes that nobody parses, some megabytes with each statement. What is
visible as of a cut does not change any more (`cut.py`), so no transaction stays open between two statements, and a read goes on
behind its last key after a lost connection.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from psycopg.sql import SQL

from fhir_bulk_middleware.contract.paging import PageMaker
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, NoPatient, Page, Query, Range
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.extents import Extent, cut_ranges
from fhir_bulk_middleware.stores.postgres.resource_criteria import CriteriaIndex, Lookups
from fhir_bulk_middleware.stores.postgres.resource_postings import BLOCK_BITS
from fhir_bulk_middleware.stores.postgres.resource_steps import TEXT, Lines, by_keys, stepped
from fhir_bulk_middleware.stores.postgres.resource_types import first_of
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["keys_of", "members_keys", "named", "paged", "pages", "pages_of", "slices", "versions", "written_since"]

_MANY_EXTENTS = 2_000
_FOLD_FACTOR = 4
_MOST_GROUPS = 20_000

_WINDOW = 1 << 18
"""The number of keys among which versions are looked up at a time, so that those found take little memory."""

# The planner cannot know how many versions hold as of a cut, and reckons with few. If the limit counted only those, each step
# would look to it like the last one of a slice, and it would read and sort all the rest of it for some megabytes.
# So versions are taken by their keys first: LIMIT and OFFSET keep the other condition out of that choice.
_SCAN = f"""
    SELECT seq, CASE WHEN {{living}} THEN {TEXT} ELSE '' END FROM (
        SELECT * FROM $resource WHERE seq > %(after)s AND seq <= {{last}} ORDER BY seq LIMIT %(rows)s
    ) AS r ORDER BY seq
"""  # noqa: S608 - constants of ours only
_KEYS = """
    SELECT seq FROM $resource AS r WHERE {between} AND {living} ORDER BY seq
"""
_MEMBERS = """
    SELECT DISTINCT seq FROM $resource_compartment
    WHERE owner = ANY(%(owners)s::text[]) AND seq BETWEEN {first} AND {last} ORDER BY seq
"""
_COUNT_MEMBERS = """
    SELECT count(*) FROM $resource_compartment WHERE owner = ANY(%(owners)s::text[]) AND seq BETWEEN {first} AND {last}
"""
_NAMED = f"""
    SELECT asked.place, {TEXT} FROM unnest(%(ids)s::text[]) WITH ORDINALITY AS asked (id, place)
    JOIN $resource AS r ON r.type = {{number}} AND r.id = asked.id
    WHERE asked.place > %(after)s AND {{living}} ORDER BY asked.place LIMIT %(rows)s
"""  # noqa: S608 - constants of ours only
_WRITTEN = """
    SELECT min(seq), max(seq), count(*), sum(size)::bigint FROM $resource AS r
    WHERE {between} AND {living} GROUP BY seq >> {bits} ORDER BY 1
"""
# In two halves, each of which an index answers with its first row: a bitmap of both would read all that was written.
_TYPES_WRITTEN = """
    SELECT name FROM $resource_type AS types
    WHERE (SELECT max(stamp) FROM $resource AS r WHERE r.type = types.number) > {since}
    OR EXISTS (SELECT 1 FROM $resource AS r WHERE r.type = types.number AND {unseen})
"""
_EXTENTS = """
    SELECT block >> {shift}, sum(versions)::bigint, sum(live)::bigint, sum(in_patient)::bigint, sum(size)::bigint, count(*)
    FROM $resource_extent WHERE block BETWEEN {low} AND {high} GROUP BY 1 ORDER BY 1
"""
_FOLD = """
    WITH several AS (DELETE FROM $resource_extent WHERE block BETWEEN %(low)s AND %(high)s RETURNING *)
    INSERT INTO $resource_extent SELECT block, sum(versions), sum(live), sum(in_patient), sum(size) FROM several GROUP BY block
"""


async def pages(
    database: Database, query: Query, after: str | None, criteria: CriteriaIndex | None = None
) -> AsyncIterator[Page]:
    """The resources of a query by `seq`. Pages are filled, so that a cursor determines all pages after it (law 5).

    Args:
        database: where to read.
        query: the query.
        after: the cursor to read on from.
        criteria: finds what can meet the filters of the query; None to read all.
    """
    span = await database.span(query, after)
    if span is None:
        return
    wanted = _wanted(query, span, criteria)
    steps = versions(database, query, span) if wanted is None else _found(database, span, *wanted)
    async for page in paged(steps, query.page_bytes):
        yield page


def versions(database: Database, query: Query, span: Span) -> AsyncIterator[Lines]:
    """The versions of a query in a span by `seq`, some at a time."""
    if isinstance(query.selection, Compartments):
        return _of_members(database, query.selection, span, span.view.living())
    if query.window.since is None and not isinstance(query.selection, NoPatient):
        return _scanned(database, span)
    return _picked(database, span)


async def paged(steps: AsyncIterator[Lines], page_bytes: int) -> AsyncIterator[Page]:
    """Pages of rows that come by their keys."""
    lines: list[bytes] = []
    size = last = 0
    async for rows in steps:
        for seq, line in rows:
            size += len(line) + 1
            if size > page_bytes and lines:
                lines.append(b"")
                yield Page(b"\n".join(lines), len(lines) - 1, str(last))
                lines, size = [], len(line) + 1
            lines.append(line)
            last = seq
    if lines:
        lines.append(b"")
        yield Page(b"\n".join(lines), len(lines) - 1, str(last))


def pages_of(rows: Lines, page_bytes: int) -> Iterator[Page]:
    """Pages of some rows, none of which waits for further rows."""
    maker = PageMaker(page_bytes)
    for seq, line in rows:
        if (page := maker.add(line, str(seq))) is not None:
            yield page
    if (page := maker.last()) is not None:
        yield page


async def named(database: Database, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
    """See `SupportsContext`. One look-up for each id."""
    view = await database.view(query)
    if view is not None:
        text = _NAMED.format(number=view.number, living=view.living())
        async for page in paged(stepped(database, view.number, text, 0, {"ids": [*ids]}), query.page_bytes):
            yield page


async def members_keys(database: Database, owners: Iterable[str], span: Span) -> list[int]:
    """The keys of all versions in the compartments, each once, in order."""
    text = _MEMBERS.format(first=span.first, last=span.last)
    values = {"owners": sorted(owners)}
    return [seq for (seq,) in await database.connections.read(lambda session: session.lines(text, values))]


async def keys_of(database: Database, span: Span) -> AsyncIterator[list[int]]:
    """The keys of a span's versions, in order; for spans few of whose versions are wanted."""
    living = span.view.living()
    async for part in _windows(database, span):
        text = _KEYS.format(between=part.between(), living=living)
        yield [seq for (seq,) in await database.connections.read(partial(Session.lines, text=text))]


async def _windows(database: Database, span: Span) -> AsyncIterator[Span]:
    """The span in parts of so many keys that those of one part can be held in memory."""
    last = await database.last_key(span)
    end = span.first if last is None else min(last, span.last)
    for first in range(span.first, end + 1, _WINDOW):
        yield replace(span, first=first, last=min(first + _WINDOW - 1, span.last))


async def _of_members(database: Database, selection: Compartments, span: Span, living: str) -> AsyncIterator[Lines]:
    """The members' versions in the span are looked up once, so that the cost of reading depends on those alone."""
    async for found in by_keys(database, await members_keys(database, selection.references, span), living):
        yield found


async def _scanned(database: Database, span: Span) -> AsyncIterator[Lines]:
    """The versions of a span most of which are wanted: all are looked at, in the order of their keys."""
    text = _SCAN.format(last=span.last, living=span.view.living())
    async for rows in stepped(database, span.view.number, text, span.first - 1):
        if living := [row for row in rows if row[1]]:
            yield living


async def _picked(database: Database, span: Span) -> AsyncIterator[Lines]:
    """The versions of a span few of which are wanted: their keys are looked up first, as those of members are."""
    living = span.view.living()
    async for keys in keys_of(database, span):
        async for rows in by_keys(database, keys, living):
            yield rows


async def written_since(database: Database, since: Instant) -> frozenset[str]:
    """The types of which something was written or deleted that was not visible at an instant."""
    seen = await database.seen(since)
    text = _TYPES_WRITTEN.format(since=int(since), unseen=seen.unseen(SQL("r.writer")).as_string())
    return frozenset(name for (name,) in await database.connections.read(partial(Session.rows, text=text)))


async def slices(database: Database, query: Query, target_bytes: int, criteria: CriteriaIndex | None = None) -> Sequence[Range]:
    """Ranges of `seq` of about equal size; none if the query cannot hold anything.

    The ranges are correct whatever the extents say: extents only determine where to cut and the estimates. Those of a window are
    what is in it; the others count what is current now, which is close to what was current at a cut just made. With a filter
    that an index has, only what the index finds counts.
    """
    span = await database.span(query)
    if span is None:
        return ()
    wanted = _wanted(query, span, criteria)
    if query.window.since is not None:
        found = await _written(database, query, span, wanted)
        return cut_ranges(span.first, span.last, found, target_bytes) if found else ()
    last = await database.last_key(span)
    if last is None:
        return ()
    span = Span(span.view, span.first, min(span.last, last))
    groups = await _extents(database, span)
    if wanted is not None:
        found = await _wanted_extents(span, groups, *wanted)
        return cut_ranges(span.first, span.last, found, target_bytes) if found else ()
    if not isinstance(query.selection, Compartments):
        return cut_ranges(span.first, span.last, [_extent(group, query) for group in groups], target_bytes)
    found = await _members_extents(database, span, query.selection, groups, target_bytes)
    return cut_ranges(span.first, span.last, found, target_bytes) if found else ()


_Wanted = tuple[CriteriaIndex, Lookups]


def _wanted(query: Query, span: Span, criteria: CriteriaIndex | None) -> _Wanted | None:
    """How the versions are found that can meet the filters of a query; None to read all, or all of the members."""
    if criteria is None or not query.filters or isinstance(query.selection, Compartments):
        return None
    lookups = criteria.chosen(query.filters, query.type, span.view.number)
    return None if lookups is None else (criteria, lookups)


async def _found(database: Database, span: Span, criteria: CriteriaIndex, lookups: Lookups) -> AsyncIterator[Lines]:
    """The versions in a span that look-ups find."""
    living = span.view.living()
    async for part in _windows(database, span):
        keys = await criteria.found(lookups, span.view.number, (part.first, part.last))
        async for rows in by_keys(database, keys, living):
            yield rows


async def _written(database: Database, query: Query, span: Span, wanted: _Wanted | None) -> list[Extent]:
    """The extents of what was written within a window, exactly; of a filter, of what its index finds there, if that is little."""
    keys = None
    if isinstance(query.selection, Compartments):
        keys = await members_keys(database, query.selection.references, span)
    elif wanted is not None and span.last - span.first < _WINDOW:
        keys = await wanted[0].found(wanted[1], span.view.number, (span.first, span.last))
    living, values = span.view.living(), {}
    if keys is not None:
        living, values = f"{living} AND seq = ANY(%(keys)s::bigint[])", {"keys": keys}
    text = _WRITTEN.format(between=span.between(), living=living, bits=BLOCK_BITS)
    rows = await database.connections.read(lambda session: session.rows(text, values or None))
    return [Extent(*row) for row in rows]


_Group = tuple[int, int, int, int, int, int]
"""First and last key of a group of blocks; versions, living resources, those in a patient's compartment, bytes."""


async def _extents(database: Database, span: Span) -> list[_Group]:
    """The extents of a span in groups of blocks. Rows that writers added are folded if there are many of them."""
    low, high = span.first >> BLOCK_BITS, span.last >> BLOCK_BITS
    blocks = high - low + 1
    shift = max(0, (blocks // _MOST_GROUPS).bit_length())
    text = _EXTENTS.format(shift=shift, low=low, high=high)
    rows = await database.connections.read(lambda session: session.rows(text))
    written = sum(row[5] for row in rows)
    if written > _MANY_EXTENTS and written > _FOLD_FACTOR * min(blocks, len(rows) << shift):
        values = {"low": low, "high": high}
        await database.connections.write(lambda session: session.change(_FOLD, values))
    bits = BLOCK_BITS + shift
    begin = first_of(span.view.number) + 1
    return [
        (max(group << bits, begin, span.first), min(((group + 1) << bits) - 1, span.last), *counts) for group, *counts, _ in rows
    ]


def _extent(group: _Group, query: Query) -> Extent:
    first, last, _, live, in_patient, size = group
    part = 1.0
    if isinstance(query.selection, EveryPatient | NoPatient) and live:
        part = (in_patient if isinstance(query.selection, EveryPatient) else live - in_patient) / live
    return Extent(first, last, live * part, size * part)


def _average(groups: Sequence[_Group]) -> tuple[float, float]:
    """How much of a version is a living resource, and how many bytes, on average."""
    there = max(1, sum(group[2] for group in groups))
    return sum(group[3] for group in groups) / there, sum(group[5] for group in groups) / there


async def _wanted_extents(span: Span, groups: Sequence[_Group], criteria: CriteriaIndex, lookups: Lookups) -> list[Extent]:
    """The extents of what look-ups find in a span; each version counts as an average one of the type."""
    live, size = _average(groups)
    bits = max(BLOCK_BITS, ((span.last - span.first) // _MOST_GROUPS).bit_length())
    counts = await criteria.counts(lookups, span.view.number, (span.first, span.last), bits)
    return [
        Extent(max(group << bits, span.first), min(((group + 1) << bits) - 1, span.last), count * live, count * size)
        for group, count in sorted(counts.items())
    ]


async def _members_extents(
    database: Database, span: Span, selection: Compartments, groups: Sequence[_Group], target_bytes: int
) -> list[Extent]:
    """The extents of the members' versions in the span; each counts as an average version of the type."""
    live, size = _average(groups)
    text, values = _COUNT_MEMBERS.format(first=span.first, last=span.last), {"owners": sorted(selection.references)}
    count: int = await database.connections.read(lambda session: session.one(text, values))
    if count * size < 1.5 * target_bytes:  # one slice, so their places do not matter
        return [Extent(span.first, span.last, count * live, count * size)] if count else []
    return [Extent(seq, seq, live, size) for seq in await members_keys(database, selection.references, span)]
