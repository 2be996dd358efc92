"""A SQLite file is opened once and for all in one way, and no failure leaves it locked."""

import asyncio
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.stores.sqlite.database import Database, DatabaseBusy

pytestmark = pytest.mark.anyio

_SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "file.db", [_SCHEMA], synchronous="NORMAL")
    yield database
    database.close()


def _insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO parent DEFAULT VALUES")


def _count(database: Database) -> int:
    count: int = database.reader.execute("SELECT count(*) FROM parent").fetchone()[0]
    return count


async def test_a_new_file_is_its_users_alone(database: Database) -> None:
    await database.write(_insert)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in database.path.parent.iterdir()}
    assert modes == dict.fromkeys(("file.db", "file.db-wal", "file.db-shm"), 0o600)


async def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    path.touch(0o640)
    path.chmod(0o640)
    database = Database(path, [_SCHEMA], synchronous="NORMAL")
    await database.write(_insert)
    database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_change_that_raises_is_undone_as_a_whole(database: Database) -> None:
    def change(connection: sqlite3.Connection) -> None:
        _insert(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(change)
    assert _count(database) == 0
    await database.write(_insert)
    assert _count(database) == 1


async def test_a_commit_that_fails_does_not_block_the_next(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda connection: connection.execute("INSERT INTO child VALUES (7)"))
    await database.write(_insert)
    assert _count(database) == 1


async def test_a_writer_that_was_cancelled_leaves_the_file_unlocked(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        _insert(connection)
        begun.set()
        go_on.wait()

    task = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await database.write(_insert)
    assert _count(database) == 2


async def test_closing_waits_for_the_first_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "file.db", [_SCHEMA], synchronous="NORMAL")
    write = asyncio.create_task(database.write(_insert))
    await asyncio.sleep(0)  # the write is handed over, its connection not yet open
    database.close()
    await write
    assert _count(database) == 1
    database.close()


async def test_a_closed_file_opens_again(database: Database) -> None:
    await database.write(_insert)
    database.close()
    await database.write(_insert)
    assert _count(database) == 2


async def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    first = Database(path, [_SCHEMA], synchronous="NORMAL")
    await first.write(_insert)
    second = Database(path, [_SCHEMA, "ALTER TABLE parent ADD COLUMN name TEXT"], synchronous="NORMAL")
    assert second.reader.execute("SELECT id, name FROM parent").fetchall() == [(1, None)]
    third = Database(path, [_SCHEMA], synchronous="NORMAL")
    with pytest.raises(RuntimeError, match="newer version"):
        third.reader.execute("SELECT 1")
    for database in (first, second, third):
        database.close()


async def test_a_file_that_stays_locked_is_told_as_busy_and_not_as_broken(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_bulk_middleware.stores.sqlite.database._BUSY_SECONDS", 0.01)
    await database.write(_insert)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseBusy) as refused:
        await database.write(_insert)

    assert (refused.value.reason, refused.value.retry_after) == (Reason.BUSY, 5)
    other.close()
    await database.write(_insert)
    assert _count(database) == 2
