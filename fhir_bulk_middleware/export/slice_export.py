"""Exporting one slice: pages become parts, and each part a checkpoint."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import anyio.lowlevel

from fhir_bulk_middleware.export.closing import closing
from fhir_bulk_middleware.export.deletions import deletion_pages
from fhir_bulk_middleware.export.firewall import Firewall
from fhir_bulk_middleware.export.heartbeat import LeaseLost, Pulse
from fhir_bulk_middleware.export.job import Codec, FileKind, Part, Slice
from fhir_bulk_middleware.export.part import PartEncoder
from fhir_bulk_middleware.export.planner import Planner
from fhir_bulk_middleware.export.query import Page
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.protocols import JobStore, OutputStore, SupportsDeletions, SupportsExport, WorkQueue

__all__ = ["JobsAndQueue", "SliceExport"]


class JobsAndQueue(JobStore, WorkQueue, Protocol):
    """A job store that is also the queue of its work, as ours are."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A part, the cursor after it, and the page that begins the next one."""

    part: Part
    cursor: str
    ahead: Page | None


class SliceExport:
    """Exports the slice of one lease.

    Where parts end depends on the pages alone, and each part is recorded together with the cursor after it. So whoever goes on
    after a failure writes the same files as if nothing had happened (law 5).
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        jobs: JobsAndQueue,
        outputs: OutputStore,
        planner: Planner,
        deletions: SupportsDeletions | None,
        part_bytes: int,
        lease_seconds: float,
        clock: Clock,
        pulse: Pulse,
        piece: Slice,
    ) -> None:
        self._resources = resources
        self._jobs = jobs
        self._outputs = outputs
        self._planner = planner
        self._deletions = deletions
        self._part_bytes = part_bytes
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._pulse = pulse
        self._lease = pulse.lease
        self._slice = piece

    async def run(self) -> None:
        """Export what is left of the slice.

        Raises:
            LeaseLost: somebody else has it; nothing more was published.
            FirewallBreach: a page held what must not leave.
        """
        self._pulse.done = await self._counted()
        number, cursor = self._slice.parts, self._slice.cursor
        async with closing(self._pages()) as pages:
            ahead = await anext(pages, None)
            while ahead is not None:
                written = await self._write(number, ahead, pages)
                number, cursor, ahead = number + 1, written.cursor, written.ahead
                await self._checkpoint([written.part], cursor, finished=ahead is None)
                if ahead is None:
                    return
        await self._checkpoint([], cursor, finished=True)  # nothing, or nothing more: no file for it (MF-20)

    async def _write(self, number: int, page: Page, pages: AsyncIterator[Page]) -> _Written:
        """Write one part, beginning with `page`, up to the page that would make it too large."""
        codec = self._lease.job.codec or Codec.PLAIN
        encoder, count = PartEncoder(codec), 0
        key = self._key(number, codec)
        async with self._outputs.create(key) as sink:
            while True:
                if data := encoder.encode(page.lines):
                    await sink.write(data)
                count += page.count
                self._pulse.done += page.count
                ahead = await anext(pages, None)
                if ahead is None or encoder.size + len(ahead.lines) > self._part_bytes:
                    break
                page = ahead
            await sink.write(encoder.finish())
            await self._ask()
            await sink.seal()
        found = encoder.summary
        part = Part(
            file_id=file_id(self._lease.job.id, self._slice.number, number),
            slice=self._slice.number,
            number=number,
            kind=self._slice.kind,
            type="Bundle" if self._slice.kind is FileKind.DELETED else self._slice.type,
            key=key,
            codec=codec,
            count=count,
            size=found.size,
            sha256=found.sha256,
            stored_size=found.stored_size,
            flush_points=found.flush_points,
            sealed_at=self._clock(),
        )
        return _Written(part, page.cursor, ahead)

    async def _pages(self) -> AsyncIterator[Page]:
        """The pages from the last checkpoint on, each looked at; a place to be stopped after each."""
        async with closing(self._source()) as pages:
            async for page in pages:
                await anyio.lowlevel.checkpoint()
                if page.count:
                    yield page

    def _source(self) -> AsyncIterator[Page]:
        lease, piece = self._lease, self._slice
        query = self._planner.query(lease.job, lease.rows, piece.type, piece.range)
        if piece.kind is not FileKind.DELETED:
            return self._checked(self._resources.pages(query, piece.cursor))
        if self._deletions is None:
            raise TypeError("the plan has deletions, but this adapter knows of none: was it changed while the job ran?")
        return deletion_pages(piece.type, self._deletions.deletions(query, piece.cursor))

    async def _checked(self, pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
        firewall = Firewall(self._slice.type, self._lease.rows.selection)
        async with closing(pages) as source:
            async for page in source:
                firewall.check(page)
                yield page

    async def _counted(self) -> int:
        """How many resources earlier attempts have published."""
        if not self._slice.parts:
            return 0
        return sum(part.count for part in await self._jobs.parts(self._lease.job.id) if part.slice == self._slice.number)

    async def _ask(self) -> None:
        """Make sure of the lease before a part becomes visible, so that one who lost it leaves no file behind."""
        now, done = self._clock(), self._pulse.done
        if not await self._jobs.renew(self._lease, now, lease_seconds=self._lease_seconds, done=done):
            raise LeaseLost

    async def _checkpoint(self, parts: list[Part], cursor: str | None, *, finished: bool) -> None:
        held = await self._jobs.checkpoint(self._lease, parts, cursor, self._clock(), done=self._pulse.done, finished=finished)
        if not held:
            raise LeaseLost

    def _key(self, number: int, codec: Codec) -> str:
        ending = "ndjson.gz" if codec is Codec.GZIP else "ndjson"
        return f"{self._lease.job.id}/{self._slice.number}-{number}.{self._lease.attempt}.{ending}"
