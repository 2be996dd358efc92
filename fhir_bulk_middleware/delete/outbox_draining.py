"""Sends the events of removals to observers: at least once, in order, whichever process dies (law 37)."""

import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import anyio
from pydantic import TypeAdapter, ValidationError

from fhir_bulk_middleware.contract.deletes import SupportsOutbox
from fhir_bulk_middleware.contract.events import Deleted, RemovalKind
from fhir_bulk_middleware.contract.removal import Report
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.observers.observing import Observers

__all__ = ["Outbox", "as_note"]

_log = logging.getLogger("fhir_bulk_middleware")

_EVENT = TypeAdapter(Deleted)
_AT_ONCE = 20
_LEASE_SECONDS = 30.0
_PATIENCE = 10.0
_PAUSE = 0.01
_REMEMBERED = 1_000


def as_note(event: Deleted) -> str:
    """The note that a storage keeps with a removal: the event, except for `at` and `references`, which the removal determines."""
    return _EVENT.dump_json(event).decode()


class Outbox:
    """Sends the reports in the outboxes of storages to observers.

    A removal and its report are one transaction of the storage, so every removal has a report. A report is deleted only after the
    observers received it. So if a process dies at any step, another one sends it: each process does so after each of its
    removals and with each sweep, the first of which is at server start. One teller at a time leases the reports and sends them by
    number. So observers first receive them in the order of the removals, and twice only if a teller died or exceeded its lease;
    `Deleted.record_id` is the same then.

    Args:
        storages: the storages with an outbox.
        observers: receive the events.
        clock: measures leases.
    """

    def __init__(self, storages: Sequence[SupportsOutbox], observers: Observers, clock: Clock) -> None:
        self._storages = tuple(storages)
        self._observers = observers
        self._clock = clock
        self._told: deque[str] = deque(maxlen=_REMEMBERED)

    async def empty(self) -> None:
        """Send all reports that are left; returns when observers have received them.

        While another process sends, this waits for it, at most ten seconds. Reports that cannot be sent now stay for later.
        """
        for storage in self._storages:
            try:
                await self._empty(storage)
            except Exception:  # noqa: BLE001 - a failing storage or observer; the report is kept
                _log.exception(
                    "removals recorded by %s could not be sent to observers; they will be sent later", type(storage).__name__
                )

    async def told(self, event: Deleted) -> None:
        """Send the event of a removal by this process, which was recorded under `as_note(event)`, and all other reports.

        Observers that exist in this process only receive it here, even if another process sent it to all others.
        """
        await self.empty()
        if event.record_id not in self._told:
            await self._observers.only_here.tell(event)

    async def _empty(self, storage: SupportsOutbox) -> None:
        teller = uuid.uuid4().hex
        patience = anyio.current_time() + _PATIENCE
        while (reports := await self._leased(storage, teller)) or reports is None:
            if reports is None:
                if anyio.current_time() > patience:
                    return
                await anyio.sleep(_PAUSE)
                continue
            told: list[int] = []
            try:
                for report in reports:
                    if not await self._delivered(report):
                        return
                    told.append(report.number)
            finally:
                with anyio.CancelScope(shield=True):
                    await storage.reported(teller, told)

    async def _leased(self, storage: SupportsOutbox, teller: str) -> Sequence[Report] | None:
        return await storage.unreported(teller, self._clock(), lease_seconds=_LEASE_SECONDS, limit=_AT_ONCE)

    async def _delivered(self, report: Report) -> bool:
        """Send a report; False if an audit could not record it, so that it must be sent again before any other."""
        event = _event(report)
        delivered = await self._observers.deliver(
            replace(
                event,
                at=report.at,
                type=report.type,
                references=tuple(f"{report.type}/{id_}" for id_ in report.ids),
                record_id=f"{event.record_id}.{report.number}",
            )
        )
        if delivered:
            self._told.append(event.record_id)
        return delivered


def _event(report: Report) -> Deleted:
    try:
        return _EVENT.validate_json(report.note)
    except ValidationError:
        _log.exception("the note of removal %d is malformed; its event has no owner", report.number)
        return Deleted(at=report.at, mount="", owner=None, removal=RemovalKind.ALL, type=report.type, references=())
