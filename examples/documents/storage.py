"""The storage adapter: FHIR JSON in PostgreSQL as text, every version kept, and exact exports for which no writer waits.

It can be read as of an instant, in slices, by worker processes, and knows what was deleted, so exports chain by `_since` without
losing or doubling a change. `fhir_bulk_middleware.stores.postgres.cut` says why, step by step.
"""

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from psycopg.types.string import ByteaBinaryLoader

from documents.writing import Connection, delete, write
from fhir_bulk_middleware import (
    Authorisation,
    Compartments,
    Deletions,
    EveryPatient,
    FhirVersion,
    Instant,
    Page,
    Principal,
    Query,
    Range,
    Recipe,
    Unfinished,
)
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.stores.postgres.cut import PostgresCuts, Seen

__all__ = ["DocumentStorage"]

_ROWS = 128
"""Rows of one statement: of a usual size they fill half a page."""
_LAST = 2**63 - 1

_NEWEST = SQL("(SELECT max(last_updated) FROM version)")


class DocumentStorage:
    """The storage adapter. Reading blocks, which is right in a worker process; what the server asks for runs in a thread.

    Args:
        dsn: the database, which has `SCHEMA`.
        version: the FHIR release of the resources, which defines the compartments.
        patience: for how many seconds an export waits for writers that are under way when it begins.
    """

    def __init__(self, dsn: str, version: str = FhirVersion.R4, patience: float = 5.0) -> None:
        self._dsn = dsn
        self._version = FhirVersion(version)
        self._patience = patience
        self.compartments = CompartmentMembership(self._version)
        self.cuts = PostgresCuts(self.connection, newest=_NEWEST, patience=patience)
        self._idle: list[Connection] = []

    def recipe(self) -> Recipe:
        """How a worker process makes this again (`SupportsWorkerProcess`)."""
        arguments = {"dsn": self._dsn, "version": self._version.value, "patience": self._patience}
        return Recipe(f"{__name__}:DocumentStorage", arguments)

    def close(self) -> None:
        """Close the connections that nobody uses; others are opened when they are needed."""
        while self._idle:
            self._idle.pop().close()

    # --- What exports need ---

    async def authorise(self, principal: Principal) -> Authorisation:
        """Every caller with the scopes may export all types of the release.

        Not only those of which there is something now: what is first written before the cut belongs to this export (law 33).
        """
        return Authorisation(definitions(self._version).resource_types)

    async def now(self) -> Instant:
        """The clock of the storage (`SupportsSnapshot`)."""
        return await self.cuts.now()

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut, beside any number of writers (`SupportsSnapshot`)."""
        return await self.cuts.cut(precision)

    async def unfinished(self, cut: Instant) -> Unfinished | None:
        """The transactions that a cut did not wait for (`SupportsUnfinished`)."""
        return await self.cuts.unfinished(cut)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in the order of their sequence numbers (`SupportsExport`)."""
        with closing(self._versions("json", query, after, deleted=False)) as versions:
            for page in _paged(versions, query.page_bytes):
                yield page

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """Resources whose newest version as of the cut says that they are deleted (`SupportsDeletions`).

        Whose they were is said by the versions that lived since the window began, for a resource may have moved (law 34).
        """
        with closing(self._versions("id", query, after, deleted=True)) as versions:
            for rows in versions:
                yield Deletions(tuple(f"{query.type}/{id_.decode()}" for _, id_ in rows), str(rows[-1][0]))

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Ranges of sequence numbers with about as many versions each; a sample says how large those are (`SupportsSlices`)."""
        found = self._found(query, None, deleted=False)
        sizes = SQL("SELECT avg(octet_length(json)) FROM (SELECT json {} LIMIT 200) AS sample").format(found)
        with self.connection() as connection:
            ((count, first, last),) = connection.execute(SQL("SELECT count(*), min(seq), max(seq) {}").format(found)).fetchall()
            if not count:
                return ()
            ((size,),) = connection.execute(sizes).fetchall()
        several = max(1, min(count, round(count * float(size) / target_bytes)))
        edges = [first - 1 + (last - first + 1) * number // several for number in range(several + 1)]
        return [Range(f"{low}-{high}", count // several) for low, high in pairwise(edges)]

    # --- What the host's own routes do ---

    def write(self, *resources: str | bytes) -> None:
        """Write resources in one transaction; again, if another one creates one of them at the same time."""
        while True:
            try:
                with self.connection() as connection, connection.transaction():
                    return write(connection, resources, self.compartments)
            except psycopg.errors.UniqueViolation:
                continue

    def delete(self, type_: str, id_: str) -> bool:
        """Delete a resource; False if there is none."""
        with self.connection() as connection, connection.transaction():
            return delete(connection, type_, id_)

    def read(self, type_: str, id_: str) -> bytes | None:
        """A resource as it is now; None if there is none."""
        statement = "SELECT json, deleted FROM version WHERE type = %s AND id = %s ORDER BY number DESC LIMIT 1"
        with self.connection() as connection:
            row = connection.execute(statement, (type_, id_)).fetchone()
        return None if row is None or row[1] else str(row[0]).encode()

    # --- How ---

    @contextmanager
    def connection(self) -> Iterator[Connection]:
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

    def _versions(self, column: str, query: Query, after: str | None, *, deleted: bool) -> Generator[list[tuple[int, bytes]]]:
        """Versions with their sequence numbers, some at a time: short statements, which hold back no vacuum."""
        found = self._found(query, after, deleted=deleted)
        statement = SQL("SELECT seq, {} {} AND seq > %s ORDER BY seq LIMIT {}").format(Identifier(column), found, Literal(_ROWS))
        seq = 0
        with self.connection() as connection, connection.cursor(binary=True) as cursor:
            cursor.adapters.register_loader("text", ByteaBinaryLoader)  # text as the bytes that it is
            while rows := cursor.execute(statement, (seq,), prepare=True).fetchall():
                yield rows
                seq = rows[-1][0]

    def _found(self, query: Query, after: str | None, *, deleted: bool) -> Composed:
        """The versions of a query, as a statement from its FROM on."""
        window = query.window
        low, high = map(int, query.range.split("-")) if query.range else (0, _LAST)
        conditions: list[Composable] = [
            SQL("type = {}").format(Literal(query.type)),
            SQL("seq > {}").format(Literal(max(low, int(after or 0)))),
            SQL("seq <= {}").format(Literal(high)),
            SQL("deleted" if deleted else "NOT deleted"),
            *self._held(query.as_of),
        ]
        if window.until is not None and window.until != query.as_of:
            conditions.append(self.cuts.seen(window.until).includes(*_WRITTEN))
        since = None if window.since is None else self.cuts.seen(window.since)
        if since is not None:
            conditions.append(since.excludes(*_WRITTEN))
        conditions += _selected_once(query, since) if deleted else _selected(query)
        return SQL("FROM version WHERE {}").format(SQL(" AND ").join(conditions))

    def _held(self, as_of: Instant | None) -> list[Composable]:
        """The conditions that a version is the newest one as of an instant; None for now.

        The next version decides, since a writer locks the version that it supersedes and takes a later stamp: if the next one was
        not visible yet, none after it was.
        """
        if as_of is None:
            return [SQL("ended = 9223372036854775807")]
        seen = self.cuts.as_of(as_of)
        return [seen.includes(*_WRITTEN), SQL("NOT coalesce({}, false)").format(seen.includes(*_ENDED))]


_WRITTEN = (SQL("version.last_updated"), SQL("version.written_by"))
_ENDED = (SQL("version.ended"), SQL("version.ended_by"))


def _selected(query: Query) -> list[Composable]:
    """The condition of a selection."""
    match query.selection:
        case EveryPatient():
            return [SQL("in_patient")]
        case Compartments(references):
            mine = "seq IN (SELECT seq FROM compartment WHERE owner = ANY({}::text[]) AND compartment.type = {})"
            return [SQL(mine).format(Literal(sorted(references)), Literal(query.type))]
    return []


def _selected_once(query: Query, since: Seen | None) -> list[Composable]:
    """The condition that a deleted resource lay in the selection, as a version that lived when the window began or later."""
    lived = SQL("true") if since is None else since.excludes(SQL("former.ended"), SQL("former.ended_by"))
    former = SQL(
        "EXISTS (SELECT 1 FROM version AS former WHERE former.type = version.type AND former.id = version.id"
        " AND former.number < version.number AND NOT former.deleted AND former.ended > former.last_updated AND {} AND {})"
    )
    match query.selection:
        case EveryPatient():
            return [former.format(lived, SQL("former.in_patient"))]
        case Compartments(references):
            mine = "former.seq IN (SELECT seq FROM compartment WHERE owner = ANY({}::text[]) AND compartment.type = {})"
            return [former.format(lived, SQL(mine).format(Literal(sorted(references)), Literal(query.type)))]
    return []


def _paged(versions: Iterator[list[tuple[int, bytes]]], page_bytes: int) -> Iterator[Page]:
    """Pages that each hold as much as they may, so that a cursor decides all that follow it."""
    lines: list[bytes] = []
    size = last = 0
    for rows in versions:
        for seq, line in rows:
            if lines and size + len(line) + 1 > page_bytes:
                yield Page(b"\n".join((*lines, b"")), len(lines), str(last))
                lines, size = [], 0
            lines.append(line)
            size, last = size + len(line) + 1, seq
    if lines:
        yield Page(b"\n".join((*lines, b"")), len(lines), str(last))
