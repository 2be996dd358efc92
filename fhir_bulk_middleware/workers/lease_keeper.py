"""Renews the lease of a piece of work while it is carried out.

In the server's event loop a task does it; in a worker process, where adapters and stores may block the loop, a thread. Both stop
at the job's deadline, so that a worker that hangs does not keep its lease for ever.
"""

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio

from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.instant import Clock, Instant, after, seconds_between
from fhir_bulk_middleware.settings import Settings

__all__ = ["HeldLease", "LeaseKeeper", "LeaseLost", "ThreadLeaseKeeper", "keep_in_task"]

_log = logging.getLogger("fhir_bulk_middleware")


class LeaseLost(Exception):  # noqa: N818 - an outcome, not an error of the program
    """The lease is no longer current, so nothing may be published (law 18)."""


@dataclass(slots=True)
class HeldLease:
    """A lease with the state that worker and lease keeper share.

    Attributes:
        lease: the lease.
        done: the number of resources of the slice that were read; set by the worker.
        lost: whether the lease is lost; set by the lease keeper.
        moved: the last new value of `done` and when it was seen; None after a standstill was logged.
    """

    lease: Lease
    done: int = 0
    lost: bool = False
    moved: tuple[int, Instant] | None = (-1, Instant(0))

    def look(self, now: Instant, patience: float) -> None:
        """Log once if nothing was read for `patience` seconds. A hanging adapter is ended by a cancel or the deadline only."""
        if self.moved is None or self.done != self.moved[0]:
            self.moved = None if self.moved is None else (self.done, now)
        elif seconds_between(self.moved[1], now) > patience:
            self.moved = None
            what = "its plan" if self.lease.slice is None else f"slice {self.lease.slice.number} ({self.lease.slice.type})"
            _log.warning(
                "worker %s: nothing was read for %s of job %s in the last %g seconds: does the adapter hang?",
                self.lease.worker,
                what,
                self.lease.job.id,
                patience,
            )


LeaseKeeper = Callable[[JobStore, HeldLease, Settings, Clock], AbstractAsyncContextManager[None]]
"""Renews a held lease while its context is open, and cancels what runs inside when the lease is lost."""


@asynccontextmanager
async def keep_in_task(jobs: JobStore, held: HeldLease, settings: Settings, clock: Clock) -> AsyncGenerator[None]:
    """Renew the lease from a task, for work in a server's event loop.

    Raises:
        LeaseLost: on exit, if the lease was lost.
    """

    async def beat() -> None:
        while not held.lost:
            await anyio.sleep(settings.renew_seconds)
            await _renew(jobs, held, settings, clock)
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


class ThreadLeaseKeeper:
    """Renews leases from a thread, for work that may block its event loop. Use it in a worker process only.

    One thread serves all pieces of work of a worker in turn, since a thread for each would cost more than a small piece does. It
    calls the job store in an event loop of its own. If a lease is lost and the work does not stop within another
    `lease_seconds`, because it hangs in a blocking call, the process ends itself and the pool starts another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn: _Turn | None = None
        self._thread: threading.Thread | None = None

    @asynccontextmanager
    async def __call__(self, jobs: JobStore, held: HeldLease, settings: Settings, clock: Clock) -> AsyncGenerator[None]:
        """See `LeaseKeeper`.

        Raises:
            LeaseLost: on exit, if the lease was lost.
        """
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # It holds a weak reference to this object, and ends with it.
            arguments = weakref.ref(self), settings.renew_seconds
            self._thread = threading.Thread(target=_renew_on, args=arguments, name="lease-keeper", daemon=True)
            self._thread.start()
        with anyio.CancelScope() as scope:
            self._turn = _Turn(jobs, held, settings, clock, lambda: loop.call_soon_threadsafe(scope.cancel))
            try:
                yield
            finally:
                with self._lock:  # waits for a renewal in progress
                    self._turn = None
        if scope.cancelled_caught:
            raise LeaseLost

    def beat(self, runner: asyncio.Runner) -> None:
        """Renew the lease of the current work, if there is any; runs in the thread."""
        with self._lock:
            turn = self._turn
            if turn is not None and not turn.held.lost:
                runner.run(_renew(turn.jobs, turn.held, turn.settings, turn.clock))
                turn.look()
        if turn is not None and turn.hangs:
            _log.critical("worker %s hangs in a call that nothing can interrupt, and is ended", turn.held.lease.worker)
            os._exit(1)


@dataclass(slots=True)
class _Turn:
    """The current piece of work, for the thread."""

    jobs: JobStore
    held: HeldLease
    settings: Settings
    clock: Clock
    cancel: Callable[[], object]
    lost_at: float = math.inf

    def look(self) -> None:
        """Cancel the work if its lease was found to be lost."""
        if self.held.lost:
            self.lost_at = time.monotonic()
            self.cancel()

    @property
    def hangs(self) -> bool:
        """Whether the work goes on although its lease has been lost for `lease_seconds`."""
        return time.monotonic() - self.lost_at > self.settings.lease_seconds


def _renew_on(keeper: "weakref.ref[ThreadLeaseKeeper]", seconds: float) -> None:
    with asyncio.Runner() as runner:  # makes its loop at the first beat
        while True:
            time.sleep(seconds)
            if (alive := keeper()) is None:
                return
            alive.beat(runner)
            del alive


async def _renew(jobs: JobStore, held: HeldLease, settings: Settings, clock: Clock) -> None:
    now = clock()
    held.look(now, settings.lease_seconds)
    if now >= after(held.lease.job.created_at, settings.deadline):
        held.lost = True  # it runs out, and a sweep fails the job
        return
    try:
        renewed = await jobs.renew(held.lease, now, lease_seconds=settings.lease_seconds, done=held.done)
    except Exception:  # noqa: BLE001 - the store may answer the next time; the lease outlives some missed renewals
        _log.exception("the lease on job %s could not be renewed", held.lease.job.id)
    else:
        held.lost = not renewed
