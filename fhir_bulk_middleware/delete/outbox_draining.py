"""Telling observers of removals: each at least once, in order, whichever process dies when (law 37)."""

import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import anyio
from pydantic import TypeAdapter, ValidationError

from fhir_bulk_middleware.contract.deletes import SupportsOutbox
from fhir_bulk_middleware.contract.events import Deleted, Removal
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
    """What a storage keeps with a removal: the event, but for what only the removal can tell (`at` and `references`)."""
    return _EVENT.dump_json(event).decode()


class Outbox:
    """Empties the outboxes of storages into observers.

    A removal and its report are one transaction of the storage, so that whatever is gone is reported there. A report is forgotten
    only after observers were told of it, so that a process that dies, at whatever step, leaves it to the next one that comes by:
    each process after each removal, each sweep, and so each server at its start. Reports are leased to one teller at a time and
    told by number. So an observer hears of each for the first time in the order of the removals, and twice only where a teller
    died, or took longer than its lease; `Deleted.record_id` is the same then.

    Args:
        storages: what has an outbox.
        observers: who is told.
        clock: what time it is.
    """

    def __init__(self, storages: Sequence[SupportsOutbox], observers: Observers, clock: Clock) -> None:
        self._storages = tuple(storages)
        self._observers = observers
        self._clock = clock
        self._told: deque[str] = deque(maxlen=_REMEMBERED)

    async def empty(self) -> None:
        """Tell observers of all that is left; returns when they know.

        Where another process tells just now, this waits for it, ten seconds at most. What cannot be told now is left for later.
        """
        for storage in self._storages:
            try:
                await self._empty(storage)
            except Exception:  # noqa: BLE001 - a storage or an observer out of order; the report is kept, and told later
                _log.exception("removals that %s recorded could not be told, and will be later", type(storage).__name__)

    async def told(self, event: Deleted) -> None:
        """Tell of a removal that this process made and that was recorded under `as_note(event)`; and of all that is left.

        Observers that exist in this process only are told here, though another process told all others.
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
        """Tell observers; False if an audit could not record it, so that it must be told again before any other."""
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
        _log.exception("the note of removal %d is not ours; it is told without saying on whose behalf it was", report.number)
        return Deleted(at=report.at, mount="", owner=None, removal=Removal.ALL, type=report.type, references=())
