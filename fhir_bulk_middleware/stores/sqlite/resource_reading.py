"""Reads versions of resources in SQLite for an export: pages, slices and named resources, as of a cut.

This is the hot path. Each reader has its own connection; text is read as bytes and not parsed; each page is one short statement
with one join (a statement left open would block checkpoints of the write-ahead log). Measured, the loop is about as fast as
SQLite's shell with the same query.
"""

import hashlib
import json
import sqlite3
import struct
from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, NoPatient, Page, Query, Range
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.criteria_lookups import CriteriaLookups
from fhir_bulk_middleware.stores.extents import Extent, cut_ranges
from fhir_bulk_middleware.stores.sqlite.resource_candidates import Candidates, candidates
from fhir_bulk_middleware.stores.sqlite.resource_schema import (
    BLOCK_BITS,
    COUNTER_BITS,
    CURRENT,
    first_after,
    first_of,
    next_of,
    number_of,
)

__all__ = [
    "MEMBERS",
    "Span",
    "add_members",
    "connect",
    "empty_keys",
    "fingerprint",
    "named",
    "pages",
    "read_pages",
    "read_span",
    "slices",
    "slices_near",
    "span_of",
    "written_since",
]

# The size of a processor's cache: a scan reads each page once, so a larger page cache would only cost memory.
_CACHE_KIB = 256
# Members are looked up again for each type and each slice of an export, each time in the same pages.
_LOOKUP_CACHE_KIB = 4_096

MEMBERS = """
FROM json_each(?) AS member
CROSS JOIN owner ON owner.reference = member.value
CROSS JOIN compartment ON compartment.owner = owner.number AND compartment.seq BETWEEN ? AND ?
"""
"""Each member's run in the compartment table. CROSS JOIN fixes the order in which the tables are visited."""

# The types whose newest version, which is the last one by key (law 4), is later than an instant.
_WRITTEN_SINCE = f"""
SELECT name FROM type WHERE (
    SELECT last_updated FROM resource
    WHERE seq > number << {COUNTER_BITS} AND seq < (number + 1) << {COUNTER_BITS} ORDER BY seq DESC LIMIT 1
) > ?
"""  # noqa: S608 - a number of ours only
_EARLIEST = -(1 << 63)

_KEYS_PER_LOOK = 100
_SAMPLE = 1_000
"""About how many of the members' versions a plan looks at to cut slices of about equal size."""
_SAMPLED = "((compartment.seq & 1048575) * 2654435761 >> 16)"
"""Decides which keys are in the sample. The keys themselves would not do: those of the members may lie at equal distances."""

_OUTSIDE = "resource INDEXED BY resource_outside"
_MATCHING = "matching"
_WANTED = "wanted"


@dataclass(frozen=True, slots=True)
class Span:
    """The keys of the versions that a query can hold, from `first` to `last` inclusive, and the conditions on them.

    Attributes:
        number: the number of the type.
        first: the lowest key.
        last: the highest key.
        source: the tables to read from.
        where: further conditions, in SQL.
        as_of: a version holds if it was superseded after this instant.
    """

    number: int
    first: int
    last: int
    source: str
    where: str
    as_of: int

    def select(self, columns: str, *, deleted: bool) -> str:
        """A statement with one parameter, the key to begin behind."""
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


def pages(
    connection: sqlite3.Connection, query: Query, after: str | None, lookups: CriteriaLookups | None = None
) -> Generator[Page]:
    """The resources of a query by `seq`. Pages are filled, so that a cursor determines all pages after it (law 5).

    Args:
        connection: the reader's own connection.
        query: the query.
        after: the cursor to read on from.
        lookups: what can be looked up for the filters of the query; None to read all.
    """
    span = read_span(connection, query, after)
    if span is not None:
        span = _collected(connection, span, query, _candidates(connection, query, lookups))
        yield from read_pages(connection, span.select("seq, json", deleted=False), span.first - 1, query.page_bytes)


def named(connection: sqlite3.Connection, query: Query, ids: Sequence[str]) -> Generator[Page]:
    """See `SupportsContext`. One look-up for each id."""
    span = read_span(connection, query, None)
    if span is None:
        return
    outside = "AND in_patient = 0 " if isinstance(query.selection, NoPatient) else ""
    select = (
        "WITH behind AS (SELECT ? AS place) SELECT asked.key, resource.json"  # noqa: S608 - numbers and our own words only
        " FROM json_each(?) AS asked CROSS JOIN resource ON resource.id = asked.value"
        f" AND resource.seq BETWEEN {span.first} AND {span.last}"
        f" WHERE asked.key > (SELECT place FROM behind) AND valid_to > {span.as_of} AND deleted = 0 {outside}ORDER BY asked.key"
    )
    yield from read_pages(connection, select, -1, query.page_bytes, json.dumps([*ids]))


