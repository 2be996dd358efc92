"""`SQLiteDeletionLog`: a log of deletes in one SQLite file."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fhir_bulk_middleware.contract.removal import BatchId, BatchProgress, Mark, Report, Tally
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.sqlite import horizon_table as horizon
from fhir_bulk_middleware.stores.sqlite import outbox
from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["SQLiteDeletionLog"]

_SCHEMA = """\
CREATE TABLE mark (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    version TEXT NOT NULL,
    owners TEXT NOT NULL,
    rights TEXT NOT NULL,
    at INTEGER,
    run TEXT NOT NULL,
    batch INTEGER NOT NULL
) STRICT;
CREATE INDEX mark_resource ON mark (type, id, number);
CREATE INDEX mark_gone ON mark (type, at) WHERE at IS NOT NULL;
CREATE INDEX mark_doubtful ON mark (type, number) WHERE at IS NULL;
CREATE INDEX mark_run ON mark (run, batch) WHERE run <> '';
CREATE TABLE batch (
    run TEXT NOT NULL,
    batch INTEGER NOT NULL,
    outcomes TEXT NOT NULL,
    PRIMARY KEY (run, batch)
) STRICT, WITHOUT ROWID;
CREATE TABLE ended (run TEXT PRIMARY KEY) STRICT, WITHOUT ROWID
"""
# The note of each mark, whether a cancel ended a run, and reports.
_NOTES = f"""\
ALTER TABLE mark ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE ended ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
CREATE INDEX mark_in_doubt ON mark (number) WHERE at IS NULL;
{outbox.SCHEMA}
"""
_HORIZON = f"""\
{horizon.SCHEMA};
{horizon.ANNOUNCED};
CREATE INDEX mark_at ON mark (at) WHERE at IS NOT NULL
"""
_BATCH = 10_000
# Marks of a batch without outcomes stay: the batch may be resumed, and the tally of its run counts them.
_FORGET = f"""
    DELETE FROM mark WHERE number IN (
        SELECT number FROM mark WHERE at <= ?
        AND (run = '' OR EXISTS (SELECT 1 FROM batch WHERE batch.run = mark.run AND batch.batch = mark.batch))
        LIMIT {_BATCH}
    )
