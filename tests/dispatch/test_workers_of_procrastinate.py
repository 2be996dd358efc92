"""Exports by real workers of procrastinate, which are killed, drained, cancelled and mixed with others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpx2
import psycopg
import pytest
from waiting import until

from fhir_bulk_middleware.cli.state import State

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(500), pytest.mark.long]
pytest_plugins = ["postgres_fixtures"]
COUNT = 150
SLICES = 50

Process = "subprocess.Popen[bytes]"


class Cluster:
    """Servers and workers on one PostgreSQL and one folder of files.

    Attributes:
        shared: the folder of files, by which the adapters are let through.
    """

    def __init__(self, folder: Path, dsn: str, schema: str, stack: ExitStack) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir()
        self._folder, self._dsn, self._schema, self._stack = folder, dsn, schema, stack
        self._token = State(self.shared).mint().token("me", "system/*.rs")
        path = os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)])
        of_ours = {"PYTHONPATH": path, "DSN": dsn, "SCHEMA": schema, "SHARED": str(self.shared), "TMPDIR": str(folder)}
        self.environment = {**os.environ, **of_ours}

    def start(self, name: str, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self.environment | environment,
            cwd=self._folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def end() -> None:
            process.terminate()
            try:
                process.wait(60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)

        self._stack.callback(end)
        return process

    def worker(self, name: str, **environment: str) -> "subprocess.Popen[bytes]":
        return self.start(name, "fhir_bulk_middleware.cli", "worker", "--app", "tasked:bulk", **environment)

    async def server(self, name: str = "server", **environment: str) -> httpx2.Client:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        process = self.start(
            name, "uvicorn", "--factory", "tasked:app", "--port", str(port), "--log-level", "warning", **environment
        )
        http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {self._token}"}, timeout=60)
        self._stack.callback(http.close)

        def answers() -> bool:
            assert process.poll() is None, (self._folder / f"{name}.log").read_text()
            with suppress(httpx2.TransportError):
                return http.get("/fhir/nothing").status_code == 404
            return False

        await until(answers)
        return http

    def reached(self) -> set[int]:
        """The processes that have reached a page."""
        return {int(path.name.removeprefix("reached-")) for path in self.shared.glob("reached-*")}

    def open(self) -> None:
        """Let the adapters through."""
        (self.shared / "open").touch()

    def rows(self, text: str) -> list[tuple[Any, ...]]:
        """What a query finds; `$` is the schema."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            return connection.execute(text.replace("$", f"{self._schema}.").encode()).fetchall()


@pytest.fixture
def cluster(tmp_path: Path, postgres: str, schema: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, postgres, schema, stack)


