"""A storage adapter for resources in PostgreSQL whose exactness RESTS ON A LOCK THAT EVERY WRITER MUST TAKE: the row `clock`.

A writer that does not take that row, be it a script or an older release of the host, makes changes that no export ever shows, and
nothing reports it. Use this where all writes go through `PostgresStorage.put` and `delete`, or through code that begins as they
do; writers then wait for each other. A storage whose writers cannot do that needs another way to find its cut.

It keeps resources as a host might: every version, with its times.

It can be read as of an instant, in slices, by worker processes, and knows what was deleted: so exports from it chain by `_since`
without losing or doubling a change. Needs `psycopg[binary]`.

What makes that true is the row. A writer takes it first and holds it until the commit, so versions get their numbers and
instants in the order in which they become visible; a cut takes it too, so no writer is under way when an export begins.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.string import ByteaBinaryLoader

from fhir_bulk_middleware import (
    Authorisation,
    Compartments,
    Deletions,
    EveryPatient,
    FhirVersion,
    Page,
    PageMaker,
    Principal,
    Query,
    Range,
    Recipe,
    canonical_and_content,
)
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.instant import Instant, Precision, latest_cut

__all__ = ["SCHEMA", "PostgresStorage"]

_Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = """
CREATE TABLE clock (last bigint NOT NULL);
INSERT INTO clock VALUES (0);
CREATE TABLE version (
    type text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text NOT NULL,
    number integer NOT NULL,
    last_updated bigint NOT NULL,
    valid_to bigint NOT NULL DEFAULT 9223372036854775807,
    deleted boolean NOT NULL,
    in_patient boolean NOT NULL,
    json text NOT NULL,
    PRIMARY KEY (type, seq)
);
CREATE UNIQUE INDEX version_current ON version (type, id) WHERE valid_to = 9223372036854775807;
CREATE INDEX version_history ON version (type, id, seq);
CREATE INDEX version_time ON version (type, last_updated, seq);
CREATE TABLE compartment (
    owner text NOT NULL,
    type text NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (owner, type, seq),
    FOREIGN KEY (type, seq) REFERENCES version
);
CREATE INDEX compartment_version ON compartment (type, seq);
"""
"""Instants are microseconds since 1970. A version holds from `last_updated` until `valid_to`; the current one for ever."""

_FOR_EVER = 2**63 - 1
_ROWS = 128
"""Rows of one statement: of a usual size they fill half a page."""


class PostgresStorage:
    """The storage adapter. Reading blocks, which is right in a worker process; a server asks it for little more than its clock.

    Args:
        dsn: the database.
        version: the FHIR release of the resources, which defines the compartments.
    """

    def __init__(self, dsn: str, version: str = FhirVersion.R4) -> None:
        self._dsn = dsn
        self._version = FhirVersion(version)
        self._compartments = CompartmentMembership(self._version)
        self._idle: list[_Connection] = []

    def recipe(self) -> Recipe:
        """How a worker process makes this again (`SupportsWorkerProcess`)."""
        return Recipe(f"{__name__}:PostgresStorage", {"dsn": self._dsn, "version": self._version.value})

    def close(self) -> None:
        """Close the connections that nobody uses; others are opened when they are needed."""
        while self._idle:
            self._idle.pop().close()

    # --- What exports need ---

    async def authorise(self, principal: Principal) -> Authorisation:
        """Every caller with the scopes may export all types of the release.

        Not only those of which there is something now: what is first written before the cut belongs to this export (law 33).
        """
        del principal
        return Authorisation(definitions(self._version).resource_types)

    async def now(self) -> Instant:
        """The clock of the storage: never behind what it gave to a write or a cut (`SupportsSnapshot`)."""
        ((last,),) = await asyncio.to_thread(self._rows, "SELECT last FROM clock")
        return Instant(max(_machine(), last))

    async def cut(self, precision: Precision) -> Instant:
        """Wait for writers, and let no later one have an instant up to the cut (`SupportsSnapshot`, law 45)."""
        with self._connection() as connection, connection.transaction():
            ((last,),) = connection.execute("SELECT last FROM clock FOR UPDATE").fetchall()
            found = latest_cut(_machine(), last, precision)
            connection.execute("UPDATE clock SET last = greatest(last, %s)", (found,))
        return found

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in the order in which they were written (`SupportsExport`)."""
        with closing(self._versions("json", query, after, deleted=False)) as versions:
            for page in _paged(versions, query.page_bytes):
                yield page

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The newest version as of the cut says that it was deleted (`SupportsDeletions`).

        Whose it was is said by the versions that it lived as since the window began, for it may have moved (law 34).
        """
        with closing(self._versions("id", query, after, deleted=True)) as versions:
            for rows in versions:
                yield Deletions(tuple(f"{query.type}/{id_.decode()}" for _, id_ in rows), str(rows[-1][0]))

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Parts of the sequence with as many versions each; a sample says how large those are (`SupportsSlices`)."""
        found, values = self._found(query, None, deleted=False)
        ((count,),) = self._rows(f"SELECT count(*) {found}", values)
        sample: LiteralString = f"SELECT json {found} LIMIT 200"
        ((size,),) = self._rows(f"SELECT avg(octet_length(json)) FROM ({sample}) AS sample", values)  # noqa: S608 - literals only
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
                owners = frozenset(owner for (owner,) in connection.execute(_OWNERS, (type_, current[0])))
                number = _supersede(connection, type_, id_, instant) + 1
                _insert(connection, (type_, id_, number, instant, True, ""), owners)

    # --- How ---

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """A connection of one's own: several read at a time, and some leave off half-way."""
        try:
            connection = self._idle.pop()  # in one step, for several threads may be here
        except IndexError:
            connection = psycopg.connect(self._dsn, autocommit=True)
        try:
            yield connection
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    def _rows(self, query: LiteralString, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(query, values).fetchall()

    def _versions(
        self, column: LiteralString, query: Query, after: str | None, *, deleted: bool
    ) -> Generator[list[tuple[int, bytes]]]:
        """Versions with their numbers, some at a time: short statements, so that none stands in the way of a vacuum."""
        found, values = self._found(query, after, deleted=deleted)
        statement: LiteralString = f"SELECT seq, {column} {found} AND seq > %s ORDER BY seq LIMIT {_ROWS}"
        seq = 0
        with self._connection() as connection, connection.cursor(binary=True) as cursor:
            cursor.adapters.register_loader("text", ByteaBinaryLoader)  # text as the bytes that it is
            while rows := cursor.execute(statement, (*values, seq), prepare=True).fetchall():
                yield rows
                seq = rows[-1][0]

    def _found(self, query: Query, after: str | None, *, deleted: bool) -> tuple[LiteralString, list[object]]:
        """What a query can hold, as the rest of a statement and its values."""
        first, last = self._span(query, after)
        as_of = _FOR_EVER - 1 if query.as_of is None else query.as_of
        values: list[object] = [query.type, first, last, as_of, deleted]
        if deleted:
            return self._found_deleted(query, values)
        match query.selection:
            case EveryPatient():
                return f"{_FOUND} AND in_patient", values
            case Compartments(references):
                return f"{_FOUND} {_OF_MEMBERS}", [*values, sorted(references), query.type, first, last]
        return _FOUND, values

    def _found_deleted(self, query: Query, values: list[object]) -> tuple[LiteralString, list[object]]:
        since = query.window.since or 0
        match query.selection:
            case EveryPatient():
                return f"{_FOUND} AND EXISTS ({_FORMER} AND former.in_patient)", [*values, since]
            case Compartments(references):
                return f"{_FOUND} AND EXISTS ({_FORMER} AND {_WAS_OF_MEMBERS})", [*values, since, sorted(references)]
        return _FOUND, values

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
        found = self._rows(_LAST_UNTIL, (type_, instant))
        return found[0][0] if found else 0


def _paged(versions: Iterator[list[tuple[int, bytes]]], page_bytes: int) -> Iterator[Page]:
    """Pages of versions; cursors are their numbers."""
    pages = PageMaker(page_bytes)
    for rows in versions:
        for seq, line in rows:
            if (page := pages.add(line, str(seq))) is not None:
                yield page
    if (page := pages.last()) is not None:
        yield page


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


_FOUND = "FROM version WHERE type = %s AND seq > %s AND seq <= %s AND valid_to >= %s AND deleted = %s"
_OF_MEMBERS = "AND seq IN (SELECT seq FROM compartment WHERE owner = ANY(%s::text[]) AND type = %s AND seq > %s AND seq <= %s)"
_FORMER = (
    "SELECT 1 FROM version AS former WHERE former.type = version.type AND former.id = version.id AND former.seq < version.seq"
    " AND NOT former.deleted AND former.valid_to >= greatest(%s, former.last_updated)"
)
_WAS_OF_MEMBERS = (
    "EXISTS (SELECT 1 FROM compartment WHERE compartment.type = former.type AND compartment.seq = former.seq"
    " AND compartment.owner = ANY(%s::text[]))"
)
_CURRENT = "SELECT seq FROM version WHERE type = %s AND id = %s AND valid_to = 9223372036854775807 AND NOT deleted"
_OWNERS = "SELECT owner FROM compartment WHERE type = %s AND seq = %s"
_SUPERSEDE = (
    "UPDATE version SET valid_to = %s - 1 WHERE type = %s AND id = %s AND valid_to = 9223372036854775807 RETURNING number"
)
_INSERT = (
    "INSERT INTO version (type, id, number, last_updated, deleted, json, in_patient) VALUES (%s, %s, %s, %s, %s, %s, %s)"
    " RETURNING seq"
)
_LAST_UNTIL = "SELECT seq FROM version WHERE type = %s AND last_updated <= %s ORDER BY last_updated DESC, seq DESC LIMIT 1"
