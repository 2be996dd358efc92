"""One batch of an asynchronous remove-all, removed through our log of deletes (laws 26 and 28)."""

from collections.abc import Sequence
from typing import Protocol

from fhir_bulk_middleware.contract.deletes import DeletionLog, SupportsDelete
from fhir_bulk_middleware.contract.removal import AlreadyDeleted, Batch, Mark, NeverExisted, Removed, batch_outcome
from fhir_bulk_middleware.contract.storage import SupportsRead
from fhir_bulk_middleware.delete.marks import Marking
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["JournalledBatch", "ReadsAndDeletes"]


class ReadsAndDeletes(SupportsRead, SupportsDelete, Protocol):
    """What the log needs of a storage."""


class JournalledBatch:
    """Removes one batch through the log.

    A mark is written only for a resource that is as it was frozen. So if a batch was begun before and a crash left it unsettled,
    each of its marked resources that is gone at its frozen version was removed by it.

    Args:
        batch: what to remove.
        resources: the storage that removes it, one resource at a time.
        log: the journal of the run.
        marking: makes the marks.
    """

    def __init__(self, batch: Batch, resources: ReadsAndDeletes, log: DeletionLog, marking: Marking) -> None:
        self._batch = batch
        self._resources = resources
        self._log = log
        self._marking = marking

    async def remove(self) -> Sequence[DeleteOutcome] | None:
        """Remove the batch unless the log has its outcomes; see `SupportsBatchDelete.remove_batch`."""
        known = await self._log.progress(self._batch.id)
        if known.outcomes is not None:
            return known.outcomes
        if known.marks:
            return await self._remove_marked(known.marks, resumed=True)
        marks = await self._log.intend(await self._plan(), self._batch.id)
        return None if marks is None else await self._remove_marked(marks, resumed=False)

    async def _plan(self) -> list[Mark]:
        """Marks of the resources that are as they were frozen."""
        batch = self._batch
        found = [await self._resources.current(batch.type, frozen.id) for frozen in batch.versions]
        return [
            self._marking.mark(current, batch.rights, batch.note)
            for frozen, current in zip(batch.versions, found, strict=True)
            if current is not None and not current.deleted and current.version == frozen.version
        ]

    async def _remove_marked(self, marks: Sequence[Mark], *, resumed: bool) -> Sequence[DeleteOutcome] | None:
        batch = self._batch
        gone: list[Mark] = []
        left: list[Mark] = []
        outcomes: list[DeleteOutcome] = []
        marked = {mark.id: mark for mark in marks}
        for frozen in batch.versions:
            if await self._log.ended(batch.id.run):
                # An earlier attempt may have come further, so after a resumption the rest of the batch stays in doubt.
                settled = {mark.number for mark in gone}
                await self._log.settle(gone, left if resumed else [mark for mark in marks if mark.number not in settled])
                return None
            mark = marked.get(frozen.id)
            removal = await self._resources.remove(batch.type, frozen.id, frozenset({frozen.version}), batch.rights)
            outcome = batch_outcome(removal)
            if mark is None:
                outcomes.append(outcome)
                continue
            if resumed and (removal == NeverExisted() or removal == AlreadyDeleted(frozen.version)):
                outcome = DeleteOutcome.DELETED
            outcomes.append(outcome)
            if outcome is DeleteOutcome.DELETED:
                gone.append(await self._marking.gone(mark, removal.resource if isinstance(removal, Removed) else None))
            else:
                left.append(mark)
        await self._log.settle(gone, left, batch=batch.id, outcomes=outcomes)
        return (await self._log.progress(batch.id)).outcomes
