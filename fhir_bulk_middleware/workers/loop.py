"""The loop of one worker: do all work there is, then wait for a wake-up or a second."""

import logging
from collections.abc import Awaitable, Callable

import anyio

from fhir_bulk_middleware.contract.running import Work

__all__ = ["keep_working"]

_log = logging.getLogger("fhir_bulk_middleware")

_POLL = 1.0
_PAUSE_SHORTEST = 0.05
_PAUSE_LONGEST = 30.0


async def keep_working(work: Work, worker: str, wait: Callable[[float], Awaitable[object]], wake: Callable[[], None]) -> None:
    """Work until cancelled. An exception is logged, and the work tried again after a pause that grows.

    Args:
        work: the work.
        worker: the name of this worker.
        wait: waits for a wake-up, at most so many seconds.
        wake: wakes the other workers, because one step may make work for all of them.
    """
    failures = 0
    while True:
        woke = False
        try:
            while await work.step(worker):
                failures = 0
                if not woke:
                    wake()
                    woke = True
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 - an unavailable store must not end its workers
            _log.exception("worker %s: the work could not go on", worker)
            await anyio.sleep(min(_PAUSE_SHORTEST * 2**failures, _PAUSE_LONGEST))
            failures = min(failures + 1, 16)
        else:
            await wait(_POLL)
