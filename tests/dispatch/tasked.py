"""A factory for servers and workers whose slices are tasks of procrastinate (`uvicorn --factory tasked:app`).

In the environment: DSN, SCHEMA, SHARED (a folder), and
POOL for a server that keeps a worker process of its own and knows no procrastinate; TASKIQ for a server that works through
taskiq; HOUSE for an App of the house's own.
"""

import os
import time
from pathlib import Path
from typing import Any

import anyio
from listed import Complete, observation
from procrastinate import App, PsycopgConnector
from starlette.applications import Starlette
from taskiq import InMemoryBroker
from workers.taskiq_runner import TaskiqRunner

from fhir_bulk_middleware import BulkData, FileOutputStore, JobRunner, JoseTokenVerifier, Settings
from fhir_bulk_middleware.cli.state import AUDIENCE, ISSUER, State
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.workers.runner import ProcessRunner

COUNT = 150
"""Resources, in slices of three."""


class Gate(Complete):
    """Slices of three resources. A worker says that it reached a page, then waits until it is let through.

    It blocks, unless there is a file `await`; when it stops to wait it says that too.
    """

    def __init__(self, folder: str) -> None:
        super().__init__({"Observation": [observation(number) for number in range(COUNT)]})
        self._folder = Path(folder)

    def recipe(self) -> Recipe:
        return Recipe("tasked:Gate", {"folder": str(self._folder)})

    async def before_page(self, number: int) -> None:
        del number
        if (self._folder / "open").exists():
            return
        (self._folder / f"reached-{os.getpid()}").touch()
        try:
            while not (self._folder / "open").exists():
                if (self._folder / "await").exists():
                    await anyio.sleep(0.002)
                else:
                    time.sleep(0.002)  # noqa: ASYNC251 - an adapter that blocks is what it is about
        finally:
            written = self._folder / f"leaving-{os.getpid()}"
            written.write_text(repr(time.time()))
            written.replace(self._folder / "left")  # so that nobody reads half of it


SETTINGS = Settings(
    worker_processes=1, lease_seconds=4, renew_seconds=0.5, poll_burst=10_000, polls_per_second=10_000, first_poll_wait=0
)
TIMES: dict[str, Any] = {"heartbeat": 0.5, "stalled_after": 4.0, "drain": float(os.environ.get("DRAIN", "20"))}

tasks = App(
    connector=PsycopgConnector(conninfo=os.environ["DSN"], kwargs={"options": f"-c search_path={os.environ['SCHEMA']}"}),
    import_paths=["tasked"],
)


def runner() -> JobRunner:
    if "POOL" in os.environ:
        return ProcessRunner(os.environ["TMPDIR"], SETTINGS)
    if "TASKIQ" in os.environ:
        return TaskiqRunner(InMemoryBroker())
    if "HOUSE" in os.environ:
        return ProcrastinateRunner(tasks, **TIMES)
    return ProcrastinateRunner(os.environ["DSN"], schema=os.environ["SCHEMA"], **TIMES)


def made() -> BulkData:
    shared = Path(os.environ["SHARED"])
    return BulkData(
        resources=Gate(str(shared)),
        verifier=JoseTokenVerifier(jwks=State(shared).mint().jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=PostgresJobStore(os.environ["DSN"], schema=os.environ["SCHEMA"]),
        outputs=FileOutputStore(shared / "exports"),
        runner=runner(),
        settings=SETTINGS,
        adapter="tasked",
    )


bulk = made()


def app() -> Starlette:
    host = Starlette()
    bulk.install(host, "/fhir")
    return host
