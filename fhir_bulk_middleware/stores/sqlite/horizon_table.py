"""The deletion horizon of a store in SQLite, and the one order of announcing and removing (`SupportsForgetting`)."""

import sqlite3
from collections.abc import Callable
from functools import partial

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.horizon import Horizon, following
from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["ANNOUNCED", "SCHEMA", "Remove", "forget", "read"]

SCHEMA = "CREATE TABLE horizon (one INTEGER PRIMARY KEY CHECK (one = 1), since INTEGER NOT NULL) STRICT"

ANNOUNCED = f"ALTER TABLE horizon ADD COLUMN announced INTEGER NOT NULL DEFAULT {(1 << 63) - 1}"
"""A horizon that was announced at an unknown instant counts as announced in the future, so it is announced anew."""

Remove = Callable[[sqlite3.Connection, Instant], int]
"""Removes one batch of what ended by an instant, in a write transaction; how much it removed."""


def read(connection: sqlite3.Connection) -> Horizon | None:
    """The horizon that was announced last, None if none was."""
    row = connection.execute("SELECT since, announced FROM horizon").fetchone()
    return None if row is None else Horizon(Instant(row[0]), Instant(row[1]))


async def forget(database: Database, before: Instant, now: Instant, grace: float, remove: Remove) -> int:
    """Remove what lies before a horizon in force, then announce the next one; see `SupportsForgetting.forget`.

    Each step is a transaction of its own. A process that dies between two of them leaves an announced horizon, which is true,
    and the next call goes on. While a horizon waits to be in force, a call is one read.
    """
    horizon = read(database.reader)
    removed = 0
    if horizon is not None and horizon.in_force(now, grace):
        while batch := await database.write(partial(_remove, remove=remove, until=horizon.since)):
            removed += batch
    if following(horizon, before, now, grace) is not None:
        await database.write(partial(_announce, before=before, now=now, grace=grace))
    return removed


def _remove(connection: sqlite3.Connection, remove: Remove, until: Instant) -> int:
    return remove(connection, until)


def _announce(connection: sqlite3.Connection, before: Instant, now: Instant, grace: float) -> None:
    if (horizon := following(read(connection), before, now, grace)) is not None:
        connection.execute("INSERT OR REPLACE INTO horizon VALUES (1, ?, ?)", (horizon.since, horizon.announced))
