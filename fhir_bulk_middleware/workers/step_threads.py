"""Threads in which a task carries out a step, so that an adapter that blocks does not hold up the event loop of its worker."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import anyio

from fhir_bulk_middleware.contract.recipes import make
from fhir_bulk_middleware.contract.running import Recipe, Work

__all__ = ["StepThreads"]

_GRACE = 5.0
"""Seconds that a step which is cancelled has to give its work back."""


class StepThreads:
    """Carries out steps of a work as tasks of a task queue, any number at a time, on behalf of a `Dispatcher`.

    Each step has a thread to itself, which makes the work by its recipe and may block; one is made when none is idle. Without a
    recipe (`SupportsWorkerProcess`) steps run in the event loop of the caller.

    A thread whose step hangs in a blocking call cannot be ended. It is a daemon, so the process can end all the same, and as soon
    as its lease is lost for `lease_seconds` the lease keeper ends the process (`ThreadLeaseKeeper`).

    Args:
        work: the work, as `Dispatcher.bind` is given it.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        """The work."""
        self._recipe = work.recipe()
        self._idle: list[_StepThread] = []

    async def step(self, worker: str) -> bool:
        """Carry out one step, as `Work.step`. If this is cancelled, so is the step.

        Args:
            worker: a name that no other step has or had.
        """
        if self._recipe is None:
            return await self.work.step(worker)
        async with self._one(self._recipe) as thread:
            return await thread.step(worker)

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().close()

    @asynccontextmanager
    async def _one(self, recipe: Recipe) -> AsyncGenerator["_StepThread"]:
        thread = self._idle.pop() if self._idle else _StepThread(recipe)
        try:
            yield thread
        finally:
            if thread.hangs:
                thread.close()
            else:
                self._idle.append(thread)


class _StepThread:
    """One thread with an event loop.

    Attributes:
        hangs: whether a step did not end when it was cancelled.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.hangs = False
        self._recipe = recipe
        self._work: Work | None = None
        self._task: asyncio.Task[bool] | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="fhir-bulk-step", daemon=True).start()

    async def step(self, worker: str) -> bool:
        outcome: Future[bool] = Future()
        self._loop.call_soon_threadsafe(self._begin, worker, outcome)
        ended = asyncio.wrap_future(outcome)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._loop.call_soon_threadsafe(self._cancel)
            with anyio.CancelScope(shield=True):
                _, left = await asyncio.wait({ended}, timeout=_GRACE)
            self.hangs = bool(left)
            raise

    def close(self) -> None:
        """End the thread, once its loop can."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _begin(self, worker: str, outcome: "Future[bool]") -> None:
        self._task = self._loop.create_task(self._carry_out(worker))
        self._task.add_done_callback(partial(_tell, outcome))

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _carry_out(self, worker: str) -> bool:
        if self._work is None:
            self._work = cast("Work", make(self._recipe))
        return await self._work.step(worker)


def _tell(outcome: "Future[bool]", task: "asyncio.Task[bool]") -> None:
    """Pass the end of a task on to the loop that waits for it."""
    if task.cancelled():
        outcome.cancel()
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())
