"""What a file adds to the promises of a job store: it outlives processes, and many of them share it (law 30)."""

import asyncio
import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import job_store_processes
import pytest

from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import (
    LEASE,
    NOW,
    OTHER,
    ROWS,
    a_job,
    a_part,
    added,
    claimed,
    found,
    sealed,
    started,
    together,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteJobStore]:
    store = SQLiteJobStore(path)
    yield store
    store.close()


async def _process(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = [sys.executable, job_store_processes.__file__, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return await anyio.run_process(program, stderr=None, check=False, env=environment)


async def test_a_write_that_returned_is_there_after_the_process(store: SQLiteJobStore, path: Path) -> None:
    job = await started(store, 2)
    lease = await claimed(store)
    await store.checkpoint(lease, [a_part(job, 0, 0)], "c", NOW, done=5, finished=False)
    store.close()
    reopened = SQLiteJobStore(path)
    assert (await found(reopened, job)).done == 5
    assert await sealed(reopened, job) == [a_part(job, 0, 0)]
    assert await reopened.renew(lease, NOW, lease_seconds=LEASE, done=6)
    assert (await claimed(reopened)).rows == ROWS
    reopened.close()


async def test_a_commit_waits_for_the_disk(store: SQLiteJobStore) -> None:
    def settings(connection: sqlite3.Connection) -> tuple[str, int]:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        return journal, synchronous

    full = 2
    assert await store._database.write(settings) == ("wal", full)


async def test_processes_that_claim_at_the_same_time_share_the_work_out(store: SQLiteJobStore, path: Path) -> None:
    await started(store, 30)
    await started(store, 30, a_job(OTHER))
    await added(store)
    done = await together(3, lambda number: _process("claim", str(path), f"worker {number}"))
    outputs = [json.loads(process.stdout) for process in done]
    claims = [tuple(claim) for output in outputs for claim in output]
    assert len(claims) == len(set(claims)) == 61


async def test_a_process_killed_within_a_transaction_leaves_no_trace(store: SQLiteJobStore, path: Path) -> None:
    job = await started(store, 2)
    lease = await claimed(store)
    assert (await _process("die", str(path))).returncode == -signal.SIGKILL
    assert await found(store, job) == job
    assert await store.checkpoint(lease, [], "c", NOW, done=1, finished=True)
    assert (await claimed(store)).slice is not None
    assert store._database.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_threads_with_loops_of_their_own_share_a_store(store: SQLiteJobStore) -> None:
    job = await started(store, 20)

    async def work_off(worker: str) -> int:
        count = 0
        while (lease := await store.claim(worker, NOW, lease_seconds=LEASE)) is not None:
            assert await store.renew(lease, NOW, lease_seconds=LEASE, done=1)
            assert await store.checkpoint(lease, [], None, NOW, done=2, finished=True)
            count += 1
        return count

    with ThreadPoolExecutor(3) as threads:
        counts = list(threads.map(lambda worker: asyncio.run(work_off(worker)), ["a", "b", "c"]))
    assert sum(counts) == 20
    ended = await found(store, job)
    assert (ended.state, ended.done) == (JobState.COMPLETED, 40)


async def test_a_poll_is_one_indexed_read_and_no_write(store: SQLiteJobStore) -> None:
    job = await added(store)
    await found(store, job)  # the first one in a process also reads what never changes
    statements: list[str] = []
    reader = store._database.reader
    reader.set_trace_callback(statements.append)
    try:
        await found(store, job)
    finally:
        reader.set_trace_callback(None)
    (poll,) = statements
    assert poll.startswith("SELECT")
    ((*_, plan),) = reader.execute(f"EXPLAIN QUERY PLAN {poll}").fetchall()
    assert plan == "SEARCH job USING INDEX sqlite_autoindex_job_1 (id=?)"


async def test_polls_and_idle_claims_do_not_wait_for_a_writer(store: SQLiteJobStore, path: Path) -> None:
    job = await started(store)
    await claimed(store)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert (await found(store, job)).state is JobState.RUNNING
        assert await store.claim("idle", NOW, lease_seconds=LEASE) is None
    finally:
        writer.close()


async def test_a_recipe_opens_the_same_file_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteJobStore("jobs.db")
    job = await added(store)
    assert isinstance(store, SupportsWorkerProcess)
    recipe = store.recipe()
    monkeypatch.chdir("/")
    module, _, factory = recipe.factory.partition(":")
    other = getattr(importlib.import_module(module), factory)(**json.loads(json.dumps(recipe.arguments)))
    assert await found(other, job) == job
    other.close()
    store.close()
