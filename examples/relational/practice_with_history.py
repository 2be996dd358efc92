"""The same practice with tables of versions: exports as of one instant, deletions, and chains by `_since` without a gap.

Run it: `DATABASE_URL=postgresql+psycopg://... uvicorn --factory relational.practice_with_history:app`.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Boolean, Column, DateTime, Index, Integer, MetaData, RowMapping, String, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from fhir_bulk_middleware import (
    Authorisation,
    Current,
    Instant,
    JoseTokenVerifier,
    Principal,
    Recipe,
    from_datetime,
    to_datetime,
)
from fhir_bulk_middleware.tables import History, ResourceTable, TableDeletes, VersionedTables, WriteClock
from relational import practice

# --- The tables: a row for each version, a deletion is a version too ---------------------------------------------------------

metadata = MetaData()
clock = WriteClock(metadata)


def versions_of(current: Table) -> Table:
    """The table of versions with the columns of a table of the practice."""
    own = [Column(column.name, column.type, index=column.index) for column in current.c if column.name not in _OF_A_VERSION]
    return Table(
        current.name,
        metadata,
        Column("key", Integer, primary_key=True),
        Column("id", String(64), nullable=False),
        Column("version", Integer, nullable=False),
        Column("updated", DateTime(timezone=True), nullable=False, index=True),
        Column("until", DateTime(timezone=True), index=True),
        Column("deleted", Boolean, nullable=False),
        *own,
        Index(f"{current.name}_version", "id", "version", unique=True),
    )


_OF_A_VERSION = {"id", "version", "updated", "deleted"}


def described(table: ResourceTable) -> ResourceTable:
    """What the practice says of a table, of the table of versions."""
    source = versions_of(practice.metadata.tables[table.type.lower()])
    columns = source.c
    return ResourceTable(
        type=table.type,
        rows=select(source),
        id=columns.id,
        version=columns.version,
        last_updated=columns.updated,
        history=History(until=columns.until, deleted=columns.deleted),
        patients=[columns[path.name] for path in table.patients if isinstance(path, Column)],
        resource=table.resource,
    )


TABLES = [described(table) for table in practice.TABLES]

# --- Writing: the next version, stamped by the clock ---------------------------------------------------------------------------


async def write(connection: AsyncConnection, type_: str, id_: str, values: dict[str, Any], *, deleted: bool = False) -> None:
    """End the current version of a resource and write the next one, at an instant of the clock."""
    source, stamp = metadata.tables[type_.lower()], await clock.stamp(connection)
    current, number = await current_of(connection, source, id_), 1
    if current is not None:
        stamp = Instant(max(stamp, from_datetime(practice.aware(current["updated"])) + 1))
        await connection.execute(source.update().where(source.c.key == current["key"]).values(until=to_datetime(stamp)))
        values = {name: values.get(name, value) for name, value in current.items() if name != "key"}
        number += current["version"]
    row = {**values, "id": id_, "version": number, "updated": to_datetime(stamp), "until": None, "deleted": deleted}
    await connection.execute(source.insert().values(row))


async def current_of(connection: AsyncConnection, source: Table, id_: str) -> RowMapping | None:
    """The current version of a resource, locked until the transaction ends; None if it has no version yet.

    PostgreSQL finds no row if another writer ended the version while this one waited for its lock, though there is a next version
    by then: so it is looked for again.
    """
    mine = select(source).where(source.c.id == id_, source.c.until.is_(None)).with_for_update()
    known = select(source.c.key).where(source.c.id == id_).limit(1)
    while True:
        current = (await connection.execute(mine)).mappings().one_or_none()
        if current is not None or (await connection.execute(known)).first() is None:
            return current


async def save(connection: AsyncConnection, resource: dict[str, Any]) -> None:
    """Write a resource."""
    await write(connection, resource["resourceType"], resource["id"], practice.columns_of(resource))


# --- The adapter ---------------------------------------------------------------------------------------------------------------


class PracticeWithHistory(VersionedTables, TableDeletes):
    """The storage adapter."""

    async def authorise(self, principal: Principal) -> Authorisation:
        """Every client may export all types, as far as its scopes go."""
        return Authorisation(self.exportable_types())

    async def deletable(self, principal: Principal) -> Authorisation:
        """Practitioners stay."""
        return Authorisation(self.exportable_types() - {"Practitioner"})

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        """A deletion is the next version."""
        await write(connection, resource.type, resource.id, {}, deleted=True)

    def recipe(self) -> Recipe:
        """Exports run in worker processes."""
        return Recipe(f"{__name__}:practice_with_history", {"url": self.engine.url.render_as_string(hide_password=False)})


def practice_with_history(url: str) -> PracticeWithHistory:
    """The adapter for a database."""
    return PracticeWithHistory(create_async_engine(url), TABLES, clock)


def app() -> FastAPI:
    """For uvicorn."""
    verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
    adapter = practice_with_history(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///history.db"))
    return practice.host(adapter, metadata, save, Path("state"), verifier)
