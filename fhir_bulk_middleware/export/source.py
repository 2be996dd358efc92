"""Reads the lines of a slice from the adapter, checks and transforms them, and hands them on in portions."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from fhir_bulk_middleware.contract.job import Associated, FileKind, Job, Origin, Slice
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Block, Compartments, Everything, Page, Query, Rows, Selection
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsOrganising, SupportsProvenance
from fhir_bulk_middleware.export.cohort import Cohort
from fhir_bulk_middleware.export.context.block_context import BlockContext
from fhir_bulk_middleware.export.context.context_round import BATCH, stored_list
from fhir_bulk_middleware.export.context.reference_list import batches
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.deletion_bundles import bundle_lines, deletion_pages
from fhir_bulk_middleware.export.firewall import Firewall, FirewallBreach
from fhir_bulk_middleware.export.organising import Portion, gathered
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.export.plan import PROVENANCE, Planner, by_target
from fhir_bulk_middleware.export.reports import ignored_line, report_form
from fhir_bulk_middleware.export.transform import Transform
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["SliceSource"]

_CHANGED = "the plan of this job needs a protocol that the adapter no longer implements"


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The portions of one slice.

    Attributes:
        resources: the storage adapter.
        outputs: the output store, which has the lists of context.
        planner: makes the queries.
        lease: held on the slice.
        piece: the slice.
        together: bytes of a block that are read ahead, to keep the block in one file.
    """

    resources: SupportsExport
    outputs: OutputStore
    planner: Planner
    lease: Lease
    piece: Slice
    together: int
    _transforms: dict[str, Transform] = field(default_factory=dict, init=False)

    def read(self) -> AsyncIterator[Portion]:
        """The portions after the slice's cursor.

        Raises:
            FirewallBreach: while iterating; a page holds data that must not be exported.
            MalformedPage: while iterating; a page breaks its protocol.
        """
        if self.piece.origin is Origin.CONTEXT:
            return self._context() if self.piece.kind is FileKind.OUTPUT else self._dropped()
        if self.piece.kind is FileKind.OUTPUT and self._job.request.options.organised_by is not None:
            return gathered(self._blocks(), self.together)
        return self._paged()

    @property
    def _job(self) -> Job:
        return self.lease.job

    async def _paged(self) -> AsyncIterator[Portion]:
        async with closing(self._pages()) as pages:
            async for page, read in pages:
                yield Portion(page.lines, page.count, read, page.cursor, unreadable=page.unreadable)

    async def _pages(self) -> AsyncIterator[tuple[Page, int]]:
        """Pages as they go into files, each with the number of resources that were read for it."""
        piece = self.piece
        if piece.kind is FileKind.ERROR:
            if piece.cursor is None:
                yield self._ignored()
            return
        if piece.kind is FileKind.DELETED:
            async with closing(self._deleted()) as source:
                async for page in source:
                    yield page, page.count
            return
        pages, selection, page_bytes = self._source()
        form = PageForm(piece.type, page_bytes, piece.cursor)
        firewall, transform = Firewall(piece.type, selection), self._transform(piece.type)
        async with closing(pages) as source:
            async for page in source:
                form.check(page)
                firewall.check(page)
                yield await transform.apply(page), page.count

    def _ignored(self) -> tuple[Page, int]:
        """The page of an error file that reports the parameters that were set aside (KO-102)."""
        form = report_form(self._job)
        lines = [ignored_line(form, item) for item in self._job.request.options.ignored]
        return Page(b"".join(lines), len(lines), "end"), len(lines)

    def _source(self) -> tuple[AsyncIterator[Page], Selection, int]:
        """The adapter's pages, whose resources they may hold, and the page size that was asked for."""
        piece, rows = self.piece, self.lease.rows
        query = self.planner.query(self._job, rows, piece.type, piece.range, origin=piece.origin, filtered=True)
        if piece.type == PROVENANCE and by_target(self._job, self.resources):
            # Provenance names what it is about, and not always a patient, so the firewall lets each line pass.
            return self._provenance(query), Everything(), query.page_bytes
        return self.resources.pages(query, piece.cursor), query.selection, query.page_bytes

    async def _deleted(self) -> AsyncIterator[Page]:
        """The deletions of the types for which the plan found some, type by type; cursors are [type, cursor in the type]."""
        if self.planner.deletions is None:
            raise TypeError(_CHANGED)
        types: list[str] = json.loads(self.piece.range)
        begun, after = (types[0], None) if self.piece.cursor is None else json.loads(self.piece.cursor)
        for type_ in types[types.index(begun) :]:
            query = self.planner.query(self._job, self.lease.rows, type_)
            deletions = self.planner.deletions.deletions(query, after)
            cohort = Cohort(type_, self.lease.rows)
            async with closing(deletion_pages(query, deletions, after, cohort)) as pages:
                async for page in pages:
                    yield replace(page, cursor=json.dumps([type_, page.cursor]))
            after = None

    def _provenance(self, query: Query) -> AsyncIterator[Page]:
        if not isinstance(self.resources, SupportsProvenance):
            raise TypeError(_CHANGED)
        latest = self._job.request.options.associated is Associated.LATEST_PROVENANCE
        targets = self.planner.targets(self._job, self.lease.rows, self.piece.origin)
        return self.resources.provenance(query, targets, self.piece.cursor, latest=latest)

    async def _context(self) -> AsyncIterator[Portion]:
        """Context of one type; cursors are the number of references that were read.

        Raises:
            FirewallBreach: a resource that the plan found to be context is so no more; the storage changed what it said.
        """
        reader = self.planner.context.reader(self._job, self.lease.rows)
        if reader is None:
            raise TypeError(_CHANGED)
        async with closing(self._listed()) as listed:
            async for before, ids in listed:
                async with closing(reader.read(self.piece.type, ids, self.planner.context.as_of(self._job))) as pages:
                    async for named in pages:
                        if named.page.count:
                            done = before + ids.index(named.last) + 1
                            yield Portion(named.page.lines, named.page.count, named.page.count, str(done))

    async def _dropped(self) -> AsyncIterator[Portion]:
        """Bundles that tell what a mirror has to drop."""
        async with closing(self._listed()) as listed:
            async for before, references in listed:
                done = before + len(references)
                yield Portion(bundle_lines(references), len(references), len(references), str(done))

    async def _listed(self) -> AsyncIterator[tuple[int, list[str]]]:
        """The rest of the slice's list in batches, each with the number of references before it.

        Batches end at the same places wherever reading begins, so that a slice that is tried again has the same pages (law 5).
        """
        done, before = int(self.piece.cursor or 0), 0
        async with closing(batches(self.outputs, stored_list(self.piece), BATCH)) as lists:
            async for batch in lists:
                if before + len(batch) > done:
                    skipped = max(0, done - before)
                    yield before + skipped, batch[skipped:]
                before += len(batch)

    def _blocks(self) -> AsyncIterator[Portion]:
        """Portions of organised output, with the context of each block."""
        reader, rows = self.planner.context.reader(self._job, self.lease.rows), self.lease.rows
        if reader is None or not rows.context:
            return self._organised(self.piece.cursor)
        scan = ReferenceScan(rows.context, self._job.request.options.base_urls)
        return BlockContext(self._organised, reader, scan, self.planner.context.as_of(self._job)).portions(self.piece.cursor)

    async def _organised(self, cursor: str | None) -> AsyncIterator[Portion]:
        """Portions of organised output without context; each block must name its own patient (firewall)."""
        if not isinstance(self.resources, SupportsOrganising):
            raise TypeError(_CHANGED)
        queries = self.planner.queries(self._job, self.lease.rows, self.piece.origin)
        form = PageForm(f"blocks by {self.piece.type}", queries[0].page_bytes, cursor)
        types = frozenset(query.type for query in queries)
        async with closing(self.resources.blocks(queries, cursor)) as blocks:
            async for block in blocks:
                form.check_block(block)
                if block.type not in types:
                    raise FirewallBreach(block.type, "a block is of a type that was not asked for")
                self._firewall(block, self.lease.rows).check(block.page)
                page = await self._transform(block.type).apply(block.page)
                yield Portion(page.lines, page.count, block.page.count, block.cursor, block.reference, unreadable=page.unreadable)

    def _firewall(self, block: Block, rows: Rows) -> Firewall:
        """The firewall of a block: lets its patient pass, if the job exports that patient."""
        selection = rows.selection
        allowed = not isinstance(selection, Compartments) or block.reference in selection.references
        return Firewall(block.type, Compartments(frozenset({block.reference} if allowed else ())))

    def _transform(self, resource_type: str) -> Transform:
        if resource_type not in self._transforms:
            self._transforms[resource_type] = Transform.of(
                resource_type, self.lease.rows, self._job.request.options, self.piece.origin
            )
        return self._transforms[resource_type]
