"""Delivers events to one audit, and counts events that it missed."""

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
    """Delivers events to an audit, in order; after missed events it first delivers a summary of them.

    After a timeout it does not try again for a second, so that a stopped process with the audit's lock does not delay each
    request by the whole timeout.

    Args:
        audit: the audit.
        patience: timeout in seconds.
        clock: returns the current time.
        monotonic: returns the seconds of a monotonic clock.
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
        """The name of the audit's class, for logs and metrics."""
        return type(self.audit).__name__

    async def tell(self, event: Event) -> bool:
        """Deliver an event; whether the audit recorded it. Cancellation does not interrupt the delivery."""
        return await self._filled_gap() and await self._observed(event)

    def miss(self, event: Event) -> None:
        """Count an event that happened without a record."""
        self._missed[name(event)] += 1
        self._first = event.at if self._first is None else min(self._first, event.at)
        self._last = event.at if self._last is None else max(self._last, event.at)
        self._mount = event.mount

    async def close(self) -> None:
        """Deliver the summary of missed events if possible; otherwise log it."""
        if not await self._filled_gap() and self._missed:
            _log.error("%s missed %d events: %s", self.name, self._missed.total(), dict(self._missed))

    async def _filled_gap(self) -> bool:
        if self._first is None:
            return True
        async with self._filling:  # so that two concurrent callers do not both deliver the summary
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
        # Events missed during this delivery stay for the next summary.
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
        except Exception as error:  # noqa: BLE001 - after any exception the event is not recorded
            # A disk can be full for hours: only the first failure is logged with its traceback.
            _log.error("%s missed the event %s: %s", self.name, name(event), error, exc_info=not self._failing)
            self._failing = True
            if isinstance(error, TimeoutError):
                self._resting_until = self._monotonic() + _PAUSE
            return False
        self._failing = False
        return True