"""  # noqa: S608 - a number of ours only
_NO_BATCH = BatchId("", 0)
"""How a mark of no batch lies in the table: no job has an empty id."""

_COLUMNS = "number, type, id, version, owners, rights, at, note"
_MARKS = f"SELECT {_COLUMNS} FROM mark WHERE "  # noqa: S608 - names of ours only


class SQLiteDeletionLog:
    """A durable `DeletionLog` in one file, for any number of processes on one machine.

    Args:
        path: the file; its folder is created if missing. Not on a network file system.
    """

    def __init__(self, path: str | Path) -> None:
        self._database = Database(Path(path), [_SCHEMA.rstrip(), _NOTES.rstrip(), _HORIZON.rstrip()], synchronous="FULL")

    def recipe(self) -> Recipe:
        """How to open the same file in another process."""
        return Recipe(f"{__name__}:SQLiteDeletionLog", {"path": str(self._database.path)})

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._database.close()

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        """See `DeletionLog`."""
        return await self._database.write(partial(_intend, marks=marks, batch=batch or _NO_BATCH))

    async def settle(
        self,
        gone: Sequence[Mark],
        left: Sequence[Mark],
        *,
        batch: BatchId | None = None,
        outcomes: Sequence[DeleteOutcome] = (),
    ) -> None:
        """See `DeletionLog`."""
        names = [outcome.name for outcome in outcomes]
        await self._database.write(partial(_settle, gone=gone, left=left, batch=batch, outcomes=names))

    async def progress(self, batch: BatchId) -> BatchProgress:
        """See `DeletionLog`."""
        place = (batch.run, batch.number)
        row = self._database.reader.execute("SELECT outcomes FROM batch WHERE run = ? AND batch = ?", place).fetchone()
        outcomes = None if row is None else tuple(DeleteOutcome[name] for name in json.loads(row[0]))
        return BatchProgress(tuple(self._read("run = ? AND run <> '' AND batch = ? ORDER BY number", *place)), outcomes)

    async def ended(self, run: str) -> bool:
        """See `DeletionLog`."""
        return self._database.reader.execute("SELECT 1 FROM ended WHERE run = ?", (run,)).fetchone() is not None

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `DeletionLog`."""
        return await self._database.write(partial(_end_run, run=run, cancelled=cancelled))

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        return await outbox.unreported(self._database, teller, now, lease_seconds, limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        await self._database.write(partial(outbox.forget, teller=teller, numbers=numbers))

    async def latest(self, type_: str, id_: str) -> Mark | None:
        """See `DeletionLog`."""
        found = self._read("type = ? AND id = ? AND at IS NOT NULL ORDER BY number DESC LIMIT 1", type_, id_)
        return found[0] if found else None

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        last = "NOT EXISTS (SELECT 1 FROM mark AS later WHERE later.type = mark.type AND later.id = mark.id"
        return self._read(
            f"type = ? AND at IS NOT NULL AND at > ? AND at <= ? AND number > ?"
            f" AND {last} AND later.number > mark.number AND later.at IS NOT NULL) ORDER BY number LIMIT ?",
            type_,
            -1 if since is None else since,
            (1 << 63) - 1 if until is None else until,
            after,
            limit,
        )

    async def doubtful(self, type_: str | None, after: int, limit: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        if type_ is None:
            return self._read("at IS NULL AND number > ? ORDER BY number LIMIT ?", after, limit)
        return self._read("type = ? AND at IS NULL AND number > ? ORDER BY number LIMIT ?", type_, after, limit)

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        announced = horizon.read(self._database.reader)
        return None if announced is None else announced.since

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`; how many marks were removed."""
        return await horizon.forget(self._database, before, now, grace, _forget)

    def _read(self, where: str, *values: str | int) -> list[Mark]:
        return [_mark(row) for row in self._database.reader.execute(_MARKS + where, values).fetchall()]


def _intend(connection: sqlite3.Connection, marks: Sequence[Mark], batch: BatchId) -> Sequence[Mark] | None:
    if connection.execute("SELECT 1 FROM ended WHERE run = ?", (batch.run,)).fetchone() is not None:
        return None
    numbered = []
    for mark in marks:
        cursor = connection.execute(
            "INSERT INTO mark (type, id, version, owners, rights, run, batch, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (mark.type, mark.id, mark.version, json.dumps(sorted(mark.owners)), mark.rights, batch.run, batch.number, mark.note),
        )
        numbered.append(replace(mark, number=int(cursor.lastrowid or 0), at=None))
    return numbered


def _settle(
    connection: sqlite3.Connection, gone: Sequence[Mark], left: Sequence[Mark], *, batch: BatchId | None, outcomes: Sequence[str]
) -> None:
    told: dict[tuple[str, str], list[str]] = {}
    at = Instant(0)
    for mark in gone:
        settled = connection.execute(
            "UPDATE mark SET at = ?, version = ?, owners = ? WHERE number = ? AND at IS NULL RETURNING note",
            (mark.at, mark.version, json.dumps(sorted(mark.owners)), mark.number),
        ).fetchone()
        if settled is not None:  # else another process settled and reported it
            at = max(at, mark.at or at)
            if settled[0]:
                told.setdefault((settled[0], mark.type), []).append(mark.id)
    for (note, type_), ids in told.items():
        outbox.add(connection, note, at, type_, ids)
    connection.executemany("DELETE FROM mark WHERE number = ? AND at IS NULL", [(mark.number,) for mark in left])
    if batch is not None:
        connection.execute("INSERT OR IGNORE INTO batch VALUES (?, ?, ?)", (batch.run, batch.number, json.dumps(outcomes)))


def _end_run(connection: sqlite3.Connection, run: str, *, cancelled: bool) -> Tally:
    connection.execute("INSERT OR IGNORE INTO ended (run, cancelled) VALUES (?, ?)", (run, cancelled))
    (cancelled,) = connection.execute("SELECT cancelled FROM ended WHERE run = ?", (run,)).fetchone()
    rows = connection.execute("SELECT outcomes FROM batch WHERE run = ?", (run,)).fetchall()
    outcomes = [DeleteOutcome[name] for (names,) in rows for name in json.loads(names)]
    gone, doubtful = connection.execute(
        "SELECT count(at), count(*) - count(at) FROM mark WHERE run = ? AND run <> ''"
        " AND NOT EXISTS (SELECT 1 FROM batch WHERE batch.run = mark.run AND batch.batch = mark.batch)",
        (run,),
    ).fetchone()
    tally = Tally.of(outcomes, doubtful, cancelled=bool(cancelled))
    return replace(tally, removed=tally.removed + gone)


def _forget(connection: sqlite3.Connection, until: Instant) -> int:
    return connection.execute(_FORGET, (until,)).rowcount


def _mark(row: tuple[Any, ...]) -> Mark:
    number, type_, id_, version, owners, rights, at, note = row
    return Mark(
        number=number,
        type=type_,
        id=id_,
        version=version,
        owners=frozenset(json.loads(owners)),
        rights=rights,
        at=at,
        note=note,
    )