def read_pages(connection: sqlite3.Connection, select: str, seq: int, page_bytes: int, *values: str | int) -> Generator[Page]:
    """Pages from a statement that selects `seq` and `json` above its first parameter, ordered by `seq`.

    Args:
        connection: the reader's own connection.
        select: the statement.
        seq: the key to begin behind.
        page_bytes: the largest size of a page.
        values: the statement's further parameters.
    """
    more = True
    while more:
        more, size = False, 0
        lines: list[bytes] = []
        for next_seq, line in connection.execute(select, (seq, *values)):
            size += len(line) + 1
            if size > page_bytes and lines:
                more = True
                break
            lines.append(line)
            seq = next_seq
        if lines:
            lines.append(b"")
            yield Page(b"\n".join(lines), len(lines) - 1, str(seq))


def slices(
    connection: sqlite3.Connection, query: Query, target_bytes: int, lookups: CriteriaLookups | None = None
) -> Sequence[Range]:
    """Ranges of `seq` of about equal size; none if the query cannot hold anything.

    If an index has the filters of the query, only what it finds counts. The ranges are correct whatever the extents say: extents
    only determine where to cut and the estimates. They count what is current now, which is close to what was current at a cut
    just made.
    """
    span = read_span(connection, query, None)
    if span is None:
        return ()
    found = _candidates(connection, query, lookups)
    if (found is not None or query.window.since is not None) and not _anything(connection, span, query, found):
        return ()
    if found is not None:
        extents = _candidates_extents(connection, span, query, found, target_bytes)
        return cut_ranges(span.first, span.last, extents, target_bytes)
    if not isinstance(query.selection, Compartments):
        return cut_ranges(span.first, span.last, _extents(connection, span, query), target_bytes)
    extents = _members_extents(connection, span, query.selection, target_bytes)
    return cut_ranges(span.first, span.last, extents, target_bytes) if extents else ()


def written_since(connection: sqlite3.Connection, since: Instant | None) -> frozenset[str]:
    """The types of which something was written or deleted after an instant; all that have a version, without one."""
    return frozenset(name.decode() for (name,) in connection.execute(_WRITTEN_SINCE, (_EARLIEST if since is None else since,)))


def slices_near(
    connection: sqlite3.Connection,
    query: Query,
    target_bytes: int,
    former: Sequence[str],
    lookups: CriteriaLookups | None = None,
) -> Sequence[Range]:
    """Ranges that begin where the former ones did, as long as they are of about equal size; else as `slices`.

    What was written since lies behind the former ranges, so the last one grows, and is cut when it is large enough for two. What
    lies before is superseded in time, so ranges shrink. All are cut anew when one has twice the target, or there are twice as
    many as necessary.
    """
    span = read_span(connection, query, None)
    if span is None or isinstance(query.selection, Compartments) or _candidates(connection, query, lookups) is not None:
        return slices(connection, query, target_bytes, lookups)
    extents = _extents(connection, span, query)
    firsts = sorted({first for first in (int(each.split("-")[0]) for each in former if each) if span.first < first <= span.last})
    bounds = list(zip([span.first, *firsts], [first - 1 for first in firsts] + [span.last], strict=True))
    pieces = [(replace(span, first=first, last=last), _clipped(extents, first, last)) for first, last in bounds]
    sizes = [sum(extent.size for extent in inside) for _, inside in pieces]
    if any(size > 2 * target_bytes for size in sizes[:-1]) or len(pieces) > 2 * max(1, round(sum(sizes) / target_bytes)):
        return slices(connection, query, target_bytes)
    kept = [Range(f"{piece.first}-{piece.last}", round(sum(extent.live for extent in inside))) for piece, inside in pieces[:-1]]
    return (*kept, *cut_ranges(pieces[-1][0].first, pieces[-1][0].last, pieces[-1][1], target_bytes))


