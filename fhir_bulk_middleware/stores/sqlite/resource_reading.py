"""Reads versions of resources in SQLite for an export: pages, deletions and slices, as of a cut.

This is the hot path. Each reader has its own connection; text is read as bytes and not parsed; each page is one short statement
with one join (a statement left open would block checkpoints of the write-ahead log). Measured, the loop is about as fast as
SQLite's shell with the same query.
"""

import json
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fhir_bulk_middleware.contract.query import Compartments, Deletions, EveryPatient, Everything, NoPatient, Page, Query, Range
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite.resource_schema import (
    BLOCK_BITS,
    COUNTER_BITS,
    CURRENT,
    first_after,
    first_of,
    next_of,
    number_of,
)

__all__ = ["add_members", "connect", "deletions", "empty_keys", "pages", "read_pages", "slices", "span_of"]

_DELETIONS_PER_PAGE = 1_000

# The size of a processor's cache: a scan reads each page once, so a larger page cache would only cost memory.
_CACHE_KIB = 256

# Each member's run in the compartment table. CROSS JOIN fixes the order in which the tables are visited.
_MEMBERS = """
FROM json_each(?) AS member
CROSS JOIN owner ON owner.reference = member.value
CROSS JOIN compartment ON compartment.owner = owner.number AND compartment.seq BETWEEN ? AND ?
"""

# The versions of a resource before its deletion. A version that was superseded in its own transaction was never current.
_FORMER = """
SELECT in_patient, json FROM resource
WHERE id = ? AND seq > ? AND seq < ? AND deleted = 0 AND valid_to > ? AND valid_to > last_updated
"""


@dataclass(frozen=True, slots=True)
class _Span:
    """The keys of the versions that a query can hold, from `first` to `last` inclusive, and the conditions on them."""

    number: int
    first: int
    last: int
    source: str
    where: str
    as_of: int

    def select(self, columns: str, *, deleted: bool) -> str:
        return (
            f"SELECT {columns} FROM {self.source} WHERE seq > ? AND seq <= {self.last} AND valid_to > {self.as_of}"  # noqa: S608
            f" AND deleted = {int(deleted)}{self.where} ORDER BY seq"  # numbers and our own words only
        )


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one reader; the file and its schema must exist."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    connection.execute("PRAGMA temp_store=MEMORY")  # some bytes for each version of a member in a slice
    return connection


def pages(connection: sqlite3.Connection, query: Query, after: str | None) -> Generator[Page]:
    """The resources of a query by `seq`. Pages are filled, so that a cursor determines all pages after it (law 5)."""
    span = _span(connection, query, after)
    if span is not None:
        _want(connection, span, query)
        yield from read_pages(connection, span.select("seq, json", deleted=False), span.first - 1, query.page_bytes)


def read_pages(connection: sqlite3.Connection, select: str, seq: int, page_bytes: int) -> Generator[Page]:
    """Pages from a statement that selects `seq` and `json` above its one parameter, ordered by `seq`."""
    more = True
    while more:
        more, size = False, 0
        lines: list[bytes] = []
        for next_seq, line in connection.execute(select, (seq,)):
            size += len(line) + 1
            if size > page_bytes and lines:
                more = True
                break
            lines.append(line)
            seq = next_seq
        if lines:
            lines.append(b"")
            yield Page(b"\n".join(lines), len(lines) - 1, str(seq))


def deletions(
    connection: sqlite3.Connection, query: Query, after: str | None, owners: Callable[[bytes], frozenset[str]]
) -> Generator[Deletions]:
    """The deletions of a query that are current as of its cut, by `seq`.

    A deletion belongs to the compartments that the resource was in since the window began (law 34). They are computed from its
    versions, so the cost grows with the number of deletions and not with the resources of the members.

    Args:
        connection: the reader's own connection.
        query: the type, selection and window.
        after: the cursor to read on from.
        owners: computes the compartments of a resource from its text.
    """
    span = _span(connection, replace(query, selection=Everything()), after)
    if span is None:
        return
    select, seq = span.select("seq, id", deleted=True), span.first - 1
    while rows := connection.execute(f"{select} LIMIT {_DELETIONS_PER_PAGE}", (seq,)).fetchall():
        seq = rows[-1][0]
        told = [id_.decode() for deleted_at, id_ in rows if _was_selected(connection, query, (deleted_at, id_), owners)]
        if told:
            yield Deletions(tuple(f"{query.type}/{id_}" for id_ in told), str(seq))