def kicked_off(http: httpx2.Client) -> str:
    answer = http.get("/fhir/$export", headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return urlsplit(answer.headers["Content-Location"]).path


async def exported(http: httpx2.Client, location: str) -> list[bytes]:
    """The contents of the files of an export, in their order, once it has ended."""

    async def ended() -> bool:
        answer = await anyio.to_thread.run_sync(http.get, location)
        assert answer.status_code in {200, 202}, answer.text
        return answer.status_code == 200

    await until(ended)
    return [http.get(urlsplit(file["url"]).path).content for file in http.get(location).json()["output"]]


def ids(files: list[bytes]) -> list[str]:
    return sorted(json.loads(line)["id"] for file in files for line in file.splitlines())


ALL = sorted(f"o{number}" for number in range(COUNT))


async def test_a_worker_that_is_killed_in_a_slice_costs_no_byte(cluster: Cluster) -> None:
    """Law 18: of 50 slices on three workers nothing is lost, and nothing is published twice."""
    http = await cluster.server()
    workers = {worker.pid: worker for worker in [cluster.worker(name) for name in ("one", "two", "three")]}
    location = kicked_off(http)
    await until(lambda: cluster.reached() == set(workers))
    doing = "SELECT count(*) FROM $procrastinate_jobs WHERE status = 'doing' AND task_name = 'fhir_bulk:step'"
    assert cluster.rows(doing) == [(3,)]
    waiting = "SELECT count(*) FROM $procrastinate_jobs WHERE status = 'todo' AND task_name = 'fhir_bulk:step'"
    await until(lambda: cluster.rows(waiting)[0][0] >= SLICES - 3)

    killed = next(iter(workers))
    workers[killed].kill()
    cluster.open()
    disturbed = await exported(http, location)
    assert ids(disturbed) == ALL
    assert len(disturbed) == SLICES
    assert cluster.rows("SELECT max(attempt) > 1 FROM $part, LATERAL (SELECT split_part(key, '.', 2)::int AS attempt) AS of") == [
        (True,)
    ]
    assert await exported(http, kicked_off(http)) == disturbed
    await until(lambda: cluster.rows("SELECT count(*) FROM $procrastinate_jobs WHERE status = 'doing'") == [(0,)])
    await until(lambda: cluster.rows(waiting) == [(0,)])


async def test_procrastinate_a_pool_and_taskiq_share_an_export(cluster: Cluster) -> None:
    """No server knows procrastinate: the worker that does announces the work itself. taskiq's is the runner of the examples."""
    http = await cluster.server(POOL="1")
    other = await cluster.server("other", TASKIQ="1")
    worker = cluster.worker("worker")
    location = kicked_off(http)
    await until(lambda: worker.pid in cluster.reached() and len(cluster.reached()) == 3)
    assert other.get(location).status_code == 202
    cluster.open()
    files = await exported(other, location)
    assert ids(files) == ALL
    assert len(files) == SLICES


async def test_a_cancel_reaches_a_running_slice_within_a_second(cluster: Cluster) -> None:
    (cluster.shared / "await").touch()
    http = await cluster.server()
    worker = cluster.worker("worker")
    took = []
    for _ in range(3):
        location = kicked_off(http)
        await until(lambda: cluster.reached() == {worker.pid})
        assert http.delete(location).status_code == 202
        cancelled = time.time()
        await until((cluster.shared / "left").exists)
        took.append(float((cluster.shared / "left").read_text()) - cancelled)
        for path in [cluster.shared / "left", cluster.shared / f"reached-{worker.pid}"]:
            path.unlink()
        assert http.get(location).status_code == 404
    assert sorted(took)[1] < 1.0, took  # at the latest in the renewal after it, half a second later; one round may be unlucky


async def test_a_worker_that_is_asked_to_stop_finishes_its_slice(cluster: Cluster) -> None:
    http = await cluster.server()
    first = cluster.worker("first")
    location = kicked_off(http)
    await until(lambda: cluster.reached() == {first.pid})
    first.terminate()
    second = cluster.worker("second")
    await until(lambda: cluster.reached() == {first.pid, second.pid})
    cluster.open()
    assert first.wait(60) == 0
    assert ids(await exported(http, location)) == ALL
    assert cluster.rows("SELECT max(attempt) FROM $part, LATERAL (SELECT split_part(key, '.', 2)::int AS attempt) AS of") == [
        (1,)
    ]


async def test_a_worker_that_cannot_finish_in_time_gives_its_slice_back(cluster: Cluster) -> None:
    (cluster.shared / "await").touch()
    http = await cluster.server()
    first = cluster.worker("first", DRAIN="0.2")
    location = kicked_off(http)
    await until(lambda: cluster.reached() == {first.pid})
    first.terminate()
    assert first.wait(60) == 0
    assert cluster.rows("SELECT cause, excused FROM $work WHERE attempt > 0 AND slice >= 0")[0][1] == 1
    cluster.worker("second")
    cluster.open()
    assert ids(await exported(http, location)) == ALL


async def test_procrastinates_own_worker_works_for_a_house(cluster: Cluster, schema: str) -> None:
    """It imports the module that makes the BulkData, and knows the work by that."""
    with psycopg.connect(cluster.environment["DSN"], autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    made = cluster.start("schema", "procrastinate", "--app=tasked.tasks", "schema", "--apply", HOUSE="1")
    assert made.wait(60) == 0
    cluster.start("worker", "procrastinate", "--app=tasked.tasks", "worker", "--concurrency=2", HOUSE="1")
    http = await cluster.server(HOUSE="1")
    location = kicked_off(http)
    cluster.open()
    assert ids(await exported(http, location)) == ALL
