"""SQLite files that several processes open, write and leave, at once and one after the other."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from waiting import PATIENCE
from writing import SCHEMA, insert

from fhir_bulk_middleware.stores.sqlite import checkpoints
from fhir_bulk_middleware.stores.sqlite.database import Database

PROCESSES, LINES = 4, 400


def _insert_many(connection: sqlite3.Connection) -> None:
    for _ in range(10_000):
        insert(connection)


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", str(Path(__file__).with_name(script)), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "file.db", [SCHEMA], synchronous="NORMAL")
    yield database
    database.close()


def test_a_process_that_forks_after_its_stores_were_used_goes_on_in_parent_and_child(tmp_path: Path) -> None:
    done = subprocess.run(
        python("forking.py", str(tmp_path)),
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for file, query in (
        ("jobs.db", "SELECT count(*) FROM job"),
        ("store.db", "SELECT count(DISTINCT id) FROM resource"),
        ("used.db", "SELECT count(*) FROM used"),
        ("log.db", "SELECT count(*) FROM ended"),
    ):
        with closing(sqlite3.connect(tmp_path / file)) as connection:
            assert connection.execute(query).fetchone() == (4,), f"{file} holds what both wrote, before the fork and after it"
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_1_200_connections_that_open_fresh_files_at_once_are_all_served(tmp_path: Path) -> None:
    told: list[bytes] = []
    begin = str(time.time() + 3)

    async def open_all() -> None:
        done = await anyio.run_process(python("opening.py", str(tmp_path), "200", begin), env=environment())
        told.append(done.stdout)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(open_all)
    assert told == [b""] * 6, "each of 1,200 opens and writes, none of them is refused as busy"


def test_no_connection_checkpoints_by_itself_and_the_log_stays_short_all_the_same(database: Database) -> None:
    assert database.reader.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    for _ in range(3_000):
        database.write_here(insert)
    log = database.path.with_name("file.db-wal")
    assert log.stat().st_size < 3 * 1_000 * 4_096
    with closing(sqlite3.connect(f"file:{database.path}?mode=ro&immutable=1", uri=True)) as without_the_log:
        (count,) = without_the_log.execute("SELECT count(*) FROM line").fetchone()
    assert count > 2_000, "what was committed reaches the file itself"


def test_a_large_transaction_is_checkpointed_at_once(database: Database) -> None:
    database.write_here(_insert_many)
    with closing(sqlite3.connect(f"file:{database.path}?mode=ro&immutable=1", uri=True)) as without_the_log:
        assert without_the_log.execute("SELECT count(*) FROM line").fetchone() == (10_000,)


def test_a_checkpoint_is_made_by_whoever_holds_the_write_lock_and_by_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_COMMITS", 1)
    monkeypatch.setattr(checkpoints, "_PATIENCE", 0)
    database.write_here(insert)
    told: list[str] = []
    locked: list[bool] = []

    def look(statement: str) -> None:
        told.append(statement)
        if "wal_checkpoint" in statement:
            with closing(sqlite3.connect(database.path, timeout=0, isolation_level=None)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    locked.append(True)
                else:
                    locked.append(False)

    database.reader.set_trace_callback(look)
    database.write_here(insert)
    assert any("wal_checkpoint" in statement for statement in told)
    assert locked == [True], "nobody can start the log over while it is copied back"


@pytest.mark.anyio
@pytest.mark.timeout(900)
async def test_several_processes_that_write_and_checkpoint_lose_nothing(database: Database) -> None:
    command = python("writing.py", str(database.path), str(LINES))
    async with anyio.create_task_group() as group:
        for _ in range(PROCESSES):
            group.start_soon(lambda: anyio.run_process(command, env=environment()))
    assert database.reader.execute("SELECT count(*) FROM line").fetchone() == (PROCESSES * LINES,)
    assert database.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