def _was_selected(
    connection: sqlite3.Connection, query: Query, deleted: tuple[int, bytes], owners: Callable[[bytes], frozenset[str]]
) -> bool:
    """Whether any version of a resource that was current since the window began lay in the selection."""
    selection = query.selection
    if isinstance(selection, Everything):
        return True
    seq, id_ = deleted
    number = seq >> COUNTER_BITS
    former = connection.execute(_FORMER, (id_.decode(), first_of(number), seq, query.window.since or 0)).fetchall()
    if isinstance(selection, EveryPatient):
        return any(in_patient for in_patient, _ in former)
    if isinstance(selection, NoPatient):
        return any(not in_patient for in_patient, _ in former)
    return any(not owners(text).isdisjoint(selection.references) for _, text in former)


def slices(connection: sqlite3.Connection, query: Query, target_bytes: int) -> Sequence[Range]:
    """Ranges of `seq` of about equal size; none if the query cannot hold anything.

    The ranges are correct whatever the extents say: extents only determine where to cut and the estimates. They count what is
    current now, which is close to what was current at a cut just made.
    """
    span = _span(connection, query, None)
    if span is None or (query.window.since is not None and not _anything(connection, span, query)):
        return ()
    if not isinstance(query.selection, Compartments):
        return _cut(span, _extents(connection, span, query), target_bytes)
    extents = _members_extents(connection, span, query.selection, target_bytes)
    return _cut(span, extents, target_bytes) if extents else ()


def _anything(connection: sqlite3.Connection, span: _Span, query: Query) -> bool:
    """Whether the span has a selected resource; all changes may be deletions, or lie outside of the selection."""
    _want(connection, span, query)
    return connection.execute(f"{span.select('seq', deleted=False)} LIMIT 1", (span.first - 1,)).fetchone() is not None


def span_of(connection: sqlite3.Connection, query: Query, after: str | None) -> tuple[int, int] | None:
    """The first and last key of the versions that a query can hold; None if it cannot hold any."""
    span = _span(connection, query, after)
    return None if span is None else (span.first, span.last)


def _want(connection: sqlite3.Connection, span: _Span, query: Query) -> None:
    """Collect the members' versions in the span once, so that the cost of reading depends on those alone."""
    if isinstance(query.selection, Compartments):
        empty_keys(connection, "wanted")
        add_members(connection, "wanted", query.selection, (span.first, span.last))


def empty_keys(connection: sqlite3.Connection, name: str) -> None:
    """Create an empty temporary table of keys; a pooled connection may still have an old one."""
    connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
    connection.execute(f"CREATE TABLE temp.{name} (seq INTEGER PRIMARY KEY)")


def add_members(connection: sqlite3.Connection, name: str, selection: Compartments, between: tuple[int, int]) -> None:
    """Add the keys of the versions in the compartments."""
    values = (json.dumps(sorted(selection.references)), *between)
    connection.execute(f"INSERT OR IGNORE INTO temp.{name} SELECT compartment.seq {_MEMBERS}", values)


def _members(span: _Span, selection: Compartments) -> tuple[str, int, int]:
    return json.dumps(sorted(selection.references)), span.first, span.last


