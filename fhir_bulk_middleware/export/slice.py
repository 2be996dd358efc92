"""Exports one slice: writes portions into parts, and records a checkpoint with each."""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel

from fhir_bulk_middleware.contract.events import PartSealed
from fhir_bulk_middleware.contract.job import Codec, FileKind, Origin, Part, Sizes, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.export.context.reference_list import PartReferences, StoredList
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.organising import Portion, header
from fhir_bulk_middleware.export.plan import Planner
from fhir_bulk_middleware.export.reports import report_form, unreadable_line
from fhir_bulk_middleware.export.source import SliceSource
from fhir_bulk_middleware.files.format import ending_of
from fhir_bulk_middleware.files.part import PartEncoder
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.completion import after_completion
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.streams.closing import closing
from fhir_bulk_middleware.workers.lease_keeper import HeldLease, LeaseLost

__all__ = ["SliceExport"]

_log = logging.getLogger("fhir_bulk_middleware")

_READ_AHEAD = 4 * 1024 * 1024
"""Bytes of a block that are read ahead, to see whether the block fits into the current file."""


@dataclass(frozen=True, slots=True)
class _Written:
    """Sealed parts, the cursor after them, and the portion that begins the next part (None at the end of the slice)."""

    parts: tuple[Part, ...]
    cursor: str
    ahead: Portion | None


@dataclass(frozen=True, slots=True)
class _Contents:
    """The fields of a part's row that say what it holds."""

    kind: FileKind
    type: str
    count: int
    severity: str | None = None
    continued_in: str | None = None
    references: StoredList | None = None


