"""A process of the chaos runner: a server (`python chaos_server.py STATE FD`, on a socket that is open already), or a worker.

Two mounts share stores and workers: `/fhir` keeps results for days, `/brief` for a moment. On SQLite the servers keep workers. On
PostgreSQL workers are processes of their own (`chaos_server.py STATE worker`), whose slices are tasks of procrastinate.
The clock of all of them is the machine's plus what the runner has written into a file.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
from chaos_stores import Services, Stores
from pydantic import JsonValue
from starlette.applications import Starlette

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.running import JobRunner, Recipe, Work
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.lease_keeper import ThreadLeaseKeeper
from fhir_bulk_middleware.workers.runner import ProcessRunner

ISSUER, AUDIENCE = "https://chaos.example", "https://chaos.example/fhir"
BRIEF_SECONDS = 1.5
_WORKERS_PATIENCE = 60.0
ADAPTER = "chaos"
SETTINGS = Settings(
    page_bytes=8 * 1024,
    part_bytes=400 * 1024,
    slice_bytes=600 * 1024,
    lease_seconds=1,
    renew_seconds=0.2,
    attempts=8,
    sweep_interval=0.5,
    retry_after=1,
    poll_burst=1_000,
    polls_per_second=1_000,
    jobs_per_owner=50,
    removal_batch=5,
    kick_offs_per_minute=1_000_000,
    refusals_per_minute=1_000_000,
    worker_processes=2,
    worker_niceness=0,  # on a busy machine nicer workers may wait for longer than a round
    # The clock is stepped by hours, and a job is not to be late because of that.
    deadline=30 * 86_400,
    retention=60 * 86_400,
)


def work(state: JsonValue) -> JobWork:
    """What a worker does."""
    folder = Path(str(state))
    stores = Stores(folder, blocking=True, services=Services.of(folder), patience=_WORKERS_PATIENCE)
    return job_work(
        stores.resources,
        stores.jobs,
        stores.outputs,
        SETTINGS,
        stores.clock,
        keep_lease=ThreadLeaseKeeper(),
        observers=Observers([stores.audit]),
        adapter=ADAPTER,
    )


class _Again:
    """The same work, with a recipe that hands the stepped clock on."""

    def __init__(self, inner: Work, state: Path) -> None:
        self._inner, self._state = inner, state
        self.step, self.abandoned, self.adapter = inner.step, inner.abandoned, inner.adapter

    def recipe(self) -> Recipe:
        return Recipe("chaos_server:work", {"state": str(self._state)})


class ChaosRunner(ProcessRunner):
    def __init__(self, state: Path) -> None:
        super().__init__(state / "runner", SETTINGS)
        self._state = state

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        async with super().running(cast("Work", _Again(work, self._state))):
            yield


class ChaosDispatcher(ProcrastinateRunner):
    def __init__(self, state: Path, dsn: str) -> None:
        super().__init__(dsn, heartbeat=0.5, stalled_after=4, drain=2)
        self._state = state

    @asynccontextmanager
    async def working(self, work: Work) -> AsyncGenerator[None]:
        async with super().working(cast("Work", _Again(work, self._state))):
            yield


def mounts(state: Path) -> list[BulkData]:
    """Those at `/fhir` and at `/brief`."""
    services = Services.of(state)
    stores = Stores(state, services=services)
    verifier = JoseTokenVerifier(jwks=TokenMint.load(state / "key.json", ISSUER, AUDIENCE).jwks, issuer=ISSUER, audience=AUDIENCE)
    dispatcher = None if services is None else ChaosDispatcher(state, services.sessions)

    def bulk(mount: str, **changed: Any) -> BulkData:
        runner: JobRunner = dispatcher or ChaosRunner(state)
        return BulkData(
            resources=stores.resources,
            verifier=verifier,
            jobs=stores.jobs,
            outputs=stores.outputs,
            runner=runner,
            settings=SETTINGS.model_copy(update=changed),
            deletes=AIDBOX,
            mount=mount,
            adapter=ADAPTER,
            clock=stores.clock,
            observers=[stores.audit],
        )

    return [bulk("fhir"), bulk("brief", retention=BRIEF_SECONDS)]


def application(state: Path) -> Starlette:
    app = Starlette()
    for bulk in mounts(state):
        bulk.install(app, f"/{bulk.mount}")
    return app


async def _work(state: Path) -> None:
    """As `fhir-bulk worker --app` does."""
    bulk, _ = mounts(state)
    dispatcher = cast("ChaosDispatcher", bulk.engine.runner)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with bulk.running(), dispatcher.working(bulk.engine.work):
        await ended.wait()


def _end_with_the_runner() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    state, what = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s %(levelname)s {os.getpid()}: %(message)s")
    if what == "worker":
        asyncio.run(_work(state))
        return
    config = uvicorn.Config(application(state), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(what))])


if __name__ == "__main__":
    main()
