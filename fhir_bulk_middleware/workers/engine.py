"""What runs beside the requests: the runner, and the sweep."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from fhir_bulk_middleware.contract.protocols import JobRunner, Work
from fhir_bulk_middleware.identity import Place
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.observers.observing import Observers

__all__ = ["Engine"]

_log = logging.getLogger("fhir_bulk_middleware")


class Engine:
    """Starts and stops what runs beside the requests; both can be asked for more than once.

    It lives in a task of its own, so that whoever starts it, be it a lifespan, a middleware or the first request, never
    has our task groups straddle its own frames.

    Args:
        runner: where work runs.
        work: the work.
        retention: what a sweep does.
        sweep_interval: seconds between two sweeps.
        place: the place on the stores, held while it runs; it does not start without (law 32).
        observers: are told sums of refusals, and at the end what is left to tell.
    """

    def __init__(
        self,
        runner: JobRunner,
        work: Work,
        retention: Retention,
        sweep_interval: float,
        place: Place,
        *,
        observers: Observers | None = None,
    ) -> None:
        self._runner = runner
        self._work = work
        self._retention = retention
        self._sweep_interval = sweep_interval
        self._place = place
        self._observers = observers or Observers()
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._started: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engine runs while at least one such context is open."""
        await self.start()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.stop()

    async def start(self) -> None:
        """Start, unless it runs already; returns when it does.

        Raises:
            NotAdmitted: the stores belong to somebody else (law 32).
            Exception: whatever kept the runner from starting.
        """
        self._users += 1
        if self._task is None or self._task.done():
            self._stopping = asyncio.Event()
            self._started = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._supervise(self._started), name="fhir-bulk-engine")
        if self._started is not None:
            try:
                await asyncio.shield(self._started)
            except BaseException:
                self._users -= 1
                raise

    @property
    def runs(self) -> bool:
        """Whether somebody started it, and nobody stopped it since."""
        return self._users > 0

    async def start_lazily(self, missing_line: str) -> None:
        """Start at the first request, because nobody did before: works, but the server then kills it instead of stopping it."""
        if self.runs:
            return
        _log.warning("The export engine starts with the first request because nothing started it. %s", missing_line)
        await self.start()

    async def stop(self) -> None:
        """Stop when as many asked for it as started it; work in flight is given back."""
        self._users = max(self._users - 1, 0)
        if self._users or self._task is None:
            return
        self._stopping.set()
        task, self._task = self._task, None
        await asyncio.gather(task, return_exceptions=True)

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        try:
            async with self._place.taken(), self._runner.running(self._work), anyio.create_task_group() as tasks:
                tasks.start_soon(self._sweep)
                tasks.start_soon(self._observers.keep_summing)
                started.set_result(None)
                await self._stopping.wait()
                tasks.cancel_scope.cancel()
        except Exception as error:
            if not started.done():
                started.set_exception(error)
                return
            _log.exception("the export engine stopped")
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._observers.close()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._retention.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may find the disk or the database well again
                _log.exception("a sweep failed")
            await anyio.sleep(self._sweep_interval)
