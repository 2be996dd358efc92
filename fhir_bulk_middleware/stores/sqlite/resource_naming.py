"""Reads resources in SQLite that name a given one (law 40).

An index, written with each version, has what it names of the types that are never in a Patient compartment, such as Organization:
these are few, and named often. Of a Provenance it has everything. What else names a resource of another type, such as an
Observation about a Location, is found by a scan of the lines; few of those lie in no compartment, and only these are asked for.

A key of the index is a digest, so it may also lead to a line that names something else; the caller looks at each line.
"""

import json
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, NoPatient, Page, Query
from fhir_bulk_middleware.stores.digests import digest
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.sqlite.resource_reading import MEMBERS, pages, read_pages, span_of
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT

__all__ = ["naming"]

_FIRST_PAGE = 4_096
"""Bytes; each page is four times as large as the one before, since most readers stop at the first line."""

_FIRST_MEMBERS = 8
_ROWS_PER_PARSE = 20
"""About how many rows of members are looked up in the index in the time in which one line is parsed."""

_MOST_COUNTED = 100_000

_COUNT = "SELECT count(*) FROM (SELECT 1 FROM naming WHERE target = ? AND seq BETWEEN ? AND ? LIMIT ?)"
_MEMBERS_COUNT = f"SELECT count(*) FROM (SELECT 1 {MEMBERS} LIMIT ?)"  # noqa: S608 - our own words
_OF_MEMBERS = f"SELECT DISTINCT compartment.seq {MEMBERS} CROSS JOIN naming ON naming.target = ? AND naming.seq = compartment.seq"
_VERSIONS = """
SELECT seq, json FROM resource
WHERE seq > ? AND seq IN (SELECT value FROM json_each(?)) AND valid_to > ? AND deleted = 0 ORDER BY seq
"""


def naming(
    connection: sqlite3.Connection,
    queries: Sequence[Query],
    reference: str,
    index: NamingIndex,
    owners: Callable[[bytes], frozenset[str]],
) -> Generator[Page]:
    """See `SupportsNaming`.

    Args:
        connection: the reader's own connection.
        queries: one for each type.
        reference: what is named.
        index: says whether the reference is in the index.
        owners: computes the compartments of a resource from its text.
    """
    text = reference.encode()
    for query in queries:
        if not index.covers(text, query.type):
            yield from _scanned(connection, query, text, index)
        elif (span := span_of(connection, query, None)) is not None:
            yield from _Lookup(connection, query, span, digest(text)).pages(owners)


def _scanned(connection: sqlite3.Connection, query: Query, reference: bytes, index: NamingIndex) -> Iterator[Page]:
    for page in pages(connection, query, None):
        if reference in page.lines:  # most pages have nothing
            lines = [line for line in page.lines.splitlines() if reference in line and reference in index.named(line)]
            if lines:
                yield Page(b"\n".join((*lines, b"")), len(lines), page.cursor)


class _Lookup:
    """The versions of a query that have a key in the index."""

    def __init__(self, connection: sqlite3.Connection, query: Query, span: tuple[int, int], key: int) -> None:
        self._connection = connection
        self._query = query
        self._span = span
        self._key = key
        self._as_of = CURRENT - 1 if query.as_of is None else query.as_of

    def pages(self, owners: Callable[[bytes], frozenset[str]]) -> Iterator[Page]:
        """Small pages first."""
        selection = self._query.selection
        if not isinstance(selection, Compartments):
            return self._all()
        if self._members_are_few(selection):
            return self._of_members(selection)
        return self._selected(selection, owners)

    def _members_are_few(self, selection: Compartments) -> bool:
        """Whether looking up each version of the members in the index costs less than parsing all that is in the index."""
        (naming,) = self._connection.execute(_COUNT, (self._key, *self._span, _MOST_COUNTED)).fetchone()
        most = naming * _ROWS_PER_PARSE
        (members,) = self._connection.execute(
            _MEMBERS_COUNT, (json.dumps(sorted(selection.references)), *self._span, most + 1)
        ).fetchone()
        return bool(members <= most)

    def _all(self) -> Iterator[Page]:
        first, last = self._span
        match self._query.selection:
            case EveryPatient():
                where = " AND r.in_patient = 1"
            case NoPatient():
                where = " AND r.in_patient = 0"
            case _:
                where = ""
        select = (
            "SELECT naming.seq, r.json FROM naming CROSS JOIN resource AS r ON r.seq = naming.seq"  # noqa: S608 - numbers, our words
            f" WHERE naming.target = {self._key} AND naming.seq > ? AND naming.seq <= {last}"
            f" AND r.valid_to > {self._as_of} AND r.deleted = 0{where} ORDER BY naming.seq"
        )
        seq, size = first - 1, _FIRST_PAGE
        while page := next(read_pages(self._connection, select, seq, min(size, self._query.page_bytes)), None):
            yield page
            seq, size = int(page.cursor), size * 4

    def _selected(self, selection: Compartments, owners: Callable[[bytes], frozenset[str]]) -> Iterator[Page]:
        for page in self._all():
            lines = [line for line in page.lines.splitlines() if not owners(line).isdisjoint(selection.references)]
            if lines:
                yield Page(b"\n".join((*lines, b"")), len(lines), page.cursor)

    def _of_members(self, selection: Compartments) -> Iterator[Page]:
        """Some members after the other; a resource of two members comes with the first of them."""
        members, count = iter(sorted(selection.references)), _FIRST_MEMBERS
        told: set[int] = set()
        while some := list(islice(members, count)):
            found = self._connection.execute(_OF_MEMBERS, (json.dumps(some), *self._span, self._key))
            seqs = {seq for (seq,) in found} - told
            told |= seqs
            yield from read_pages(self._connection, _VERSIONS, -1, self._query.page_bytes, json.dumps(sorted(seqs)), self._as_of)
            count *= 4
