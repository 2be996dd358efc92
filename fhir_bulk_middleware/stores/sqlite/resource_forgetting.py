"""Forgetting what was superseded or deleted long ago: `SupportsDeletionHorizon` for resources in SQLite."""

import sqlite3

from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT

__all__ = ["announce", "forget", "horizon"]

_BATCH = 10_000

# What was superseded by then, which an index finds, and what was deleted by then.
_FORGOTTEN = f"""
    SELECT seq FROM resource WHERE valid_to < {CURRENT} AND valid_to <= :until
    UNION ALL
    SELECT seq FROM resource WHERE deleted = 1 AND valid_to = {CURRENT} AND last_updated <= :until
    LIMIT {_BATCH}
"""  # noqa: S608 - numbers of ours only


def horizon(connection: sqlite3.Connection) -> Instant | None:
    """Since when all deletions are known, None if none was forgotten."""
    row = connection.execute("SELECT since FROM horizon").fetchone()
    return None if row is None else Instant(row[0])


def announce(connection: sqlite3.Connection, before: Instant) -> None:
    """Say that deletions up to an instant may be forgotten; a horizon never goes back."""
    connection.execute(
        "INSERT INTO horizon VALUES (1, ?) ON CONFLICT DO UPDATE SET since = max(since, excluded.since)", (before,)
    )


def forget(connection: sqlite3.Connection, before: Instant, grace: float) -> int:
    """Remove some of what was superseded or deleted `grace` seconds before an instant; how many versions it was."""
    found = connection.execute(_FORGOTTEN, {"until": after(before, -grace)}).fetchall()
    if found:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS forgotten (seq INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM temp.forgotten")
        connection.executemany("INSERT INTO temp.forgotten VALUES (?)", found)
        for table in ("compartment", "target", "resource"):
            connection.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM temp.forgotten)")  # noqa: S608 - names of ours
    return len(found)
