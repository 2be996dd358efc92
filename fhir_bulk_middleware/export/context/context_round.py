"""Plans the last round of a Patient or Group export: its context, and what a mirror has to drop (laws 34 and 40).

It begins when all other output is written, since only exported lines name context. What the round finds is frozen in lists beside
the parts, and its slices read those lists, so that a slice that is tried again gives the same bytes (law 5).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import anyio.lowlevel
from pydantic import TypeAdapter

from fhir_bulk_middleware.contract.job import FileKind, Job, Origin, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import NoPatient, Rows
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.export.context.closure import Closure
from fhir_bulk_middleware.export.context.cohort_history import CohortHistory
from fhir_bulk_middleware.export.context.cohort_losses import BATCH, CohortLosses, changes, window_query
from fhir_bulk_middleware.export.context.context_reader import ContextReader, named_lines
from fhir_bulk_middleware.export.context.reference_list import ListWriter, StoredList, batches
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.streams.closing import closing
from fhir_bulk_middleware.workers.lease_keeper import LeaseLost

__all__ = ["BATCH", "ContextRound", "follow", "stored_list"]

_STORED = TypeAdapter(StoredList)


def stored_list(piece: Slice) -> StoredList:
    """The list that a slice of this round reads."""
    return _STORED.validate_json(piece.range)


async def follow(closure: Closure, reader: ContextReader, scan: ReferenceScan, as_of: Instant | None) -> None:
    """Read all references of the closure, and those that the context names in turn, until no new ones appear."""
    while (unread := closure.unread(BATCH)) is not None:
        type_, ids = unread
        await anyio.lowlevel.checkpoint()  # a long closure can be cancelled, and lets a server answer
        context = set[str]()
        async with closing(reader.read(type_, ids, as_of)) as pages:
            async for page in pages:
                context.update(page.ids)
                closure.add(reference.decode() for reference in scan.of(page.page.lines))
        closure.settle(type_, ids, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRound:
    """The last round of one export.

    Attributes:
        resources: the storage adapter.
        jobs: the job store.
        outputs: the output store.
        lease: on the planning of the round.
        reader: reads context; None if the export has none.
        history: what the cohort held at other instants; None if the storage cannot tell, or without `_since`.
        losses: finds what a mirror has to drop; None without `_since`.
        changed: with `_since`, the types of which something may have changed in the window; others are not read for changes.
        as_of: the instant of context; None for a storage without snapshots.
        slice_bytes: the wanted size of a slice.
    """

    resources: SupportsExport
    jobs: JobStore
    outputs: OutputStore
    lease: Lease
    reader: ContextReader | None
    history: CohortHistory | None
    losses: CohortLosses | None
    changed: frozenset[str]
    as_of: Instant | None
    slice_bytes: int

    async def plan(self) -> Plan:
        """Find the context, its deletions, and what left; freeze them in a list, and make slices of it.

        Raises:
            LeaseLost: the job has ended.
        """
        with Closure() as context, Closure() as gone, Closure() as left:
            if self.reader is not None:
                await self._collect(context, self.reader)
            if self.losses is not None:
                await self.losses.find_deleted(gone)
                await self.losses.find_left(context, left)
            standing = await self.jobs.standing(self._job.id, self._job.mount, self._job.owner)
            if standing is None:
                raise LeaseLost
            async with ListWriter(self.outputs, f"{self._job.id}/context.{self.lease.attempt}.list") as writer:
                slices = [
                    *[piece async for piece in self._output(context, writer)],
                    *[piece async for piece in self._dropped(FileKind.DELETED, gone, writer)],
                    *[piece async for piece in self._dropped(FileKind.LEFT, left, writer)],
                ]
                await writer.seal()
        numbered = [replace(piece, number=standing.slices + place) for place, piece in enumerate(slices)]
        return Plan(self._cut, tuple(numbered))

    @property
    def _job(self) -> Job:
        return self.lease.job

    @property
    def _rows(self) -> Rows:
        return self.lease.rows

    @property
    def _cut(self) -> Instant:
        return self._job.cut or self._job.created_at

    async def _collect(self, context: Closure, reader: ContextReader) -> None:
        """The context of the export: what exported lines name, what changed and is named by other lines, and what those name."""
        scan = ReferenceScan(self._rows.context, self._job.request.options.base_urls)
        if self._job.request.options.organised_by is None:
            standing = await self.jobs.standing(self._job.id, self._job.mount, self._job.owner)
            for part in () if standing is None else standing.parts:
                if part.references_key is not None:
                    listed = StoredList(part.references_key, 0, part.references_size)
                    async with closing(batches(self.outputs, listed, BATCH)) as names:
                        async for batch in names:
                            context.add(batch)
        if self.history is not None:
            for type_ in (type_ for type_ in self._rows.context if type_ in self.changed):
                async for page in changes(self.resources, window_query(self._job, self._rows, type_, NoPatient(), self.as_of)):
                    for line, resource in named_lines(page, type_):
                        reference = f"{type_}/{resource['id']}"
                        if reader.admits(line, resource) and await self.history.is_named(reference, self.as_of or self._cut):
                            context.add([reference])
        await follow(context, reader, scan, self.as_of)

    async def _output(self, context: Closure, writer: ListWriter) -> AsyncIterator[Slice]:
        """Slices of the context by type. Organised output has its context in its blocks."""
        organised = self._job.request.options.organised_by is not None
        for type_ in () if organised else context.types():
            for ids in context.ids(type_, max(BATCH, self.slice_bytes // 2_048)):
                start = writer.size
                await writer.write(id_.encode() for id_ in ids)
                yield _slice(FileKind.OUTPUT, type_, StoredList(writer.key, start, writer.size - start), len(ids))

    async def _dropped(self, kind: FileKind, found: Closure, writer: ListWriter) -> AsyncIterator[Slice]:
        """One slice for the references of all types."""
        start, count = writer.size, 0
        for type_ in found.types():
            for ids in found.ids(type_, BATCH):
                count += len(ids)
                await writer.write(f"{type_}/{id_}".encode() for id_ in ids)
        if count:
            yield _slice(kind, "Bundle", StoredList(writer.key, start, writer.size - start), 0)


def _slice(kind: FileKind, type_: str, listed: StoredList, estimate: int) -> Slice:
    range_ = _STORED.dump_json(listed).decode()
    return Slice(number=-1, kind=kind, type=type_, range=range_, estimate=estimate, origin=Origin.CONTEXT)
