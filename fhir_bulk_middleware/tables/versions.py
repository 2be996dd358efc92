"""`VersionedTables`: tables of versions, which can be read as of an instant."""

from collections.abc import AsyncIterator, Iterable

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncEngine

from fhir_bulk_middleware.contract.query import Deletions, Everything, Query, Selection
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.tables.clock import WriteClock
from fhir_bulk_middleware.tables.columns import bound, instant_of
from fhir_bulk_middleware.tables.conditions import changed, living, selected, within
from fhir_bulk_middleware.tables.mapping import ResourceTable
from fhir_bulk_middleware.tables.storage import TableStorage, deletion_pages
from fhir_bulk_middleware.tables.transactions import writing

__all__ = ["VersionedTables"]


class VersionedTables(TableStorage):
    """`TableStorage` with `SupportsSnapshot`, `SupportsDeletions` and `SupportsLeft`, over tables that keep all versions.

    Args:
        engine: the database.
        tables: one for each type, each with a `history`. Versions of a resource do not overlap.
        clock: the clock of all writers.

    Raises:
        TypeError: a table has no history.
    """

    def __init__(self, engine: AsyncEngine, tables: Iterable[ResourceTable], clock: WriteClock) -> None:
        super().__init__(engine, tables)
        self._clock = clock
        for table in self._tables.values():
            if table.history is None:
                raise TypeError(f"{table.type}: VersionedTables needs the history of each table")

    async def now(self) -> Instant:
        """See `SupportsSnapshot`."""
        return await self._clock.now(self._reads)

    async def cut(self, precision: Precision) -> Instant:
        """See `SupportsSnapshot`."""
        async with writing(self.engine) as connection:
            await self._clock.lock_out_writers(connection)
            written = 0
            for table in self._tables.values():
                last = (await connection.execute(select(func.max(table.last_updated)))).scalar()
                written = max(written, 0 if last is None else instant_of(last))
            return await self._clock.cut(connection, precision, Instant(written))

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """See `SupportsDeletions`. Whose a resource was is known by the versions that it lived as since the window began."""
        table = self._tables.get(query.type)
        if table is None or table.history is None:
            return
        found = [table.history.deleted, changed(table, query.as_of), within(table.last_updated, query.window)]
        if not isinstance(query.selection, Everything):
            until, lived = table.history.until, not_(table.history.deleted)
            if query.window.since is not None:
                lived = and_(lived, or_(until.is_(None), until > bound(until, query.window.since)))
            if query.as_of is not None:
                lived = and_(lived, table.last_updated <= bound(table.last_updated, query.as_of))
            found.append(self._some_version(table, and_(lived, until > table.last_updated), query.selection))
        async for page in deletion_pages(self, table, and_(*found, self.allowed(table, query.rights)), after):
            yield page

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """See `SupportsLeft`."""
        table = self._tables.get(query.type)
        if table is None or query.window.since is None:
            return
        found = and_(
            living(table, query.as_of),
            within(table.last_updated, query.window),
            not_(func.coalesce(selected(table, query.selection, self._dialect), false())),  # NULL is no patient
            self._some_version(table, living(table, query.window.since), query.selection),
            self.allowed(table, query.rights),
        )
        async for page in deletion_pages(self, table, found, after):
            yield page

    def _some_version(self, table: ResourceTable, condition: ColumnElement[bool], selection: Selection) -> ColumnElement[bool]:
        """Whether some version of the resource meets a condition and lies in a selection."""
        versions = table.rows.with_only_columns(table.id, maintain_column_froms=True)
        mine = and_(true(), condition, selected(table, selection, self._dialect))
        return table.id.in_(versions.where(mine).correlate(None))
