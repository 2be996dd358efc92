"""`TableStorage`: reads tables for exports. `MarkedDeletions` adds the deletions that are marked in the rows."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, and_, exists, func, literal, or_, select, true, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.paging import PageMaker
from fhir_bulk_middleware.contract.query import (
    Authorisation,
    Compartments,
    Deletions,
    Page,
    Query,
    Range,
    Window,
)
from fhir_bulk_middleware.contract.removal import Current
from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.tables.columns import instant_of, key_of, one_of
from fhir_bulk_middleware.tables.conditions import changed, living, selected, within
from fhir_bulk_middleware.tables.criteria import narrowed
from fhir_bulk_middleware.tables.declaration import check_declaration
from fhir_bulk_middleware.tables.mapping import ResourceTable

__all__ = ["MarkedDeletions", "TableStorage", "current_of"]

_ROWS = 500
"""Rows of one statement."""
_SAMPLE = 200
"""Resources whose size is taken for the size of all, when a type is divided."""
_DELETIONS = 1_000
_ADDED = ("_fhir_id", "_fhir_last_updated", "_fhir_version")

_Condition = ColumnElement[bool]


class TableStorage(ABC):
    """An adapter over tables for exports.

    It is a `SupportsExport`, `SupportsSlices`, `SupportsChangedTypes`, `SupportsContext`, `SupportsPatients`, `SupportsRead` and
    `SupportsTypes`. A subclass adds `authorise`, and `recipe` to export in worker processes. Rows are read in the order of their
    ids, in short statements: a row that changes while it is exported comes once, however many statements read the table.

    Args:
        engine: the database. Its connections are used for short reads without a transaction.
        tables: one for each type.

    Raises:
        TypeError: a time is no instant, or a search column does not suit its parameter.
        ValueError: there is no search parameter of such a name.
    """

    def __init__(self, engine: AsyncEngine, tables: Iterable[ResourceTable]) -> None:
        self.engine = engine
        self._reads = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._tables = {table.type: table for table in tables}
        for table in self._tables.values():
            check_declaration(table)

    @abstractmethod
    async def authorise(self, principal: Principal) -> Authorisation:
        """See `SupportsExport`."""

    def allowed(self, table: ResourceTable, rights: str) -> _Condition:  # noqa: ARG002 - for subclasses
        """Which rows the rights of `authorise` and `deletable` mean; all, unless a subclass says otherwise."""
        return true()

    def exportable_types(self) -> frozenset[str]:
        """See `SupportsTypes`."""
        return frozenset(self._tables)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """See `SupportsExport`."""
        table = self._tables[query.type]
        pages = PageMaker(query.page_bytes)
        async for row in self._read(table, self._statement(table, query), after):
            if (page := pages.add(_line(table, row), _id(row))) is not None:
                yield page
        if (page := pages.last()) is not None:
            yield page

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """See `SupportsSlices`: ranges of ids with about as many rows each."""
        table = self._tables[query.type]
        statement = self._statement(table, query)
        sample = await self._rows(statement.order_by(table.id).limit(_SAMPLE))
        if not sample:
            return ()
        size = sum(len(_line(table, row)) + 1 for row in sample) / len(sample)
        ids = statement.with_only_columns(table.id.label("id"), func.row_number().over(order_by=table.id).label("place"))
        numbered = ids.subquery()
        count = len(sample)
        if count == _SAMPLE:
            ((count,),) = await self._rows(select(func.count()).select_from(numbered))
        step = max(1, round(target_bytes / size))
        edges: list[str | None] = [None]
        if count > step:
            inner = select(numbered.c.id).where(numbered.c.place % step == 0, numbered.c.place < count).order_by(numbered.c.id)
            edges += [str(id_) for (id_,) in await self._rows(inner)]
        edges.append(None)
        last = count - step * (len(edges) - 2)
        estimates = [*[step] * (len(edges) - 2), last]
        return [Range(json.dumps(edge), estimate) for edge, estimate in zip(pairwise(edges), estimates, strict=True)]

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002 - a type of which something was written later may be named
        rights: str,  # noqa: ARG002 - a type that somebody else changed may be named
    ) -> frozenset[str]:
        """See `SupportsChangedTypes`. One statement; rows of all versions and marked ones count."""
        found = [self._tables[type_] for type_ in sorted(types & self._tables.keys())]
        if not found:
            return frozenset()
        each = [select(literal(table.type)).where(exists(_written(table, window))) for table in found]
        return frozenset(type_ for (type_,) in await self._rows(union_all(*each)))

    async def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        """See `SupportsContext`."""
        table = self._tables.get(query.type)
        if table is None:
            return
        rows = await self._rows(self._statement(table, query).where(one_of(table.id, ids, self._dialect)))
        found = {_id(row): row for row in rows}
        pages = PageMaker(query.page_bytes)
        for id_ in ids:
            if id_ in found and (page := pages.add(_line(table, found[id_]), id_)) is not None:
                yield page
        if (page := pages.last()) is not None:
            yield page

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:
        """See `SupportsPatients`."""
        table = self._tables["Patient"]
        rights = (await self.authorise(principal)).rights
        mine = and_(living(table), selected(table, Compartments(references), self._dialect), self.allowed(table, rights))
        return frozenset(f"Patient/{id_}" for (id_,) in await self._rows(_only(table, mine)))

    async def current(self, type_: str, id_: str) -> Current | None:
        """See `SupportsRead`."""
        table = self._tables.get(type_)
        if table is None:
            return None
        async with self._reads.connect() as connection:
            return await current_of(connection, table, id_)

    @property
    def _dialect(self) -> str:
        return self.engine.dialect.name

    def _statement(self, table: ResourceTable, query: Query) -> Select[Any]:
        """The rows of a query, in no order."""
        return self._keyed(
            table,
            living(table, query.as_of),
            within(table.last_updated, query.window),
            selected(table, query.selection, self._dialect),
            self.allowed(table, query.rights),
            narrowed(table, query.filters, self._dialect),
            _range(table, query.range),
        )

    def _keyed(self, table: ResourceTable, *conditions: _Condition) -> Select[Any]:
        """The rows that meet conditions, with their keys."""
        return _with_key(table).where(*conditions)

    async def _read(
        self, table: ResourceTable, statement: Select[Any], after: str | None, connection: AsyncConnection | None = None
    ) -> AsyncIterator[Any]:
        """The rows of a statement by their ids, from behind an id.

        Args:
            table: the type's table.
            statement: the rows, in no order.
            after: the id; None from the start.
            connection: of a transaction to read in; None for none.

        Raises:
            ValueError: a resource has several rows.
        """
        last = after
        while True:
            behind = true() if last is None else table.id > key_of(table.id, last)
            rows = await self._rows(statement.where(behind).order_by(table.id).limit(_ROWS + 1), connection)
            twice = next((_id(row) for row, following in pairwise(rows) if _id(row) == _id(following)), None)
            if twice is not None:
                raise ValueError(
                    f"{table.type}/{twice} has several rows: a table that `rows` joins has several for one resource."
                    " Aggregate them in a subquery, and give links to patients as Link"
                )
            for row in rows[:_ROWS]:
                yield row
            if len(rows) <= _ROWS:
                return
            last = _id(rows[_ROWS - 1])

    async def _rows(self, statement: Executable, connection: AsyncConnection | None = None) -> Sequence[Any]:
        if connection is None:
            async with self._reads.connect() as reading:
                return await self._rows(statement, reading)
        rows: Sequence[Any] = (await connection.execute(statement)).all()
        return rows


def _written(table: ResourceTable, window: Window) -> Select[Any]:
    """The rows that were written within a window, or marked as deleted."""
    times = [time for time in (table.last_updated, table.deleted_at) if time is not None]
    return table.rows.with_only_columns(literal(1), maintain_column_froms=True).where(
        or_(*(within(time, window) for time in times))
    )


class MarkedDeletions(TableStorage):
    """`TableStorage` with `SupportsDeletions`: rows that are marked as deleted (`ResourceTable.deleted_at`) and stay.

    A deletion is told to the patients whose the row was when it was deleted.

    Raises:
        TypeError: a table has no mark.
    """

    def __init__(self, engine: AsyncEngine, tables: Iterable[ResourceTable]) -> None:
        super().__init__(engine, tables)
        for table in self._tables.values():
            if table.deleted_at is None:
                raise TypeError(f"{table.type}: MarkedDeletions needs the column deleted_at of each table")

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """See `SupportsDeletions`."""
        table = self._tables.get(query.type)
        if table is None or table.deleted_at is None:
            return
        found = and_(
            table.deleted_at.is_not(None),
            within(table.deleted_at, query.window),
            selected(table, query.selection, self._dialect),
            self.allowed(table, query.rights),
        )
        async for page in deletion_pages(self, table, found, after):
            yield page


async def deletion_pages(
    storage: TableStorage, table: ResourceTable, condition: _Condition, after: str | None
) -> AsyncIterator[Deletions]:
    """The references of the rows that meet a condition, by their ids, from behind an id."""
    last = after
    while True:
        behind = true() if last is None else table.id > key_of(table.id, last)
        rows = await storage._rows(_only(table, and_(condition, behind)).order_by(table.id).limit(_DELETIONS))  # noqa: SLF001
        if rows:
            last = str(rows[-1][0])
            yield Deletions(tuple(f"{table.type}/{id_}" for (id_,) in rows), last)
        if len(rows) < _DELETIONS:
            return


async def current_of(
    connection: AsyncConnection, table: ResourceTable, id_: str, condition: _Condition | None = None, *, lock: bool = False
) -> Current | None:
    """A resource as it is now, or its deletion if that is known; None if there is none that meets the condition.

    PostgreSQL finds no row if a writer ended the version while the statement waited for its lock, though there is a next version
    by then: so it is looked for again.

    Args:
        connection: the database.
        table: the type's table.
        id_: the logical id.
        condition: which rows count; None for all.
        lock: lock the row until the transaction ends, where the database can.
    """
    key = key_of(table.id, id_)
    if key is None:
        return None
    mine = and_(table.id == key, true() if condition is None else condition)
    statement = _with_key(table).where(living(table), mine)
    if lock:
        statement = statement.with_for_update(of=list(table.id._from_objects))  # noqa: SLF001 - of the table, not of joined ones
    known = _only(table, and_(mine, changed(table, None))).limit(1)
    while True:
        row = (await connection.execute(statement)).one_or_none()
        if row is not None:
            return to_current(table, row)
        deletion = await _deletion_of(connection, table, id_, mine)
        if deletion is not None or not lock or (await connection.execute(known)).first() is None:
            return deletion


async def _deletion_of(connection: AsyncConnection, table: ResourceTable, id_: str, mine: _Condition) -> Current | None:
    """The deletion of a resource, with the version that was removed by it."""
    at = table.deleted_at if table.history is None else table.last_updated
    if at is None:
        return None
    deleted = at.is_not(None) if table.history is None else table.history.deleted
    marked = _only(table, and_(mine, changed(table, None), deleted)).add_columns(at, _version(table))
    gone: Any = (await connection.execute(marked)).one_or_none()
    if gone is None:
        return None
    version = gone[2]
    if table.history is not None:
        lived = and_(mine, ~table.history.deleted)
        last = _only(table, lived).add_columns(_version(table)).order_by(table.last_updated.desc()).limit(1)
        _, version = (await connection.execute(last)).one()
    return Current(type=table.type, id=id_, version=_shown(version), last_updated=instant_of(gone[1]), json=b"", deleted=True)


def to_current(table: ResourceTable, row: Any) -> Current:
    """A row as a version of a resource."""
    line = _line(table, row)  # names the row if it has no instant
    return Current(type=table.type, id=_id(row), version=_shown(row[-1]), last_updated=instant_of(row[-2]), json=line)


def _version(table: ResourceTable) -> ColumnElement[Any]:
    return table.last_updated if table.version is None else table.version


def _with_key(table: ResourceTable) -> Select[Any]:
    """The rows, each with id, instant and version behind what the host selects."""
    added = zip((table.id, table.last_updated, _version(table)), _ADDED, strict=True)
    return table.rows.add_columns(*(column.label(name) for column, name in added))


def _only(table: ResourceTable, condition: _Condition) -> Select[Any]:
    """The ids of rows, of the same tables and under the same conditions as the host's."""
    return table.rows.with_only_columns(table.id, maintain_column_froms=True).where(condition)


def _range(table: ResourceTable, text: str) -> _Condition:
    if not text:
        return true()
    low, high = (None if edge is None else key_of(table.id, edge) for edge in json.loads(text))
    return and_(true() if low is None else table.id > low, true() if high is None else table.id <= high)


def _id(row: Any) -> str:
    return str(row[-3])


def _shown(version: object) -> str:
    """A version as `meta.versionId`."""
    return str(version) if isinstance(version, int | str) else str(instant_of(version))


def _line(table: ResourceTable, row: Any) -> bytes:
    """A row as canonical text. An exception gets a note that names the resource, since only one row of many may be at fault.

    Raises:
        TypeError: the row has no `last_updated`.
        ValueError: the mapper made no resource of the type.
    """
    try:
        form = canonical(table.resource(row), resource_id=_id(row))
        if form.type != table.type:
            raise ValueError(f"the resource that was made of a row of {table.type} is a {form.type}")
        return form.text(_shown(row[-1]), instant_of(row[-2]))
    except Exception as error:  # whatever the host's mapper raises; it goes on
        error.add_note(f"The row of {table.type}/{_id(row)} cannot be made a resource")
        raise
