"""What runs beside the requests: the runner, and tasks such as the sweep."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio

from fhir_bulk_middleware.contract.running import JobRunner, Work

__all__ = ["Engine"]

_log = logging.getLogger("fhir_bulk_middleware")


class Engine:
    """Starts and stops what runs beside the requests; both can be asked for more than once.

    It lives in a task of its own, so that whoever starts it, be it a lifespan, a middleware or the first request, never
    has our task groups straddle its own frames.

    Args:
        runner: where work runs.
        work: the work.
        admitted: a context that is open while it runs; it does not start where that refuses to be entered (law 32).
        beside: what else runs until it stops.
        closing: what is done at the end, however it comes.
    """

    def __init__(
        self,
        runner: JobRunner,
        work: Work,
        *,
        admitted: Callable[[], AbstractAsyncContextManager[None]],
        beside: Sequence[Callable[[], Coroutine[Any, Any, None]]],
        closing: Callable[[], Awaitable[None]],
    ) -> None:
        self._runner = runner
        self._work = work
        self._admitted = admitted
        self._beside = tuple(beside)
        self._closing = closing
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
            async with self._admitted(), self._runner.running(self._work), anyio.create_task_group() as tasks:
                for task in self._beside:
                    tasks.start_soon(task)
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
                await self._closing()
