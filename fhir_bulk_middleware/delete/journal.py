"""Deletes through our own log, for storages that keep no account of what they deleted (law 28).

The log says what is about to be removed, then the storage removes, then the log says what came of it. What a crash leaves in
doubt is settled by reading the resource: if it is gone, it was deleted, and whoever asks for deletions from now on is told so.
"""

import copy
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import (
    DeletionLog,
    SupportsBatchDelete,
    SupportsConditionalDelete,
    SupportsDelete,
    SupportsOutbox,
)
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, Deletions, EveryPatient, Everything, Query
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Batch,
    Current,
    Mark,
    Matches,
    NeverExisted,
    Protected,
    Removal,
    Removed,
    Report,
    Tally,
    Target,
    batch_outcome,
)
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsDeletions,
    SupportsForgetting,
    SupportsRead,
    SupportsSnapshot,
)
from fhir_bulk_middleware.fhir import compartments
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["JournalledDeletes", "Sources", "sources_of"]

_PAGE = 1_000


class ReadsAndDeletes(SupportsRead, SupportsDelete, Protocol):
    """What the log needs of a storage."""


class JournalledDeletes:
    """Stands before a storage: its deletes leave a trace in the log, and the log answers for what was deleted.

    Args:
        resources: removes, and can be read.
        several: finds and removes by criteria, None if the storage cannot.
        log: the log.
        version: the release that the resources are written in.
        clock: what time it is, for storages without a clock of their own.
        base_urls: the base URLs under which an absolute reference leads to this storage (KO-85).
    """

    def __init__(
        self,
        resources: ReadsAndDeletes,
        several: SupportsConditionalDelete | None,
        log: DeletionLog,
        version: FhirVersion,
        clock: Clock,
        *,
        base_urls: Iterable[str] = (),
    ) -> None:
        self._resources = resources
        self._several = several
        self._log = log
        self._compartments = compartments.CompartmentMembership(version, base_urls)
        self._clock = clock
        self._note = ""
        self._knows = isinstance(resources, SupportsDeletions)

    async def deletable(self, principal: Principal) -> Authorisation:
        """See `SupportsDelete`."""
        return await self._resources.deletable(principal)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """See `SupportsDelete`; a storage that deletes without a trace gets one here."""
        before = await self._resources.current(type_, id_)
        if before is None or before.deleted:
            return await self._absent(type_, id_, if_version, rights)
        (mark,) = await self._log.intend([self._mark(before, rights, self._note)]) or ()
        removal = await self._resources.remove(type_, id_, if_version, rights)
        if isinstance(removal, Removed):
            await self._log.settle([await self._gone(mark, removal.resource)], [])
            return removal
        await self._log.settle([], [mark])
        lost = isinstance(removal, NeverExisted) and not self._knows
        return await self._known(type_, id_, rights) if lost else removal

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """See `SupportsConditionalDelete`."""
        return await self._conditional().find(target, at_most=at_most)

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | Protected | None:
        """See `SupportsConditionalDelete`."""
        found = [await self._resources.current(target.type, match.id) for match in matches.versions]
        living = [each for each in found if each is not None and not each.deleted]
        marks = await self._log.intend([self._mark(each, target.rights, self._note) for each in living]) or ()
        removed = await self._conditional().remove_all(target, matches)
        if removed is None or isinstance(removed, Protected):
            await self._log.settle([], marks)
            return removed
        as_removed = {resource.id: resource for resource in removed}
        await self._log.settle([await self._gone(mark, as_removed[mark.id]) for mark in marks], [])
        return removed

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """See `SupportsBatchDelete`.

        What is marked was as it was frozen when its mark was written. So in a batch that was begun before and not settled, which
        met a crash, whatever is marked and gone at its frozen version was removed by it.
        """
        known = await self._log.outcomes(batch.run, batch.number)
        if known is not None:
            return known
        marks: Sequence[Mark] | None = await self._log.begun(batch.run, batch.number)
        begun_before = bool(marks)
        if not begun_before:
            marks = await self._log.intend(await self._plan(batch), batch.run, batch.number)
        return None if marks is None else await self._remove_marked(batch, marks, begun_before=begun_before)

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `SupportsBatchDelete`; one removal that is under way may still take effect, and is counted as in doubt."""
        return await self._log.end_run(run, cancelled=cancelled)

    def recording(self, note: str) -> "JournalledDeletes":
        """See `SupportsOutbox`."""
        recording = copy.copy(self)
        recording._note = note  # noqa: SLF001 - its own
        return recording

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        return await self._log.unreported(teller, now, lease_seconds=lease_seconds, limit=limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        await self._log.reported(teller, numbers)

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """See `SupportsDeletions`. What lives again is left out, by reading it."""
        await self.settle_doubts(query.type)
        until = min((instant for instant in (query.window.until, query.as_of) if instant is not None), default=None)
        number = int(after or 0)
        while marks := await self._log.removed(query.type, query.window.since, until, number, _PAGE):
            number = marks[-1].number
            gone = [mark for mark in marks if _selected(query, mark) and not await self._lives(mark)]
            if gone:
                yield Deletions(tuple(f"{mark.type}/{mark.id}" for mark in gone), str(number))

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`: the later of the log's horizon and the storage's."""
        own = await self._log.deletions_known_since()
        storage = await self._resources.deletions_known_since() if isinstance(self._resources, SupportsDeletionHorizon) else None
        return max((known for known in (own, storage) if known is not None), default=None)

    async def _plan(self, batch: Batch) -> list[Mark]:
        """Marks of those that are as they were frozen."""
        found = [await self._resources.current(batch.type, frozen.id) for frozen in batch.versions]
        return [
            self._mark(current, batch.rights, batch.note)
            for frozen, current in zip(batch.versions, found, strict=True)
            if current is not None and not current.deleted and current.version == frozen.version
        ]

    async def _remove_marked(self, batch: Batch, marks: Sequence[Mark], *, begun_before: bool) -> Sequence[DeleteOutcome] | None:
        gone: list[Mark] = []
        left: list[Mark] = []
        outcomes: list[DeleteOutcome] = []
        marked = {mark.id: mark for mark in marks}
        for frozen in batch.versions:
            if await self._log.ended(batch.run):
                # An earlier attempt may have come further: then what is left of the batch stays in doubt, until it is read.
                settled = {mark.number for mark in gone}
                await self._log.settle(gone, left if begun_before else [mark for mark in marks if mark.number not in settled])
                return None
            mark = marked.get(frozen.id)
            removal = await self._resources.remove(batch.type, frozen.id, frozenset({frozen.version}), batch.rights)
            outcome = batch_outcome(removal)
            if mark is None:
                outcomes.append(outcome)
                continue
            if begun_before and (removal == NeverExisted() or removal == AlreadyDeleted(frozen.version)):
                outcome = DeleteOutcome.DELETED
            outcomes.append(outcome)
            if outcome is DeleteOutcome.DELETED:
                gone.append(await self._gone(mark, removal.resource if isinstance(removal, Removed) else None))
            else:
                left.append(mark)
        await self._log.settle(gone, left, run=batch.run, batch=batch.number, outcomes=outcomes)
        return await self._log.outcomes(batch.run, batch.number)

    async def _absent(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """What is answered where nothing lives. A storage that knows its deletions knows more of them than the log does."""
        if not self._knows:
            return await self._known(type_, id_, rights)
        removal = await self._resources.remove(type_, id_, if_version, rights)
        if isinstance(removal, Removed):  # it was created just now
            (mark,) = await self._log.intend([self._mark(removal.resource, rights, self._note)]) or ()
            await self._log.settle([await self._gone(mark, removal.resource)], [])
        return removal

    async def _known(self, type_: str, id_: str, rights: str) -> Removal:
        """What the log says of a resource that is not there."""
        mark = await self._log.latest(type_, id_)
        return NeverExisted() if mark is None or mark.rights != rights else AlreadyDeleted(mark.version)

    async def _lives(self, mark: Mark) -> bool:
        current = await self._resources.current(mark.type, mark.id)
        return current is not None and not current.deleted

    async def settle_doubts(self, type_: str | None = None) -> None:
        """Settle what is in doubt, of one type or of all: resources that are gone were deleted.

        Those that live stay in doubt: their removal may be under way just now. It is called before a cut is fixed, so that what a
        crash left in doubt is told in the export that the resource is missing from.
        """
        number = 0
        while marks := await self._log.doubtful(type_, number, _PAGE):
            number = marks[-1].number
            gone = [await self._gone(mark, None) for mark in marks if not await self._lives(mark)]
            if gone:
                await self._log.settle(gone, [])

    async def _gone(self, mark: Mark, resource: Current | None) -> Mark:
        """The mark of a resource that is gone now; with what was really removed, where that is known.

        It was gone when the storage says, for from then on exports as of an instant leave it out; else at the latest now.
        """
        mark = replace(mark, at=await self._gone_at(mark))
        return mark if resource is None else replace(mark, version=resource.version, owners=self._owners_of(resource))

    async def _gone_at(self, mark: Mark) -> Instant:
        deletion = await self._resources.current(mark.type, mark.id)
        if deletion is not None and deletion.deleted:
            return deletion.last_updated
        return await self._resources.now() if isinstance(self._resources, SupportsSnapshot) else self._clock()

    def _mark(self, resource: Current, rights: str, note: str) -> Mark:
        return Mark(
            type=resource.type,
            id=resource.id,
            version=resource.version,
            owners=self._owners_of(resource),
            rights=rights,
            note=note,
        )

    def _owners_of(self, resource: Current) -> frozenset[str]:
        return self._compartments.of(json.loads(resource.json), MEMBER_KINDS)

    def _conditional(self) -> SupportsConditionalDelete:
        if self._several is None:
            raise TypeError("this storage cannot delete by criteria")
        return self._several


@dataclass(frozen=True, slots=True)
class Sources:
    """Who does what for a storage; None for what nobody can do.

    Attributes:
        one: removes one resource.
        several: finds and removes by criteria.
        journal: removes in journalled batches.
        deletions: knows what was deleted.
        outboxes: record what is removed through the others (law 37); whoever is not among them does not.
        log: our log before the storage, None without one.
        horizon: says since when `deletions` tells all; None if it always does.
        forgetting: the storage and the log, as far as they forget deletions on request.
    """

    one: SupportsDelete | None
    several: SupportsConditionalDelete | None
    journal: SupportsBatchDelete | None
    deletions: SupportsDeletions | None
    outboxes: tuple[SupportsOutbox, ...] = ()
    log: JournalledDeletes | None = None
    horizon: SupportsDeletionHorizon | None = None
    forgetting: tuple[SupportsForgetting, ...] = ()


def sources_of(
    resources: object, log: DeletionLog | None, version: FhirVersion, clock: Clock, base_urls: Iterable[str] = ()
) -> Sources:
    """The storage itself, as far as it keeps account of its deletions and records them for observers; else the log before it.

    Raises:
        TypeError: the storage deletes, but neither it nor a log would know what was deleted; or it cannot be read, which the log
            needs.
    """
    several = resources if isinstance(resources, SupportsConditionalDelete) else None
    deletions = resources if isinstance(resources, SupportsDeletions) else None
    journal = resources if isinstance(resources, SupportsBatchDelete) and deletions is not None else None
    horizon = resources if isinstance(resources, SupportsDeletionHorizon) else None
    forgetting = tuple(
        each for each in (resources, log) if isinstance(each, SupportsForgetting) and isinstance(each, SupportsDeletionHorizon)
    )
    of_storage = Sources(None, None, None, deletions, horizon=horizon, forgetting=forgetting)
    if not isinstance(resources, SupportsDelete):
        return of_storage
    outbox = resources if isinstance(resources, SupportsOutbox) else None
    if log is None:
        return replace(of_storage, one=resources, several=several, journal=journal, outboxes=() if outbox is None else (outbox,))
    if not isinstance(resources, SupportsRead):
        raise TypeError(f"log: {type(resources).__name__} is no SupportsRead, which a log of its deletes needs; it lacks current")
    logged = JournalledDeletes(resources, several, log, version, clock, base_urls=base_urls)
    if deletions is not None and outbox is not None:
        return replace(
            of_storage, one=resources, several=several, journal=journal or logged, outboxes=(outbox, logged), log=logged
        )
    return replace(
        of_storage,
        one=logged,
        several=None if several is None else logged,
        journal=logged,
        deletions=deletions or logged,
        outboxes=(logged,),
        log=logged,
        horizon=logged if deletions is None else horizon,
    )


def _selected(query: Query, mark: Mark) -> bool:
    match query.selection:
        case Everything():
            return True
        case EveryPatient():
            return any(owner.startswith("Patient/") for owner in mark.owners)
        case Compartments(references):
            return not mark.owners.isdisjoint(references)
