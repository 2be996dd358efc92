"""Removes versions of resources in SQLite that were superseded or deleted long ago."""

import json
import sqlite3

from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite import resource_postings
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT

__all__ = ["remove"]

_BATCH = 10_000

_TEXTS = "SELECT seq, json FROM resource WHERE deleted = 0 AND seq IN (SELECT seq FROM temp.forgotten)"

# Versions that were superseded by then, found by an index, and resources that were deleted by then.
_FORGOTTEN = f"""
    SELECT seq FROM resource WHERE valid_to < {CURRENT} AND valid_to <= :until
    UNION ALL
    SELECT seq FROM resource WHERE deleted = 1 AND valid_to = {CURRENT} AND last_updated <= :until
    LIMIT {_BATCH}
"""  # noqa: S608 - numbers of ours only


def remove(connection: sqlite3.Connection, until: Instant, parameters: ParameterIndex) -> int:
    """Remove one batch of versions that were superseded or deleted by an instant; returns how many."""
    found = connection.execute(_FORGOTTEN, {"until": until}).fetchall()
    if found:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS forgotten (seq INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM temp.forgotten")
        connection.executemany("INSERT INTO temp.forgotten VALUES (?)", found)
        texts = connection.execute(_TEXTS)
        resource_postings.remove(connection, ((seq, parameters.keys(json.loads(text))) for seq, text in texts))
        for table in ("compartment", "target", "naming", "resource"):
            connection.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM temp.forgotten)")  # noqa: S608 - names of ours
    return len(found)