def _span(connection: sqlite3.Connection, query: Query, after: str | None) -> _Span | None:
    number = number_of(connection, query.type)
    if number is None:
        return None
    end = next_of(connection, number)
    first, last = first_of(number) + 1, end - 1
    window, as_of = query.window, query.as_of
    ends = [instant for instant in (window.until, as_of) if instant is not None]
    if window.since is not None:
        first = first_after(connection, number, window.since, end)
    if ends:
        last = first_after(connection, number, Instant(min(ends)), end) - 1
    if query.range:
        low, high = map(int, query.range.split("-"))
        first, last = max(first, low), min(last, high)
    if after is not None:
        first = max(first, int(after) + 1)
    if first > last:
        return None
    source, where = "resource", ""
    match query.selection:
        case EveryPatient():
            where = " AND in_patient = 1"
        case NoPatient():
            where = " AND in_patient = 0"
        case Compartments():
            source = "temp.wanted CROSS JOIN resource USING (seq)"
    return _Span(number, first, last, source, where, CURRENT - 1 if as_of is None else as_of)


@dataclass(frozen=True, slots=True)
class _Extent:
    first: int
    last: int
    live: float
    size: float


def _extents(connection: sqlite3.Connection, span: _Span, query: Query) -> list[_Extent]:
    """The extents of the span; a block at its edge counts in proportion to its versions inside."""
    begin, end = first_of(span.number) + 1, next_of(connection, span.number) - 1
    only_patients = isinstance(query.selection, EveryPatient)
    found = []
    for block, live, in_patient, size in connection.execute(
        "SELECT block, live, in_patient, size FROM extent WHERE block BETWEEN ? AND ? ORDER BY block",
        (span.first >> BLOCK_BITS, span.last >> BLOCK_BITS),
    ):
        low, high = max(block << BLOCK_BITS, begin), min(((block + 1) << BLOCK_BITS) - 1, end)
        first, last = max(low, span.first), min(high, span.last)
        part = (last - first + 1) / (high - low + 1)
        if only_patients and live:
            part *= in_patient / live
        found.append(_Extent(first, last, live * part, size * part))
    return found


def _members_extents(connection: sqlite3.Connection, span: _Span, selection: Compartments, target_bytes: int) -> list[_Extent]:
    """The extents of the members' versions in the span; each counts as an average version of the type there."""
    begin, end = span.first >> BLOCK_BITS, span.last >> BLOCK_BITS
    live, size = connection.execute(
        "SELECT total(live), total(size) FROM extent WHERE block BETWEEN ? AND ?", (begin, end)
    ).fetchone()
    low = max(begin << BLOCK_BITS, first_of(span.number) + 1)
    versions = min((end + 1) << BLOCK_BITS, next_of(connection, span.number)) - low
    live, size = live / versions, size / versions
    members = _members(span, selection)
    count: int = connection.execute(f"SELECT count(*) {_MEMBERS}", members).fetchone()[0]
    if count * size < 1.5 * target_bytes:  # one slice, so their places do not matter
        return [_Extent(span.first, span.last, count * live, count * size)] if count else []
    seqs = connection.execute(f"SELECT DISTINCT compartment.seq {_MEMBERS} ORDER BY 1", members)
    return [_Extent(seq, seq, live, size) for (seq,) in seqs]


def _cut(span: _Span, extents: Sequence[_Extent], target_bytes: int) -> Sequence[Range]:
    """Cut a span where another share of its bytes is full; within an extent all versions count as equally large."""
    total = sum(extent.size for extent in extents)
    share = total / max(1, round(total / target_bytes))
    ranges, first, live, filled = [], span.first, 0.0, 0.0
    for extent in extents:
        begin, rest_live, rest_size = extent.first, extent.live, extent.size
        while share and filled + rest_size > share * 1.000001:  # not for the crumbs of floating point
            part = (share - filled) / rest_size
            end = begin + int(part * (extent.last - begin + 1))
            if end > first:
                ranges.append(Range(f"{first}-{end - 1}", round(live + rest_live * part)))
                first, live = end, 0.0
            begin, rest_live, rest_size, filled = end, rest_live * (1 - part), rest_size * (1 - part), 0.0
        live += rest_live
        filled += rest_size
    return (*ranges, Range(f"{first}-{span.last}", round(live)))
