"""`fhir-bulk worker --app` and `sweep --app`: for an operator whose host is not a STATE folder."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from house import people
from waiting import PATIENCE, until

from fhir_bulk_middleware import SQLiteJobStore, SQLiteResourceStore
from fhir_bulk_middleware.contract.job import Job, JobState, Options
from fhir_bulk_middleware.contract.query import EveryPatient, Level, Rows, Window
from fhir_bulk_middleware.instant import after, system_clock
from fhir_bulk_middleware.testing.job_values import OWNER, a_job

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]

HOST = """
from pathlib import Path
from starlette.applications import Starlette
from fhir_bulk_middleware import BulkData, FileOutputStore, MemoryJobStore, MemoryOutputStore, Settings
from fhir_bulk_middleware import SQLiteJobStore, SQLiteResourceStore

here = Path(__file__).parent

class Nobody:
    async def verify(self, token):
        raise NotImplementedError

class WithoutRecipe:
    def __init__(self, store):
        self._store = store
    def pages(self, query, after):
        return self._store.pages(query, after)
    async def authorise(self, principal):
        return await self._store.authorise(principal)

def made(resources=None, jobs=None, outputs=None, **more):
    return BulkData(
        resources=resources or SQLiteResourceStore(here / "store.db"), verifier=Nobody(),
        jobs=jobs or SQLiteJobStore(here / "jobs.db"), outputs=outputs or FileOutputStore(here / "exports"),
        adapter="own", settings=Settings(worker_processes=1, retention=0.001), **more)

def in_memory():
    return made(jobs=MemoryJobStore(), outputs=MemoryOutputStore())

def without_recipe():
    return made(WithoutRecipe(SQLiteResourceStore(here / "store.db")))

bulk = made()
app = Starlette()
"""

WITH_LOGGING = """
import logging
from own import made
logging.basicConfig(level=logging.INFO, format="the host says: %(message)s")
bulk = made()
"""


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False, env=os.environ
    )


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder with a host's module, its resources, and one export that waits for a worker."""
    (tmp_path / "own.py").write_text(HOST)
    store = SQLiteResourceStore(tmp_path / "store.db")
    for resource in people():
        anyio.run(store.create, resource["resourceType"], resource, resource["id"])
    store.close()
    return tmp_path


def queued(folder: Path, *, before: float = 0) -> Job:
    """An export that was asked for some seconds before now."""
    plain = a_job(OWNER, at=after(system_clock(), -before), mount="own-standard", adapter="own")
    request = replace(plain.request, level=Level.PATIENT, types=("Patient",), window=Window(), granular=(), options=Options())
    job = replace(plain, request=request)
    jobs = SQLiteJobStore(folder / "jobs.db")
    assert anyio.run(partial(jobs.add, job, Rows(EveryPatient(), ""), working_at_most=9)) == job
    jobs.close()
    return job


async def state(folder: Path, job: Job) -> JobState:
    jobs = SQLiteJobStore(folder / "jobs.db")
    try:
        current = await jobs.find(job.id, job.mount, job.owner)
    finally:
        jobs.close()
    assert current is not None
    return current.state


async def over(folder: Path, job: Job, worker: subprocess.Popen[str]) -> bool:
    return not (await state(folder, job)).working or worker.poll() is not None


def found_state(folder: Path, job: Job) -> JobState:
    return anyio.run(state, folder, job)


@pytest.mark.parametrize("name", ["bulk", "made", "without_recipe"])
def test_a_worker_finishes_the_exports_of_an_own_host(host: Path, name: str) -> None:
    """Named by its BulkData or by a function that returns one; with a recipe or without."""
    job = queued(host)
    command = [*COMMAND, "worker", "--app", f"own:{name}"]
    with subprocess.Popen(command, cwd=host, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == f"Working on the exports of own:{name} (Ctrl-C ends it)\n"
            anyio.run(until, partial(over, host, job, worker))
        finally:
            worker.send_signal(signal.SIGTERM)
            _, err = worker.communicate(timeout=PATIENCE)
    assert found_state(host, job) is JobState.COMPLETED, err
    assert worker.returncode == 0, err
    assert ("works in its own loop, one piece at a time: resources (WithoutRecipe) has no recipe()" in err) == (
        name == "without_recipe"
    )
    assert err.count("not promised: ") <= 1


def test_a_host_that_configures_logging_logs_each_line_once(host: Path) -> None:
    """As it is advised for servers; the worker imports the same module."""
    (host / "logs.py").write_text(WITH_LOGGING)
    command = [*COMMAND, "worker", "--app", "logs:bulk"]
    with subprocess.Popen(command, cwd=host, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith("Working on")
        finally:
            worker.send_signal(signal.SIGTERM)
            _, err = worker.communicate(timeout=PATIENCE)
    told = [line for line in err.splitlines() if "exports run in" in line]
    assert len(told) == 1, err
    assert told[0].startswith("the host says: mount own-standard: ")


def test_a_sweep_ends_the_expired_jobs_of_an_own_host(host: Path) -> None:
    job = queued(host, before=60)
    jobs = SQLiteJobStore(host / "jobs.db")
    assert anyio.run(jobs.replace, replace(job, state=JobState.COMPLETED))
    jobs.close()
    for _ in range(2):
        swept = ran(host, "sweep", "--app", "own:bulk")
        assert (swept.returncode, swept.stdout) == (0, ""), swept.stderr
        assert "not promised" not in swept.stderr, "it only sweeps"
    assert found_state(host, job) is JobState.EXPIRED


@pytest.mark.parametrize("command", ["worker", "sweep"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "in_memory",
            "jobs (MemoryJobStore), outputs (MemoryOutputStore) are in the memory of the server's process, which no other",
        ),
        ("here", "own:here cannot be called; name a function or a class that makes it"),
        ("app", "own:app is a Starlette; name your BulkData, or a function without arguments that returns it"),
        ("WithoutRecipe.authorise", "own:WithoutRecipe.authorise is a function with arguments; name your BulkData"),
        ("nothing", "own has no nothing"),
    ],
)
def test_what_cannot_be_worked_on_is_said_in_a_sentence(host: Path, command: str, name: str, said: str) -> None:
    refused = ran(host, command, "--app", f"own:{name}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"fhir-bulk: --app: {said}")
    assert refused.stderr.count("\n") == 1


def test_the_host_gives_the_settings(host: Path) -> None:
    refused = ran(host, "sweep", "--app", "own:bulk", "--set", "retention=5")
    assert refused.returncode == 2
    assert refused.stderr == "fhir-bulk: --set retention: only with --dir; with --app your host gives the settings\n"
