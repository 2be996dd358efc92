"""The task of remove-all jobs: their plan, and the removal of one batch."""

from collections.abc import Sequence

import anyio

from fhir_bulk_middleware.contract.deletes import SupportsBatchDelete, SupportsOutbox
from fhir_bulk_middleware.contract.events import Cancelled, Deleted, DeleteIntended, RemovalKind
from fhir_bulk_middleware.contract.job import Codec, FileKind, Job, Part, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.removal import Batch, BatchId, Version
from fhir_bulk_middleware.delete.journal import JournalledDeletes
from fhir_bulk_middleware.delete.outbox_draining import Outbox, as_note
from fhir_bulk_middleware.delete.record import Record
from fhir_bulk_middleware.files.part import PartEncoder
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.completion import after_completion
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.lease_keeper import HeldLease, LeaseLost

__all__ = ["RemovalTask"]

_ONE_BY_ONE = 50
"""Resources of a batch that are removed one at a time, so that progress is seen while the storage is slow."""


class RemovalTask:
    """The `Task` of remove-all jobs.

    Args:
        journal: removes batches and journals them; None if the adapter has no journal (any more).
        jobs: the job store.
        outputs: keeps the records of what came of each resource.
        observers: receive the events.
        outbox: sends the events of recorded removals.
        settings: the number of resources in a batch.
        clock: the current time.
    """

    def __init__(
        self,
        *,
        journal: SupportsBatchDelete | None,
        jobs: JobStore,
        outputs: OutputStore,
        observers: Observers,
        outbox: Outbox,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._jobs = jobs
        self._outputs = outputs
        self._observers = observers
        self._outbox = outbox
        self._settings = settings
        self._clock = clock

    async def plan(self, lease: Lease) -> Plan:
        """See `Task`. Each batch is a slice, whose range is that of its frozen versions."""
        job, all_ = lease.job, len(lease.rows.versions)
        size = self._settings.removal_batch
        if isinstance(self._journal, JournalledDeletes):
            size = min(size, _ONE_BY_ONE)
        ranges = [(first, min(first + size, all_)) for first in range(0, all_, size)]
        (type_,) = job.request.types
        slices = tuple(
            Slice(number=number, kind=FileKind.OUTPUT, type=type_, range=f"{first}-{end}", estimate=end - first)
            for number, (first, end) in enumerate(ranges)
        )
        return Plan(job.created_at, slices)

    async def run(self, held: HeldLease, piece: Slice) -> None:
        """See `Task`.

        Raises:
            TypeError: the adapter has no journal; it was changed while the job ran.
        """
        if self._journal is None:
            raise TypeError("a remove-all needs a journal, and this adapter has none: was it changed while the job ran?")
        await _BatchRemoval(
            journal=self._journal,
            jobs=self._jobs,
            outputs=self._outputs,
            observers=self._observers,
            outbox=self._outbox,
            clock=self._clock,
            held=held,
            piece=piece,
        ).run()


class _BatchRemoval:
    """Carries out one slice of a remove-all, which is one batch of its journal.

    The journal removes a batch once, however often it is begun, and returns the outcomes of the first time. So repeated attempts
    write the same records. If the journal is an outbox (`SupportsOutbox`), the events of the removals are sent from there, before
    the batch counts as done.
    """

    def __init__(
        self,
        *,
        journal: SupportsBatchDelete,
        jobs: JobStore,
        outputs: OutputStore,
        observers: Observers,
        outbox: Outbox,
        clock: Clock,
        held: HeldLease,
        piece: Slice,
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._jobs = jobs
        self._outputs = outputs
        self._observers = observers
        self._clock = clock
        self._held = held
        self._lease = held.lease
        self._slice = piece

    async def run(self) -> None:
        """Remove the batch and record what came of it.

        Raises:
            LeaseLost: another worker has the slice, or the run has ended.
        """
        job, rows = self._lease.job, self._lease.rows
        first, end = map(int, self._slice.range.split("-"))
        versions = tuple(Version(id_, version) for id_, version in rows.versions[first:end])
        await self._intend(job, versions)
        batch = Batch(
            id=BatchId(job.id, self._slice.number),
            type=self._slice.type,
            versions=versions,
            rights=rows.rights,
            note=as_note(self._event(())),
        )
        outcomes = await self._journal.remove_batch(batch)
        if outcomes is None:
            await self._finish_cancel(job)
            raise LeaseLost
        await self._outbox.empty()
        records = [Record(version, outcome) for version, outcome in zip(versions, outcomes, strict=True)]
        removed = [record for record in records if record.outcome is DeleteOutcome.DELETED]
        left = [record for record in records if record.outcome is not DeleteOutcome.DELETED]
        parts: list[Part] = []
        for kind, some in ((FileKind.OUTPUT, removed), (FileKind.ERROR, left)):
            if some:
                parts.append(await self._write(len(parts), kind, some))
        self._held.done = len(records)
        now = self._clock()
        recorded = await self._jobs.checkpoint(self._lease, parts, None, now, done=len(records), finished=True)
        if not recorded:
            raise LeaseLost
        # The lease ended with the checkpoint; the lease keeper may notice that at any moment and cancel this task.
        with anyio.CancelScope(shield=True):
            if removed and not isinstance(self._journal, SupportsOutbox):
                await self._observers.tell(self._event(removed))
            if recorded is Recorded.COMPLETED:
                await after_completion(job, now, jobs=self._jobs, outputs=self._outputs, observers=self._observers)

    async def _intend(self, job: Job, versions: Sequence[Version]) -> None:
        """Record the batch before it removes anything (law 37); if an audit refuses, the slice is tried again later."""
        await self._observers.require(
            DeleteIntended(
                at=self._clock(),
                mount=job.mount,
                owner=job.owner,
                removal=RemovalKind.ALL,
                type=self._slice.type,
                references=tuple(f"{self._slice.type}/{version.id}" for version in versions),
                job_id=job.id,
            )
        )

    def _event(self, removed: Sequence[Record]) -> Deleted:
        job = self._lease.job
        return Deleted(
            at=self._clock(),
            mount=job.mount,
            owner=job.owner,
            removal=RemovalKind.ALL,
            type=self._slice.type,
            references=tuple(f"{self._slice.type}/{record.version.id}" for record in removed),
            record_id=f"{job.id}.{self._slice.number}",
        )

    async def _finish_cancel(self, job: Job) -> None:
        """The run has ended, but not the job: if a cancel ended the run, finish it, since its process may have died."""
        if not (await self._journal.end_run(job.id)).cancelled:
            return  # the deadline ended it: a sweep fails the job
        current = await self._jobs.find(job.id, job.mount, job.owner)
        while current is not None and current.state.working:
            cancelled = current.cancelled(self._clock())
            if await self._jobs.replace(cancelled):
                await self._observers.tell(Cancelled(at=cancelled.changed_at, mount=job.mount, owner=job.owner, job_id=job.id))
                return
            current = await self._jobs.find(job.id, job.mount, job.owner)

    async def _write(self, number: int, kind: FileKind, records: Sequence[Record]) -> Part:
        codec = self._lease.job.codec or Codec.PLAIN
        encoder = PartEncoder(codec)
        job_id = self._lease.job.id
        key = f"{job_id}/{self._slice.number}-{number}.{self._lease.attempt}.removed"
        async with self._outputs.create(key) as sink:
            await sink.write(encoder.encode(b"".join(record.line() for record in records)))
            await sink.write(encoder.finish())
            await sink.seal()
        found = encoder.summary
        return Part(
            file_id=file_id(job_id, self._slice.number, number),
            slice=self._slice.number,
            number=number,
            kind=kind,
            type=self._slice.type,
            key=key,
            codec=codec,
            count=len(records),
            size=found.size,
            sha256=found.sha256,
            stored_size=found.stored_size,
            flush_points=found.flush_points,
            sealed_at=self._clock(),
        )
