"""Deletes through our own log, for storages that keep no record of what they deleted (law 28).

A mark of intent is written to the log, the storage removes, and the mark is settled. A mark that a crash leaves in doubt is
settled later by reading the resource: if it is gone, it was deleted, and later exports list the deletion.
"""

import copy
from collections.abc import AsyncIterator, Iterable, Sequence

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import (
    DeletionLog,
    SupportsConditionalDelete,
)
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, Deletions, EveryPatient, Everything, NoPatient, Query
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
)
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsDeletions,
)
from fhir_bulk_middleware.delete.journalled_batch import JournalledBatch, ReadsAndDeletes
from fhir_bulk_middleware.delete.marks import Marking
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Clock, Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["JournalledDeletes"]

_PAGE = 1_000


class JournalledDeletes:
    """A wrapper of a storage that records each delete in the log, and answers from the log what was deleted.

    Args:
        resources: the storage, which removes one resource and can be read.
        several: finds and removes by criteria; None if the storage cannot.
        log: the log.
        version: the FHIR release of the resources.
        clock: the time of removals, for storages without a clock of their own.
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
        self._marking = Marking(resources, log, version, clock, base_urls)
        self._note = ""
        self._knows = isinstance(resources, SupportsDeletions)

    async def deletable(self, principal: Principal) -> Authorisation:
        """See `SupportsDelete`."""
        return await self._resources.deletable(principal)

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """See `SupportsDelete`."""
        before = await self._resources.current(type_, id_)
        if before is None or before.deleted:
            return await self._absent(type_, id_, if_version, rights)
        (mark,) = await self._log.intend([self._marking.mark(before, rights, self._note)]) or ()
        removal = await self._resources.remove(type_, id_, if_version, rights)
        if isinstance(removal, Removed):
            await self._log.settle([await self._marking.gone(mark, removal.resource)], [])
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
        marks = await self._log.intend([self._marking.mark(each, target.rights, self._note) for each in living]) or ()
        removed = await self._conditional().remove_all(target, matches)
        if removed is None or isinstance(removed, Protected):
            await self._log.settle([], marks)
            return removed
        as_removed = {resource.id: resource for resource in removed}
        await self._log.settle([await self._marking.gone(mark, as_removed[mark.id]) for mark in marks], [])
        return removed

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """See `SupportsBatchDelete`."""
        return await JournalledBatch(batch, self._resources, self._log, self._marking).remove()

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `SupportsBatchDelete`. A removal that is under way may still take effect, and is counted as in doubt."""
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

    async def settle_doubts(self, type_: str | None = None) -> None:
        """See `Marking`."""
        await self._marking.settle_doubts(type_)

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """See `SupportsDeletions`. Each resource is read, and left out if it lives again."""
        await self.settle_doubts(query.type)
        until = min((instant for instant in (query.window.until, query.as_of) if instant is not None), default=None)
        number = int(after or 0)
        while marks := await self._log.removed(query.type, query.window.since, until, number, _PAGE):
            number = marks[-1].number
            gone = [mark for mark in marks if _selected(query, mark) and not await self._marking.lives(mark)]
            if gone:
                yield Deletions(tuple(f"{mark.type}/{mark.id}" for mark in gone), str(number))

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`: the later of the log's horizon and the storage's."""
        own = await self._log.deletions_known_since()
        storage = await self._resources.deletions_known_since() if isinstance(self._resources, SupportsDeletionHorizon) else None
        return max((known for known in (own, storage) if known is not None), default=None)

    async def _absent(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """The answer if no resource lives: the storage's if it knows its deletions, otherwise the log's."""
        if not self._knows:
            return await self._known(type_, id_, rights)
        removal = await self._resources.remove(type_, id_, if_version, rights)
        if isinstance(removal, Removed):  # it was created just now
            (mark,) = await self._log.intend([self._marking.mark(removal.resource, rights, self._note)]) or ()
            await self._log.settle([await self._marking.gone(mark, removal.resource)], [])
        return removal

    async def _known(self, type_: str, id_: str, rights: str) -> Removal:
        """The log's answer for a resource that does not exist."""
        mark = await self._log.latest(type_, id_)
        return NeverExisted() if mark is None or mark.rights != rights else AlreadyDeleted(mark.version)

    def _conditional(self) -> SupportsConditionalDelete:
        if self._several is None:
            raise TypeError("this storage cannot delete by criteria")
        return self._several


def _selected(query: Query, mark: Mark) -> bool:
    match query.selection:
        case Everything():
            return True
        case EveryPatient():
            return any(owner.startswith("Patient/") for owner in mark.owners)
        case NoPatient():
            return not any(owner.startswith("Patient/") for owner in mark.owners)
        case Compartments(references):
            return not mark.owners.isdisjoint(references)
