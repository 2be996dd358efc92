"""Saying that a worker is alive, beside the work and not inside it.

In the server's loop a task does it. In a worker process, where adapters and stores may block the loop, a thread does. Neither
goes on after the job's deadline: a worker that hangs must not hold its work for ever.
"""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio

from fhir_bulk_middleware.export.job import Lease
from fhir_bulk_middleware.instant import Clock, after
from fhir_bulk_middleware.protocols import WorkQueue
from fhir_bulk_middleware.settings import Settings

__all__ = ["Beating", "LeaseLost", "Pulse", "in_task", "in_thread"]

_log = logging.getLogger("fhir_bulk_middleware")


class LeaseLost(Exception):  # noqa: N818 - an outcome: somebody else has the work now, or nobody
    """The lease is not ours any more, so nothing may be published (law 18)."""


@dataclass(slots=True)
class Pulse:
    """What worker and heartbeat know of each other.

    Attributes:
        lease: what is held.
        done: how many resources of the slice have been read; the worker counts.
        lost: whether the lease is; the heartbeat finds out.
    """

    lease: Lease
    done: int = 0
    lost: bool = False


Beating = Callable[[WorkQueue, Pulse, Settings, Clock], AbstractAsyncContextManager[None]]
"""Renews a pulse's lease while its context is open, and cancels what runs inside when the lease is lost."""


@asynccontextmanager
async def in_task(queue: WorkQueue, pulse: Pulse, settings: Settings, clock: Clock) -> AsyncGenerator[None]:
    """A heartbeat for an exporter that shares its loop with a server.

    Raises:
        LeaseLost: on leaving, if the lease was lost.
    """

    async def beat() -> None:
        while not pulse.lost:
            await anyio.sleep(settings.renew_seconds)
            await _beat(queue, pulse, settings, clock)
        scope.cancel()

    with anyio.CancelScope() as scope:
        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
    if scope.cancelled_caught:
        raise LeaseLost


@asynccontextmanager
async def in_thread(queue: WorkQueue, pulse: Pulse, settings: Settings, clock: Clock) -> AsyncGenerator[None]:
    """A heartbeat for an exporter that may block its loop: in a worker process, and nowhere else.

    The queue is used from a second thread, with a loop of its own. Where the lease is lost and the work does not stop within
    another lease's time, because it hangs in a blocking call, the process is ended; whoever keeps it starts another.

    Raises:
        LeaseLost: on leaving, if the lease was lost.
    """
    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def beat() -> None:
        runner = asyncio.Runner()  # makes its loop at the first beat, which most slices never need
        try:
            while not pulse.lost and not stopped.wait(settings.renew_seconds):
                runner.run(_beat(queue, pulse, settings, clock))
            if pulse.lost:
                loop.call_soon_threadsafe(scope.cancel)
                if not stopped.wait(settings.lease_seconds):
                    _log.critical("worker %s hangs in a call that nothing can interrupt, and is ended", pulse.lease.worker)
                    os._exit(1)
        finally:
            runner.close()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    with anyio.CancelScope() as scope:
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
    if scope.cancelled_caught:
        raise LeaseLost


async def _beat(queue: WorkQueue, pulse: Pulse, settings: Settings, clock: Clock) -> None:
    now = clock()
    if now >= after(pulse.lease.job.created_at, settings.deadline):
        pulse.lost = True  # it runs out by itself; a sweep fails the job
        return
    try:
        renewed = await queue.renew(pulse.lease, now, lease_seconds=settings.lease_seconds, done=pulse.done)
    except Exception:  # noqa: BLE001 - a store that cannot answer just now; the lease outlives some missed beats
        _log.exception("the lease on job %s could not be renewed", pulse.lease.job.id)
    else:
        pulse.lost = not renewed
