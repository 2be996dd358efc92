"""Telling observers what happens, so that none of them can harm what it is told about, but audits can keep it from happening."""

import logging
from collections.abc import Iterable
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
    """An audit cannot record what is about to happen, so it must not happen; a moment later it may."""

    def __init__(self) -> None:
        super().__init__(
            Reason.BUSY, "This server cannot write its audit record just now, so nothing was done.", retry_after=_RETRY_AFTER
        )


class Observers:
    """All who want to know; audits among them are told first (`Audit`).

    Args:
        observers: in the order in which they are told.
        patience: seconds that one of them may take.
        on_audit_failure: what becomes of what an audit cannot record (`Settings.on_audit_failure`).
        detail: how patients and criteria are named.
        interval: seconds between two sums of refusals.
        clock: what time it is.
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
    ) -> None:
        self._observers = tuple(observers)
        self._audits = tuple(AuditTeller(each, patience, clock) for each in self._observers if isinstance(each, Audit))
        self._others = tuple(each for each in self._observers if not isinstance(each, Audit))
        self._patience = patience
        self._refuses = on_audit_failure == "refuse"
        self._refusals = RefusalTally(interval, clock)
        self._interval = interval
        self._clock = clock
        self.detail = detail or AuditDetail()
        """How events name patients and criteria."""

    def __bool__(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._observers)

    async def tell(self, event: Event) -> None:
        """Tell everybody of what has happened; returns when all know, or could not be told. What an audit misses is a gap.

        It goes on though the teller is being cancelled: what has happened has happened.
        """
        if self._audits:
            if self._refusals.due:
                await self._sum_up()
            if not (isinstance(event, RequestRefused) and self._refusals.takes(event)):
                await self._record(event, gap=True)
        await self._tell_others(event)

    async def require(self, event: Event) -> None:
        """Have what is about to happen recorded before it happens, and tell everybody (law 37).

        Raises:
            Unrecorded: an audit could not record it and `on_audit_failure` is `refuse`; it must not happen then.
        """
        if not await self._record(event, gap=not self._refuses) and self._refuses:
            raise Unrecorded
        await self._tell_others(event)

    async def deliver(self, event: Event) -> bool:
        """Tell everybody of what has happened and is kept elsewhere; False if an audit could not record it.

        Then it is to be delivered again, before any that came after it: at least once and in order, and so it is no gap.
        """
        if not await self._record(event, gap=False):
            return False
        await self._tell_others(event)
        return True

    async def keep_summing(self) -> None:
        """Tell audits the sums of refusals, once in an interval, until cancelled."""
        while True:
            await anyio.sleep(self._interval)
            await self._sum_up()

    async def close(self) -> None:
        """Tell audits what is left to tell before the process ends."""
        await self._sum_up()
        for audit in self._audits:
            await audit.close()

    async def _sum_up(self) -> None:
        for event in self._refusals.drained():
            await self._record(event, gap=True)

    async def _record(self, event: Event, *, gap: bool) -> bool:
        """Whether every audit has it."""
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
            except Exception:  # noqa: BLE001 - an observer that is out of order must not put anybody else out of order
                _log.exception("%s could not be told of %s", type(observer).__name__, name(event))

    @cached_property
    def only_here(self) -> "Observers":
        """Those that no other process has: they hear of this process alone."""
        own = [observer for observer in self._observers if not isinstance(observer, SupportsWorkerProcess)]
        policy: OnAuditFailure = "refuse" if self._refuses else "go_on"
        return Observers(own, patience=self._patience, on_audit_failure=policy, clock=self._clock)

    def recipes(self) -> list[JsonValue]:
        """How to make those again who can be, for a worker process; the others hear of this process only."""
        return [as_json(observer.recipe()) for observer in self._observers if isinstance(observer, SupportsWorkerProcess)]

    @classmethod
    def from_recipes(cls, recipes: JsonValue, on_audit_failure: OnAuditFailure = "go_on") -> "Observers":
        """The observers of `recipes`."""
        if not isinstance(recipes, list):
            raise ValueError("not a list of recipes")  # noqa: TRY004 - malformed input, as in from_json
        return cls((cast("Observer", make(from_json(recipe))) for recipe in recipes), on_audit_failure=on_audit_failure)
