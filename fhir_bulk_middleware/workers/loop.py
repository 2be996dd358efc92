"""One worker's day: do what is there, then wait for a ring or a second, whichever comes first."""

import logging
from collections.abc import Awaitable, Callable

import anyio

from fhir_bulk_middleware.contract.running import Work

__all__ = ["keep_working"]

_log = logging.getLogger("fhir_bulk_middleware")

_POLL = 1.0
_PAUSE_SHORTEST = 0.05
_PAUSE_LONGEST = 30.0


async def keep_working(work: Work, worker: str, wait: Callable[[float], Awaitable[None]], tell: Callable[[], None]) -> None:
    """Work until cancelled. Work that raises is logged, and tried again after a pause that grows.

    Args:
        work: what to do.
        worker: in whose name.
        wait: waits for a ring, at most so many seconds.
        tell: tells the other workers that there is something: one step may have made work for all of them.
    """
    failures = 0
    while True:
        told = False
        try:
            while await work.step(worker):
                failures = 0
                if not told:
                    tell()
                    told = True
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 - a store that is away must not end its workers
            _log.exception("worker %s: the work could not go on", worker)
            await anyio.sleep(min(_PAUSE_SHORTEST * 2**failures, _PAUSE_LONGEST))
            failures = min(failures + 1, 16)
        else:
            await wait(_POLL)
