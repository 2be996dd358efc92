"""Telling one audit, and remembering what it could not be told."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import anyio

from fhir_bulk_middleware.contract.events import AuditGap, Event, name
from fhir_bulk_middleware.contract.observer import Audit
from fhir_bulk_middleware.instant import Clock, Instant

__all__ = ["AuditTeller"]

_log = logging.getLogger("fhir_bulk_middleware")

_PAUSE = 1.0


class AuditTeller:
    """Tells an audit, in order; after a gap it tells of the gap first.

    An audit that hangs is left alone for a second after each try, so that a stopped process that holds its lock does not hold up
    every request for as long as the try takes.

    Args:
        audit: who is told.
        patience: seconds that it may take.
        clock: what time it is.
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(self, audit: Audit, patience: float, clock: Clock, monotonic: Callable[[], float] = anyio.current_time) -> None:
        self.audit = audit
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._resting_until = 0.0
        self._missed: Counter[str] = Counter()
        self._first: Instant | None = None
        self._last: Instant | None = None
        self._mount = ""
        self._failing = False
        self._filling = asyncio.Lock()

    @property
    def name(self) -> str:
        """Of its class, for logs and metrics."""
        return type(self.audit).__name__

    async def tell(self, event: Event) -> bool:
        """Whether the audit has the event now. It goes on though the teller is being cancelled."""
        return await self._filled_gap() and await self._observed(event)

    def miss(self, event: Event) -> None:
        """The event happened, and the audit does not have it: it belongs to the gap."""
        self._missed[name(event)] += 1
        self._first = event.at if self._first is None else min(self._first, event.at)
        self._last = event.at if self._last is None else max(self._last, event.at)
        self._mount = event.mount

    async def close(self) -> None:
        """Say what was missed, as far as that is possible; what is left is in the log."""
        if not await self._filled_gap() and self._missed:
            _log.error("%s could not be told of %d events: %s", self.name, self._missed.total(), dict(self._missed))

    async def _filled_gap(self) -> bool:
        if self._first is None:
            return True
        async with self._filling:  # so that two who find the gap do not both tell of it
            return await self._told_of_gap()

    async def _told_of_gap(self) -> bool:
        if self._first is None or self._last is None:
            return True
        missed = self._missed.copy()
        gap = AuditGap(
            at=self._clock(),
            mount=self._mount,
            owner=None,
            count=missed.total(),
            first=self._first,
            last=self._last,
            missed=dict(missed),
        )
        if not await self._observed(gap):
            return False
        # What others missed while this was written stays for the next one.
        self._missed -= missed
        if not self._missed:
            self._first = self._last = None
        return True

    async def _observed(self, event: Event) -> bool:
        if self._monotonic() < self._resting_until:
            return False
        try:
            with anyio.fail_after(self._patience, shield=True):
                await self.audit.observe(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the event is not recorded
            # A disk can be full for hours: where it began is logged whole, the rest in a line each.
            _log.error("%s could not be told of %s: %s", self.name, name(event), error, exc_info=not self._failing)
            self._failing = True
            if isinstance(error, TimeoutError):
                self._resting_until = self._monotonic() + _PAUSE
            return False
        self._failing = False
        return True