def fingerprint(connection: sqlite3.Connection, query: Query) -> str | None:
    """See `SupportsFingerprints`: a digest of the stamps of the extents that the range touches."""
    span = read_span(connection, query, None)
    if span is None or query.as_of is None:
        return None
    digest = hashlib.sha256()
    for block, changed, stamp in connection.execute(
        "SELECT block, changed, stamp FROM extent WHERE block BETWEEN ? AND ? ORDER BY block",
        (span.first >> BLOCK_BITS, span.last >> BLOCK_BITS),
    ):
        if changed > query.as_of:
            return None
        digest.update(struct.pack("<qq", block, stamp))
    return digest.hexdigest()


def _anything(connection: sqlite3.Connection, span: Span, query: Query, found: Candidates | None) -> bool:
    """Whether the span has a selected resource; all changes may be deletions, or lie outside of the selection."""
    if found is None or isinstance(query.selection, Compartments):
        span = _collected(connection, span, query, found)
        return connection.execute(f"{span.select('seq', deleted=False)} LIMIT 1", (span.first - 1,)).fetchone() is not None
    one = replace(span, source="json_each(?) AS asked CROSS JOIN resource ON resource.seq = asked.value")
    for keys in found.keys(connection, span.first, span.last, _KEYS_PER_LOOK):  # the first few almost always tell
        select = f"{one.select('seq', deleted=False)} LIMIT 1"
        if connection.execute(select, (json.dumps(keys), span.first - 1)).fetchone() is not None:
            return True
    return False


def span_of(connection: sqlite3.Connection, query: Query, after: str | None) -> tuple[int, int] | None:
    """The first and last key of the versions that a query can hold; None if it cannot hold any."""
    span = read_span(connection, query, after)
    return None if span is None else (span.first, span.last)


def _candidates(connection: sqlite3.Connection, query: Query, lookups: CriteriaLookups | None) -> Candidates | None:
    """The candidates for the filters of a query; None to read all.

    The choice does not depend on the cursor, so that each attempt reads the same pages (law 5).
    """
    if lookups is None or not query.filters or isinstance(query.selection, NoPatient):
        return None
    span = read_span(connection, query, None)
    if span is None:
        return None
    found = candidates(connection, lookups, query.filters, query.type, (span.first, span.last))
    if found is not None and isinstance(query.selection, Compartments):
        (members,) = connection.execute(f"SELECT count(*) {MEMBERS}", _members(span, query.selection)).fetchone()
        return found if found.count < members else None
    return found


def _collected(connection: sqlite3.Connection, span: Span, query: Query, found: Candidates | None) -> Span:
    """Collect the members' versions and the candidates in the span once, so that the cost of reading depends on those alone."""
    listed = isinstance(query.selection, Compartments)
    if isinstance(query.selection, Compartments):
        empty_keys(connection, _WANTED)
        add_members(connection, _WANTED, query.selection, (span.first, span.last))
    if found is None:
        return span
    empty_keys(connection, _MATCHING)
    found.collect(connection, _MATCHING, span.first, span.last)
    wanted = f" CROSS JOIN temp.{_WANTED} USING (seq)" if listed else ""
    return replace(span, source=f"temp.{_MATCHING}{wanted} CROSS JOIN resource USING (seq)")


def empty_keys(connection: sqlite3.Connection, name: str) -> None:
    """Make an empty temporary table of keys. One of a pooled connection is emptied: a new one would outdate its statements."""
    connection.execute(f"CREATE TABLE IF NOT EXISTS temp.{name} (seq INTEGER PRIMARY KEY)")
    connection.execute(f"DELETE FROM temp.{name}")  # noqa: S608 - a name of ours


def add_members(connection: sqlite3.Connection, name: str, selection: Compartments, between: tuple[int, int]) -> None:
    """Add the keys of the versions in the compartments."""
    _keep_lookups(connection)
    values = (json.dumps(sorted(selection.references)), *between)
    connection.execute(f"INSERT OR IGNORE INTO temp.{name} SELECT compartment.seq {MEMBERS}", values)


def _keep_lookups(connection: sqlite3.Connection) -> None:
    """Let the connection keep the pages in which members are looked up."""
    connection.execute(f"PRAGMA cache_size=-{_LOOKUP_CACHE_KIB}")


def _members(span: Span, selection: Compartments) -> tuple[str, int, int]:
    return json.dumps(sorted(selection.references)), span.first, span.last


