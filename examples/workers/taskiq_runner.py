"""Slices as tasks of taskiq, on any broker.

With Celery the task is a plain function that gives the same loop to `asyncio.run`, and `kiq()` is `delay()`.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from taskiq import AsyncBroker

from fhir_bulk_middleware import StepThreads, Work

__all__ = ["TaskiqRunner"]


class TaskiqRunner:
    """A `Dispatcher`: a message says that there is work, and the worker that gets it works until none is left."""

    def __init__(self, broker: AsyncBroker) -> None:
        @broker.task(task_name="fhir_bulk:work")
        async def work() -> None:
            async with one_at_a_time:  # a worker of taskiq takes a hundred messages at a time
                while await self._threads.step(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"):
                    self.wake()

        one_at_a_time = asyncio.Semaphore(1)
        self._task = work
        self._woken = asyncio.Event()

    def bind(self, work: Work) -> None:
        """Workers of taskiq import what makes the `BulkData`, and so know its work."""
        self._threads = StepThreads(work)

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        """Send messages while there is work: when something is new, and every ten seconds."""
        announcing = asyncio.create_task(self._announce(work))
        try:
            yield
        finally:
            announcing.cancel()
            await asyncio.wait({announcing})

    async def _announce(self, work: Work) -> None:
        while True:
            self._woken.clear()
            for _ in range(await work.backlog(8)):  # as many workers as are woken at a time
                await self._task.kiq()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), 10)

    def wake(self) -> None:
        """Say that there may be new work."""
        self._woken.set()
