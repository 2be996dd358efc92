"""A storage adapter for resources in PostgreSQL, as a host might keep them: every version, with its times.

It can be read as of an instant, in slices, by worker processes, and knows what was deleted: so exports from it chain by `_since`
without losing or doubling a change. Needs `psycopg[binary]`.

What makes that true is one row, `clock`. A writer takes it first and holds it until the commit, so versions get their numbers and
instants in the order in which they become visible; a cut takes it too, so no writer is under way when an export begins.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from fhir_bulk_middleware import Principal
from fhir_bulk_middleware.export.query import Authorisation, Compartments, Deletions, EveryPatient, Page, Query, Range
from fhir_bulk_middleware.fhir.canonical import canonical_and_content
from fhir_bulk_middleware.fhir.compartments import Compartments as CompartmentDefinitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, floor
from fhir_bulk_middleware.protocols import Recipe

__all__ = ["SCHEMA", "PostgresStorage"]

_Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = """
CREATE TABLE clock (last bigint NOT NULL);
INSERT INTO clock VALUES (0);
CREATE TABLE version (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type text NOT NULL,
    id text NOT NULL,
    number integer NOT NULL,
    last_updated bigint NOT NULL,
    valid_to bigint NOT NULL DEFAULT 9223372036854775807,
    deleted boolean NOT NULL,
    in_patient boolean NOT NULL,
    json text NOT NULL
);
CREATE UNIQUE INDEX version_current ON version (type, id) WHERE valid_to = 9223372036854775807;
CREATE INDEX version_seq ON version (type, seq);
CREATE INDEX version_time ON version (type, last_updated, seq);
CREATE TABLE compartment (
    owner text NOT NULL,
    type text NOT NULL,
    seq bigint NOT NULL REFERENCES version,
    PRIMARY KEY (owner, type, seq)
);
CREATE INDEX compartment_seq ON compartment (seq);
"""
"""Instants are microseconds since 1970. A version holds from `last_updated` until `valid_to`; the current one for ever."""

_FOR_EVER = 2**63 - 1
_HEADER = 19  # bytes before the first row of a binary COPY
_BEFORE_SEQ = 6  # bytes of a row: how many fields there are, and the length of the first
_BEFORE_TEXT = 18
_DELETIONS = 1_000


class PostgresStorage:
    """The storage adapter. Reading blocks, which is right in a worker process; a server asks it for little more than its clock.

    Args:
        dsn: the database.
        version: the FHIR release of the resources, which defines the compartments.
    """

    def __init__(self, dsn: str, version: str = FhirVersion.R4) -> None:
        self._dsn = dsn
        self._version = version
        self._compartments = CompartmentDefinitions(FhirVersion(version))
        self._idle: list[_Connection] = []

    def recipe(self) -> Recipe:
        """How a worker process makes this again (`SupportsWorkerProcess`)."""
        return Recipe(f"{__name__}:PostgresStorage", {"dsn": self._dsn, "version": self._version})

    def close(self) -> None:
        """Close the connections that nobody uses; others are opened when they are needed."""
        while self._idle:
            self._idle.pop().close()

    # --- What exports need ---

    async def authorise(self, principal: Principal) -> Authorisation:
        """Whoever has the scopes may export all there is."""
        del principal
        return Authorisation(frozenset(type_ for (type_,) in await asyncio.to_thread(self._rows, _TYPES)))

    async def now(self) -> Instant:
        """The clock of the storage: never behind what it gave to a write or a cut (`SupportsSnapshot`)."""
        ((last,),) = await asyncio.to_thread(self._rows, sql.SQL("SELECT last FROM clock"))
        return Instant(max(_machine(), last))

    async def cut(self, precision: Precision) -> Instant:
        """Wait for writers, and let no later one have an instant up to the cut (`SupportsSnapshot`)."""
        with self._connection() as connection, connection.transaction():
            ((last,),) = connection.execute("SELECT last FROM clock FOR UPDATE").fetchall()
            found = floor(Instant(max(_machine(), last)), precision)
            connection.execute("UPDATE clock SET last = greatest(last, %s)", (found,))
        return found

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in the order in which they were written (`SupportsExport`)."""
        with closing(self._pages(query, after)) as pages:
            for page in pages:
                yield page

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The newest version as of the cut says that it was deleted (`SupportsDeletions`)."""
        while rows := self._rows(sql.SQL("{} LIMIT {}").format(self._select("id", query, after, deleted=True), _DELETIONS)):
            after = str(rows[-1][0])
            yield Deletions(tuple(f"{query.type}/{id_}" for _, id_ in rows), after)

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Parts of the sequence with as many versions each; a sample says how large those are (`SupportsSlices`)."""
        ((count, size),) = self._rows(_SIZE.format(selected=self._select("json", query, None, deleted=False, order="")))
        if not count:
            return ()
        first, last = self._span(query, None)
        several = max(1, min(count, round(count * float(size) / target_bytes)))
        edges = [first + (last - first) * number // several for number in range(several)] + [last]
        return [Range(f"{low}-{high}", count // several) for low, high in pairwise(edges)]

    # --- What the host's own routes do ---

    async def put(self, *resources: str) -> None:
        """Write resources in one transaction."""
        drafts = [canonical_and_content(resource) for resource in resources]
        with self._connection() as connection, connection.transaction():
            instant = _begin(connection)
            for form, content in drafts:
                number = _supersede(connection, form.type, form.id, instant) + 1
                row = (form.type, form.id, number, instant, False, form.text(number, instant).decode())
                _insert(connection, row, self._compartments.of(content))

    async def delete(self, type_: str, id_: str) -> None:
        """Say that a resource is deleted, and whose it was, so that the exports of that patient tell it (law 27)."""
        with self._connection() as connection, connection.transaction():
            instant = _begin(connection)
            current = connection.execute(_CURRENT, (type_, id_)).fetchone()
            if current is not None:
                owners = frozenset(owner for (owner,) in connection.execute(_OWNERS, (current[0],)))
                number = _supersede(connection, type_, id_, instant) + 1
                _insert(connection, (type_, id_, number, instant, True, ""), owners)

    # --- How ---

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """A connection of one's own: several read at a time, and some leave off half-way."""
        connection = self._idle.pop() if self._idle else psycopg.connect(self._dsn, autocommit=True)
        try:
            yield connection
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    def _rows(self, query: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(query).fetchall()

    def _span(self, query: Query, after: str | None) -> tuple[int, int]:
        """Between which numbers the versions of a query lie: first exclusive, last inclusive."""
        first, last = 0, _FOR_EVER
        if query.range:
            first, last = map(int, query.range.split("-"))
        if after is not None:
            first = max(first, int(after))
        ends = [instant for instant in (query.window.until, query.as_of) if instant is not None]
        if query.window.since is not None:
            first = max(first, self._last_until(query.type, query.window.since))
        if ends:
            last = min(last, self._last_until(query.type, Instant(min(ends))))
        return first, max(first, last)

    def _last_until(self, type_: str, instant: Instant) -> int:
        found = self._rows(_LAST_UNTIL.format(type=type_, instant=instant))
        return found[0][0] if found else 0

    def _select(
        self, column: str, query: Query, after: str | None, *, deleted: bool, order: LiteralString = "ORDER BY seq"
    ) -> sql.Composed:
        first, last = self._span(query, after)
        where: sql.Composable = sql.SQL("")
        match query.rows.selection:
            case EveryPatient():
                where = sql.SQL("AND in_patient")
            case Compartments(references):
                members = sql.Literal(sorted(references))
                where = _MEMBERS.format(owners=members, type=query.type, first=first, last=last)
        return _SELECT.format(
            column=sql.Identifier(column),
            type=query.type,
            first=first,
            last=last,
            as_of=_FOR_EVER - 1 if query.as_of is None else query.as_of,
            deleted=deleted,
            where=where,
            order=sql.SQL(order),
        )

    def _pages(self, query: Query, after: str | None) -> Generator[Page]:
        """One binary COPY for all that is left: the server sends rows as they lie, and nothing has to be unescaped."""
        select = self._select("json", query, after, deleted=False)
        lines: list[bytes] = []
        size, last = 0, memoryview(b"")
        with self._connection() as connection, connection.cursor() as cursor, cursor.copy(_COPY.format(select)) as rows:
            for number, sent in enumerate(rows):
                row = memoryview(sent)[0 if number else _HEADER :]
                if len(row) < _BEFORE_TEXT:  # the end is told in two bytes
                    break
                line = bytes(row[_BEFORE_TEXT:])
                if lines and size + len(line) + 1 > query.page_bytes:
                    yield _page(lines, last)
                    lines, size = [], 0
                lines.append(line)
                size += len(line) + 1
                last = row
        if lines:
            yield _page(lines, last)


def _page(lines: list[bytes], last: memoryview) -> Page:
    return Page(b"\n".join((*lines, b"")), len(lines), str(int.from_bytes(last[_BEFORE_SEQ : _BEFORE_SEQ + 8])))


def _machine() -> Instant:
    return Instant(time.time_ns() // 1_000)


def _begin(connection: _Connection) -> Instant:
    """The instant of this transaction, later than any that was given; nobody else writes until it ends."""
    ((last,),) = connection.execute("UPDATE clock SET last = greatest(last + 1, %s) RETURNING last", (_machine(),)).fetchall()
    return Instant(last)


def _supersede(connection: _Connection, type_: str, id_: str, instant: Instant) -> int:
    """End the current version; its number, 0 if there is none."""
    ended = connection.execute(_SUPERSEDE, (instant, type_, id_)).fetchone()
    return 0 if ended is None else int(ended[0])


def _insert(connection: _Connection, row: tuple[object, ...], owners: frozenset[str]) -> None:
    ((seq,),) = connection.execute(_INSERT, (*row, bool(owners))).fetchall()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO compartment VALUES (%s, %s, %s)", [(owner, row[0], seq) for owner in sorted(owners)])


_TYPES = sql.SQL(
    "WITH RECURSIVE found AS (SELECT min(type) AS type FROM version UNION ALL"
    " SELECT (SELECT min(type) FROM version WHERE type > found.type) FROM found WHERE type IS NOT NULL)"
    " SELECT type FROM found WHERE type IS NOT NULL"
)
_SIZE = sql.SQL(
    "SELECT count(*), (SELECT avg(octet_length(json)) FROM ({selected} LIMIT 200) AS sample) FROM ({selected}) AS found"
)
_CURRENT = "SELECT seq FROM version WHERE type = %s AND id = %s AND valid_to = 9223372036854775807 AND NOT deleted"
_OWNERS = "SELECT owner FROM compartment WHERE seq = %s"
_SUPERSEDE = (
    "UPDATE version SET valid_to = %s - 1 WHERE type = %s AND id = %s AND valid_to = 9223372036854775807 RETURNING number"
)
_INSERT = (
    "INSERT INTO version (type, id, number, last_updated, deleted, json, in_patient) VALUES (%s, %s, %s, %s, %s, %s, %s)"
    " RETURNING seq"
)
_LAST_UNTIL = sql.SQL(
    "SELECT seq FROM version WHERE type = {type} AND last_updated <= {instant} ORDER BY last_updated DESC, seq DESC LIMIT 1"
)
_SELECT = sql.SQL(
    "SELECT seq, {column} FROM version WHERE type = {type} AND seq > {first} AND seq <= {last}"
    " AND valid_to >= {as_of} AND deleted = {deleted} {where} {order}"
)
_MEMBERS = sql.SQL(
    "AND seq IN (SELECT seq FROM compartment"
    " WHERE owner = ANY({owners}::text[]) AND type = {type} AND seq > {first} AND seq <= {last})"
)
_COPY = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)")