def read_span(connection: sqlite3.Connection, query: Query, after: str | None) -> Span | None:
    """The span of a query behind a cursor; None if it cannot hold anything."""
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
            source, where = _OUTSIDE, " AND in_patient = 0"
        case Compartments():
            source = f"temp.{_WANTED} CROSS JOIN resource USING (seq)"
    return Span(number, first, last, source, where, CURRENT - 1 if as_of is None else as_of)


def _extents(connection: sqlite3.Connection, span: Span, query: Query) -> list[Extent]:
    """The extents of the span; a block at its edge counts in proportion to its versions inside."""
    begin, end = first_of(span.number) + 1, next_of(connection, span.number) - 1
    every, none = isinstance(query.selection, EveryPatient), isinstance(query.selection, NoPatient)
    found = []
    for block, live, in_patient, size in connection.execute(
        "SELECT block, live, in_patient, size FROM extent WHERE block BETWEEN ? AND ? ORDER BY block",
        (span.first >> BLOCK_BITS, span.last >> BLOCK_BITS),
    ):
        low, high = max(block << BLOCK_BITS, begin), min(((block + 1) << BLOCK_BITS) - 1, end)
        first, last = max(low, span.first), min(high, span.last)
        part = (last - first + 1) / (high - low + 1)
        if (every or none) and live:
            part *= (in_patient if every else live - in_patient) / live
        found.append(Extent(first, last, live * part, size * part))
    return found


def _clipped(extents: Sequence[Extent], first: int, last: int) -> list[Extent]:
    """The extents between two keys; one at an edge counts in proportion."""
    found = []
    for extent in extents[bisect_left(extents, first, key=_last) :]:
        low, high = max(extent.first, first), min(extent.last, last)
        if low > high:
            break
        part = (high - low + 1) / (extent.last - extent.first + 1)
        found.append(Extent(low, high, extent.live * part, extent.size * part))
    return found


def _last(extent: Extent) -> int:
    return extent.last


def _members_extents(connection: sqlite3.Connection, span: Span, selection: Compartments, target_bytes: int) -> list[Extent]:
    """The extents of the members' versions in the span; each counts as an average version of the type there.

    Their places are those of a sample, since a plan must not cost as much as reading.
    """
    _keep_lookups(connection)
    live, size = _average(connection, span)
    members = _members(span, selection)
    count: int = connection.execute(f"SELECT count(*) {MEMBERS}", members).fetchone()[0]
    if not count:
        return []
    if count * size < 1.5 * target_bytes:  # one slice, so their places do not matter
        return [Extent(span.first, span.last, count * live, count * size)]
    one_in = max(1, count // _SAMPLE)
    sample = connection.execute(
        f"SELECT DISTINCT compartment.seq {MEMBERS} AND {_SAMPLED} % ? = 0 ORDER BY 1", (*members, one_in)
    ).fetchall()
    share = count / max(1, len(sample))
    return [Extent(seq, seq, live * share, size * share) for (seq,) in sample] or [Extent(span.first, span.last, 0, 0)]


def _candidates_extents(
    connection: sqlite3.Connection, span: Span, query: Query, found: Candidates, target_bytes: int
) -> list[Extent]:
    """The extents of candidates that were collected in the span; each counts as an average version of the type there."""
    live, size = _average(connection, span)
    if isinstance(query.selection, Compartments):
        keys = connection.execute(f"SELECT seq FROM temp.{_MATCHING} CROSS JOIN temp.{_WANTED} USING (seq) ORDER BY 1")  # noqa: S608 - ours
        return [Extent(seq, seq, live, size) for (seq,) in keys]
    if found.count * size < 1.5 * target_bytes:  # one slice, so their places do not matter
        return [Extent(span.first, span.last, found.count * live, found.count * size)]
    return [
        Extent(max(block << BLOCK_BITS, span.first), min(((block + 1) << BLOCK_BITS) - 1, span.last), count * live, count * size)
        for block, count in sorted(found.blocks(connection).items())
    ]


def _average(connection: sqlite3.Connection, span: Span) -> tuple[float, float]:
    """How many live resources a version in the span stands for, and their bytes."""
    begin, end = span.first >> BLOCK_BITS, span.last >> BLOCK_BITS
    live, size = connection.execute(
        "SELECT total(live), total(size) FROM extent WHERE block BETWEEN ? AND ?", (begin, end)
    ).fetchone()
    low = max(begin << BLOCK_BITS, first_of(span.number) + 1)
    versions = min((end + 1) << BLOCK_BITS, next_of(connection, span.number)) - low
    return live / versions, size / versions