class SliceExport:
    """Exports the slice of one lease.

    The ends of parts depend on the portions alone, and each part is recorded together with the cursor after it. An attempt that
    continues after a failure therefore writes the same files (law 5).
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        jobs: JobStore,
        outputs: OutputStore,
        planner: Planner,
        observers: Observers,
        sizes: Sizes,
        lease_seconds: float,
        clock: Clock,
        held: HeldLease,
        piece: Slice,
    ) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._observers = observers
        self._sizes = sizes
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._pulse = held
        self._lease = held.lease
        self._slice = piece
        self._codec = held.lease.job.codec or Codec.PLAIN
        self._scan = _scan(held.lease, piece)
        self._unreadable: tuple[str, ...] = ()
        self._source = SliceSource(resources, outputs, planner, held.lease, piece, min(_READ_AHEAD, sizes.ceiling))

    async def run(self) -> None:
        """Export the rest of the slice.

        Raises:
            LeaseLost: the lease is no longer held; nothing more was published.
            FirewallBreach: a page held data that must not be exported.
        """
        self._pulse.done = await self._counted()
        number, cursor = self._slice.parts, self._slice.cursor
        async with closing(self._source.read()) as portions:
            ahead = await self._next(portions)
            while ahead is not None:
                written = await self._write(number, ahead, portions)
                number, cursor, ahead = number + len(written.parts), written.cursor, written.ahead
                await self._checkpoint(written.parts, cursor, finished=ahead is None)
                if ahead is None:
                    return
        # No (further) lines: no output file (MF-20), but a report if resources were unreadable.
        await self._checkpoint([await self._report(number, self._unreadable)] if self._unreadable else [], cursor, finished=True)

    async def _next(self, portions: AsyncIterator[Portion]) -> Portion | None:
        """The next portion that has lines. Cancellation can take effect after each portion."""
        async for portion in portions:
            await anyio.lowlevel.checkpoint()
            if portion.count:
                unreadable, self._unreadable = self._unreadable, ()
                return replace(portion, unreadable=unreadable + portion.unreadable) if unreadable else portion
            self._unreadable += portion.unreadable  # reported with the next portion that is written, or at the end
            self._pulse.done += portion.read
        return None

    async def _write(self, number: int, portion: Portion, portions: AsyncIterator[Portion]) -> _Written:
        """Write one part, from `portion` to the last one that fits, and a report of its unreadable resources."""
        encoder, count, block = PartEncoder(self._codec), 0, None
        unreadable: tuple[str, ...] = ()
        key = self._key(number)
        async with (
            self._outputs.create(key) as sink,
            PartReferences(self._scan, self._outputs, f"{key.removesuffix('.gz')}.list") as references,
        ):
            while True:
                lines = portion.lines
                if portion.block != block:
                    block, lines = portion.block, header(portion.block or "") + lines  # no resource, so not counted (law 22)
                if data := encoder.encode(lines):
                    await sink.write(data)
                await references.collect(portion.lines)
                count += portion.count
                unreadable += portion.unreadable
                self._pulse.done += portion.read
                ahead = await self._next(portions)
                if ahead is None or self._full(encoder.size, ahead, begins=ahead.block != block):
                    break
                portion = ahead
            await sink.write(encoder.finish())
            listed = await references.seal()
            await self._ask()
            await sink.seal()
        if ahead is None:
            unreadable, self._unreadable = unreadable + self._unreadable, ()
        following = number + (2 if unreadable else 1)
        goes_on = ahead is not None and block is not None and ahead.block == block
        contents = _Contents(
            kind=self._slice.kind,
            type=self._slice.type,
            count=count,
            severity="warning" if self._slice.kind is FileKind.ERROR else None,
            continued_in=file_id(self._lease.job.id, self._slice.number, following) if goes_on else None,
            references=listed,
        )
        parts = [self._part(number, key, encoder, contents)]
        if unreadable:
            parts.append(await self._report(number + 1, unreadable))
        return _Written(tuple(parts), portion.cursor, ahead)

    async def _report(self, number: int, references: tuple[str, ...]) -> Part:
        """Write an error file that names unreadable resources (ST-15)."""
        encoder, key = PartEncoder(self._codec), self._key(number)
        form = report_form(self._lease.job)
        lines = [unreadable_line(form, reference) for reference in references]
        async with self._outputs.create(key) as sink:
            await sink.write(encoder.encode(b"".join(lines)))
            await sink.write(encoder.finish())
            await self._ask()
            await sink.seal()
        return self._part(number, key, encoder, _Contents(FileKind.ERROR, "OperationOutcome", len(lines), severity="error"))

    def _part(self, number: int, key: str, encoder: PartEncoder, contents: _Contents) -> Part:
        found = encoder.summary
        return Part(
            file_id=file_id(self._lease.job.id, self._slice.number, number),
            slice=self._slice.number,
            number=number,
            kind=contents.kind,
            type=contents.type,
            severity=contents.severity,
            continued_in=contents.continued_in,
            key=key,
            codec=self._codec,
            count=contents.count,
            size=found.size,
            sha256=found.sha256,
            stored_size=found.stored_size,
            flush_points=found.flush_points,
            sealed_at=self._clock(),
            references_key=None if contents.references is None else contents.references.key,
            references_size=0 if contents.references is None else contents.references.length,
        )

    def _full(self, size: int, ahead: Portion, *, begins: bool) -> bool:
        """Whether a part of this size has no room for a portion, or for the block that it begins (FR-15)."""
        room = self._sizes.ceiling - size
        needed = len(header(ahead.block or "")) if begins else 0
        if begins and size >= self._sizes.floor and (ahead.long or needed + ahead.together > room):
            return True
        return needed + len(ahead.lines) > room

    async def _counted(self) -> int:
        """The number of resources that earlier attempts have published."""
        if not self._slice.parts:
            return 0
        mine = self._slice.number, self._slice.kind
        return sum(part.count for part in await self._parts() if (part.slice, part.kind) == mine)

    async def _parts(self) -> tuple[Part, ...]:
        """The sealed parts of the job, by slice and number."""
        job = self._lease.job
        standing = await self._jobs.standing(job.id, job.mount, job.owner)
        return () if standing is None else standing.parts

    async def _ask(self) -> None:
        """Renew the lease before a part becomes visible: a worker that lost it must leave no file behind."""
        now, done = self._clock(), self._pulse.done
        if not await self._jobs.renew(self._lease, now, lease_seconds=self._lease_seconds, done=done):
            raise LeaseLost

    async def _checkpoint(self, parts: Sequence[Part], cursor: str | None, *, finished: bool) -> None:
        now = self._clock()
        recorded = await self._jobs.checkpoint(self._lease, parts, cursor, now, done=self._pulse.done, finished=finished)
        if not recorded:
            raise LeaseLost
        # Finished work has no lease. The lease keeper may notice that from here on, and cancel this task as if it was lost.
        with anyio.CancelScope(shield=True):
            for part in parts:
                await self._observers.tell(PartSealed.of(self._lease, part))
            if recorded is Recorded.COMPLETED:
                await after_completion(self._lease.job, now, jobs=self._jobs, outputs=self._outputs, observers=self._observers)

    def _key(self, number: int) -> str:
        return f"{self._lease.job.id}/{self._slice.number}-{number}.{self._lease.attempt}{ending_of(self._codec)}"


def _scan(lease: Lease, piece: Slice) -> ReferenceScan | None:
    """Finds what the lines of a slice name, for the context of the export; None if nothing has to be found.

    The blocks of organised output find their context themselves, and the context of context is in the plan.
    """
    options = lease.job.request.options
    if piece.kind is not FileKind.OUTPUT or piece.origin is Origin.CONTEXT or options.organised_by is not None:
        return None
    return ReferenceScan(lease.rows.context, options.base_urls) if lease.rows.context else None
