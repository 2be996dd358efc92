"""Delivers events to observers. A failing observer has no effect on the operation, but a failing audit can prevent it."""

import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Literal, cast

import anyio
from pydantic import JsonValue

from fhir_bulk_middleware.contract.events import AuditFailed, Event, RequestRefused, name
from fhir_bulk_middleware.contract.observer import Audit, Observer
from fhir_bulk_middleware.contract.recipes import as_json, from_json, make
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.observers.audit_detail import AuditDetail
from fhir_bulk_middleware.observers.audit_teller import AuditTeller
from fhir_bulk_middleware.observers.refusal_tally import RefusalTally
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Observers", "Unrecorded"]

_log = logging.getLogger("fhir_bulk_middleware")

_PATIENCE = 5.0
_INTERVAL = 60.0
_RETRY_AFTER = 5

OnAuditFailure = Literal["refuse", "go_on"]


class Unrecorded(Refused):
    """Refusal of an operation that an audit cannot record; it may succeed later."""

    def __init__(self) -> None:
        super().__init__(
            Reason.BUSY, "This server cannot write its audit record just now, so nothing was done.", retry_after=_RETRY_AFTER
        )


class Observers:
    """All observers of a server; audits (`Audit`) get each event first.

    Args:
        observers: the observers, in the order of delivery.
        patience: timeout of one observer in seconds.
        on_audit_failure: as `Settings.on_audit_failure`.
        detail: encodes patients and criteria for events.
        interval: seconds between two summaries of refusals.
        clock: returns the current time.
        listener: called with each event that `tell` delivers, before any observer; must not block or raise. It is no observer, so
            with a listener alone there still is nobody to report to.
    """

    def __init__(
        self,
        observers: Iterable[Observer] = (),
        *,
        patience: float = _PATIENCE,
        on_audit_failure: OnAuditFailure = "go_on",
        detail: AuditDetail | None = None,
        interval: float = _INTERVAL,
        clock: Clock = system_clock,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        self._listener = listener
        self._observers = tuple(observers)
        self._audits = tuple(AuditTeller(each, patience, clock) for each in self._observers if isinstance(each, Audit))
        self._others = tuple(each for each in self._observers if not isinstance(each, Audit))
        self._patience = patience
        self._refuses = on_audit_failure == "refuse"
        self._refusals = RefusalTally(interval, clock)
        self._interval = interval
        self._clock = clock
        self.detail = detail or AuditDetail()
        """The encoding of patients and criteria in events."""

    @property
    def all(self) -> tuple[Observer, ...]:
        """The observers, in the order of delivery."""
        return self._observers

    def __bool__(self) -> bool:
        """Whether there is an observer."""
        return bool(self._observers)

    async def tell(self, event: Event) -> None:
        """Deliver an event to all observers, and wait until each has it or failed. Audits that failed get a summary later.

        Cancellation does not interrupt the delivery, because the event has already happened.
        """
        if self._listener is not None:
            self._listener(event)
        if self._audits:
            if self._refusals.due:
                await self._sum_up()
            if not (isinstance(event, RequestRefused) and self._refusals.takes(event)):
                await self._record(event, gap=True)
        await self._tell_others(event)

    async def require(self, event: Event) -> None:
        """Record an event in the audits before it happens, and deliver it to all observers (law 37).

        Raises:
            Unrecorded: an audit could not record it and `on_audit_failure` is `refuse`; the caller must not go on.
        """
        if not await self._record(event, gap=not self._refuses) and self._refuses:
            raise Unrecorded
        await self._tell_others(event)

    async def deliver(self, event: Event) -> bool:
        """Deliver an event from an outbox to all observers; False if an audit could not record it.

        The caller must then deliver it again before any later event: at least once and in order. So it is not counted as missed.
        """
        if not await self._record(event, gap=False):
            return False
        await self._tell_others(event)
        return True

    async def keep_summing(self) -> None:
        """Deliver the summaries of refusals to the audits once in an interval, until cancelled."""
        while True:
            await anyio.sleep(self._interval)
            await self._sum_up()

    async def close(self) -> None:
        """Deliver the remaining summaries to the audits before the process ends."""
        await self._sum_up()
        for audit in self._audits:
            await audit.close()

    async def _sum_up(self) -> None:
        for event in self._refusals.drained():
            await self._record(event, gap=True)

    async def _record(self, event: Event, *, gap: bool) -> bool:
        """Whether every audit recorded the event."""
        all_have = True
        for audit in self._audits:
            if await audit.tell(event):
                continue
            all_have = False
            if gap:
                audit.miss(event)
            failed = AuditFailed(at=self._clock(), mount=event.mount, owner=None, audit=audit.name, missed=name(event))
            await self._tell_others(failed)
        return all_have

    async def _tell_others(self, event: Event) -> None:
        for observer in self._others:
            try:
                with anyio.fail_after(self._patience, shield=True):
                    await observer.observe(event)
            except Exception:  # noqa: BLE001 - a broken observer must not affect anything else
                _log.exception("%s missed the event %s", type(observer).__name__, name(event))

    @cached_property
    def only_here(self) -> "Observers":
        """Observers without a recipe, which get events of this process only."""
        own = [observer for observer in self._observers if not isinstance(observer, SupportsWorkerProcess)]
        policy: OnAuditFailure = "refuse" if self._refuses else "go_on"
        return Observers(own, patience=self._patience, on_audit_failure=policy, clock=self._clock)

    def recipes(self) -> list[JsonValue]:
        """The recipes of the observers that have one, as JSON, for worker processes."""
        return [as_json(observer.recipe()) for observer in self._observers if isinstance(observer, SupportsWorkerProcess)]

    @classmethod
    def from_recipes(
        cls,
        recipes: JsonValue,
        on_audit_failure: OnAuditFailure = "go_on",
        *,
        listener: Callable[[Event], None] | None = None,
    ) -> "Observers":
        """Make the observers from `recipes`."""
        if not isinstance(recipes, list):
            raise ValueError("not a list of recipes")  # noqa: TRY004 - malformed input, as in from_json
        observers = (cast("Observer", make(from_json(recipe))) for recipe in recipes)
        return cls(observers, on_audit_failure=on_audit_failure, listener=listener)
