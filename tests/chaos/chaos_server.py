"""A server process of the chaos runner: `python chaos_server.py STATE FD`. It serves on a socket that is open already.

Two mounts share stores and workers: `/fhir` keeps results for days, `/brief` for a moment. Its clock, and that of its workers, is
the machine's plus what the runner has written into a file.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
from pydantic import JsonValue
from starlette.applications import Starlette

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.contract.removal import Batch
from fhir_bulk_middleware.contract.running import Recipe, Work
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.instant import Clock, Instant, system_clock
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.streams.closing import closing
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.lease_keeper import ThreadLeaseKeeper
from fhir_bulk_middleware.workers.runner import ProcessRunner

ISSUER, AUDIENCE = "https://chaos.example", "https://chaos.example/fhir"
BRIEF_SECONDS = 1.5
_PACE = 0.005
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


def stepped(state: Path) -> Clock:
    """The machine's clock, and what was added to it."""
    descriptor = os.open(state / "clock", os.O_RDONLY)
    return lambda: Instant(system_clock() + int.from_bytes(os.pread(descriptor, 8, 0), "little", signed=True))


def step(state: Path, seconds: float) -> None:
    """Set the clock so much ahead of the machine's, in one write."""
    descriptor = os.open(state / "clock", os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(descriptor, round(seconds * 1_000_000).to_bytes(8, "little", signed=True), 0)
    os.close(descriptor)


class Paced(SQLiteResourceStore):
    """A store that takes its time over each page, and blocks meanwhile, so that an export lasts long enough to be struck."""

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        return self._paced(super().pages(query, after))

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        time.sleep(_PACE * 10)  # noqa: ASYNC251 - as above
        return await super().remove_batch(batch)

    async def _paced(self, pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
        async with closing(pages) as source:
            async for page in source:
                time.sleep(_PACE)  # noqa: ASYNC251 - as adapters do
                yield page


class Stores:
    def __init__(self, state: Path, *, blocking: bool = False) -> None:
        self.clock = stepped(state)
        kind = Paced if blocking else SQLiteResourceStore
        self.resources = kind(state / "store.db", clock=self.clock)
        self.jobs = SQLiteJobStore(state / "jobs.db")
        self.outputs = FileOutputStore(state / "exports", blocking=blocking)
        self.audit = AuditFile(state / "audit.jsonl", blocking=blocking, sync="never")


def work(state: JsonValue) -> JobWork:
    """What a worker process does; the recipe of `ChaosRunner`."""
    stores = Stores(Path(str(state)), blocking=True)
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
    async def running(self, work: Work) -> AsyncIterator[None]:
        async with super().running(cast("Work", _Again(work, self._state))):
            yield


def application(state: Path) -> Starlette:
    stores = Stores(state)
    verifier = JoseTokenVerifier(jwks=TokenMint.load(state / "key.json", ISSUER, AUDIENCE).jwks, issuer=ISSUER, audience=AUDIENCE)

    def bulk(mount: str, **changed: Any) -> BulkData:
        return BulkData(
            resources=stores.resources,
            verifier=verifier,
            jobs=stores.jobs,
            outputs=stores.outputs,
            runner=ChaosRunner(state),
            settings=SETTINGS.model_copy(update=changed),
            deletes=AIDBOX,
            mount=mount,
            adapter=ADAPTER,
            clock=stores.clock,
            observers=[stores.audit],
        )

    app = Starlette()
    bulk("fhir").install(app, "/fhir")
    bulk("brief", retention=BRIEF_SECONDS).install(app, "/brief")
    return app


def _end_with_the_runner() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    state, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    config = uvicorn.Config(application(state), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main()
