"""Starts and stops the background part of a server: the runner, and tasks such as sweeps."""

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
    """Runs the background part of a server while at least one user has started it.

    It has an asyncio task of its own, so that its task groups never span the frames of the caller: a lifespan, a middleware or
    the first request.

    Args:
        runner: runs the work.
        work: the work.
        admitted: a context that stays open meanwhile; if entering it raises, the engine does not start (law 32).
        beside: coroutine functions that run until the engine stops.
        closing: called at the end, also after a failure.
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
        self.runner = runner
        """Runs the work."""
        self.work = work
        """The work."""
        self._admitted = admitted
        self._beside = tuple(beside)
        self._closing = closing
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._started: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the engine running while the context is open."""
        await self.start()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.stop()

    async def start(self) -> None:
        """Count a user, and start the engine if it is the first; returns when the engine runs.

        Raises:
            NotAdmitted: the stores belong to another adapter or job store (law 32).
            Exception: the runner could not start.
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
        """Whether it has a user."""
        return self._users > 0

    @property
    def works(self) -> bool:
        """Whether it has started and neither stopped nor failed."""
        return self._task is not None and not self._task.done() and self._started is not None and self._started.done()

    async def start_lazily(self, missing_line: str) -> None:
        """Start at the first request if the host did not start it. It then ends with the process, without a clean stop."""
        if self.runs:
            return
        _log.warning("The export engine starts with the first request because nothing started it. %s", missing_line)
        await self.start()

    async def stop(self) -> None:
        """Count a user off, and stop the engine after the last; work in flight is given back."""
        self._users = max(self._users - 1, 0)
        if self._users or self._task is None:
            return
        self._stopping.set()
        task, self._task = self._task, None
        await asyncio.gather(task, return_exceptions=True)

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        try:
            async with self._admitted(), self.runner.running(self.work), anyio.create_task_group() as tasks:
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
