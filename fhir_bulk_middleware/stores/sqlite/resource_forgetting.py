"""Removes versions of resources in SQLite that were superseded or deleted long ago."""

import sqlite3

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT

__all__ = ["remove"]

_BATCH = 10_000

# Versions that were superseded by then, found by an index, and resources that were deleted by then.
_FORGOTTEN = f"""
    SELECT seq FROM resource WHERE valid_to < {CURRENT} AND valid_to <= :until
    UNION ALL
    SELECT seq FROM resource WHERE deleted = 1 AND valid_to = {CURRENT} AND last_updated <= :until
    LIMIT {_BATCH}
"""  # noqa: S608 - numbers of ours only


def remove(connection: sqlite3.Connection, until: Instant) -> int:
    """Remove one batch of versions that were superseded or deleted by an instant; returns how many."""
    found = connection.execute(_FORGOTTEN, {"until": until}).fetchall()
    if found:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS forgotten (seq INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM temp.forgotten")
        connection.executemany("INSERT INTO temp.forgotten VALUES (?)", found)
        for table in ("compartment", "target", "naming", "resource"):
            connection.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM temp.forgotten)")  # noqa: S608 - names of ours
    return len(found)
