"""Reports of removals in SQLite, written in the transaction of the removal and kept until observers know of them (law 37)."""

import json
import sqlite3
from collections.abc import Sequence
from functools import partial

from fhir_bulk_middleware.contract.lease import LEASE_SLACK
from fhir_bulk_middleware.contract.removal import Report
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["SCHEMA", "add", "forget", "unreported"]

SCHEMA = """\
CREATE TABLE report (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    note TEXT NOT NULL,
    at INTEGER NOT NULL,
    type TEXT NOT NULL,
    ids TEXT NOT NULL
) STRICT;
CREATE TABLE teller (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, until INTEGER NOT NULL) STRICT
""".rstrip()
"""`teller` has at most one row: who holds the lease on the oldest reports, and until when."""


def add(connection: sqlite3.Connection, note: str, at: Instant, type_: str, ids: Sequence[str]) -> None:
    """Add a report of what this transaction removes."""
    connection.execute("INSERT INTO report (note, at, type, ids) VALUES (?, ?, ?, ?)", (note, at, type_, json.dumps(ids)))


async def unreported(database: Database, teller: str, now: Instant, lease_seconds: float, limit: int) -> Sequence[Report] | None:
    """See `SupportsOutbox`. Without reports, or while another teller holds the lease, it costs a short read and no write."""
    if database.reader.execute("SELECT 1 FROM report LIMIT 1").fetchone() is None:
        return []
    if _held(database.reader, teller, now, lease_seconds):
        return None
    return await database.write(partial(_take, teller=teller, now=now, lease_seconds=lease_seconds, limit=limit))


def forget(connection: sqlite3.Connection, teller: str, numbers: Sequence[int]) -> None:
    """Remove reports that observers know of, and end the lease."""
    connection.executemany("DELETE FROM report WHERE number = ?", [(number,) for number in numbers])
    connection.execute("DELETE FROM teller WHERE name = ?", (teller,))


def _held(connection: sqlite3.Connection, teller: str, now: Instant, lease_seconds: float) -> bool:
    """Whether another teller holds the lease. One that ends too far in the future does not count: the clock was set back."""
    row = connection.execute("SELECT name, until FROM teller").fetchone()
    return row is not None and row[0] != teller and now < row[1] <= after(now, LEASE_SLACK * lease_seconds)


def _take(connection: sqlite3.Connection, teller: str, now: Instant, lease_seconds: float, limit: int) -> Sequence[Report] | None:
    """Lease the oldest reports, in a write transaction."""
    if _held(connection, teller, now, lease_seconds):
        return None
    rows = connection.execute("SELECT number, note, at, type, ids FROM report ORDER BY number LIMIT ?", (limit,)).fetchall()
    if rows:
        connection.execute("INSERT OR REPLACE INTO teller VALUES (1, ?, ?)", (teller, after(now, lease_seconds)))
    return [
        Report(number=number, note=note, at=Instant(at), type=type_, ids=tuple(json.loads(ids)))
        for number, note, at, type_, ids in rows
    ]
