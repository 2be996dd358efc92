"""Plans the last round of a Patient or Group export: its context, and what a mirror has to drop (laws 34 and 40).

It begins when all other output is written, since only exported lines name context. What the round finds is frozen in lists beside
the parts, and its slices read those lists, so that a slice that is tried again gives the same bytes (law 5).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from fhir_bulk_middleware.contract.job import FileKind, Job, Origin, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Deletions, Everything, NoPatient, Page, Query, Rows, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport, SupportsLeft
from fhir_bulk_middleware.export.context.closure import Closure
from fhir_bulk_middleware.export.context.cohort_history import CohortHistory
from fhir_bulk_middleware.export.context.context_reader import ContextReader, named_lines
from fhir_bulk_middleware.export.context.reference_list import ListWriter, StoredList, batches
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.streams.closing import closing
from fhir_bulk_middleware.workers.lease_keeper import LeaseLost

__all__ = ["BATCH", "ContextRound", "follow", "stored_list"]

BATCH = 500
"""References that are read at once."""

_PATIENT = "Patient"
_LIST = "List"
_STORED = TypeAdapter(StoredList)


def stored_list(piece: Slice) -> StoredList:
    """The list that a slice of this round reads."""
    return _STORED.validate_json(piece.range)


async def follow(closure: Closure, reader: ContextReader, scan: ReferenceScan, as_of: Instant | None) -> None:
    """Read all references of the closure, and those that the context names in turn, until no new ones appear."""
    while (unread := closure.unread(BATCH)) is not None:
        type_, ids = unread
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
        deletions: the source of deletions, None without one.
        jobs: the job store.
        outputs: the output store.
        lease: on the planning of the round.
        reader: reads context; None if the export has none.
        history: what the cohort held at other instants; None if the storage cannot tell, or without `_since`.
        as_of: the instant of context; None for a storage without snapshots.
        slice_bytes: the wanted size of a slice.
    """

    resources: SupportsExport
    deletions: SupportsDeletions | None
    jobs: JobStore
    outputs: OutputStore
    lease: Lease
    reader: ContextReader | None
    history: CohortHistory | None
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
            if self._since is not None:
                await self._find_gone(gone)
                await self._find_left(context, left)
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

    @property
    def _since(self) -> Instant | None:
        return self._job.request.window.since

    # --- Context -----------------------------------------------------------------------------------------------------

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
            for type_ in self._rows.context:
                async with closing(self._changed(type_, NoPatient())) as pages:
                    async for page in pages:
                        for line, resource in named_lines(page, type_):
                            reference = f"{type_}/{resource['id']}"
                            if reader.admits(line, resource) and await self.history.is_named(reference, self.as_of or self._cut):
                                context.add([reference])
        await follow(context, reader, scan, self.as_of)

    async def _changed(self, type_: str, selection: Selection) -> AsyncIterator[Page]:
        """Resources that changed in the window."""
        query = self._query(type_, selection)
        form = PageForm(type_, query.page_bytes, None)
        async with closing(self.resources.pages(query, None)) as pages:
            async for page in pages:
                form.check(page)
                yield page

    # --- What a mirror has to drop -----------------------------------------------------------------------------------

    async def _find_gone(self, gone: Closure) -> None:
        """Deleted context (law 40). What the cohort's own deletions tell already is not told twice."""
        if self.history is None or self.deletions is None:
            return
        for type_ in self._told_types():
            found = False
            async for references in self._references(type_, self.deletions.deletions(self._query(type_, NoPatient()), None)):
                async for reference in self._were_context(type_, references):
                    gone.keep(reference)
                    found = True
            if found:
                query = self._query(type_, self._rows.selection)
                async for references in self._references(type_, self.deletions.deletions(query, None)):
                    for reference in references:
                        gone.drop(reference)

    async def _find_left(self, context: Closure, left: Closure) -> None:
        """What lives but left the cohort or its context (law 34)."""
        if not isinstance(self.resources, SupportsLeft):
            return
        for type_ in self._told_types():
            query = self._query(type_, self._rows.selection)
            async for references in self._references(type_, self.resources.left(query, None)):
                for reference in references:
                    if not context.holds(reference):
                        left.keep(reference)
            if self.history is not None:
                async for references in self._no_context_now(type_, self.history, self.resources):
                    async for reference in self._were_context(type_, references):
                        left.keep(reference)

    async def _no_context_now(self, type_: str, history: CohortHistory, resources: SupportsLeft) -> AsyncIterator[Sequence[str]]:
        """Resources that lay in nobody's compartment, changed in the window, and now belong to a stranger or name one."""
        async for references in self._references(type_, resources.left(self._query(type_, NoPatient()), None)):
            yield [reference for reference in references if not await history.is_selected(reference, self._cut)]
        async with closing(self._changed(type_, NoPatient())) as pages:
            async for page in pages:
                lines = named_lines(page, type_)
                yield [f"{type_}/{resource['id']}" for line, resource in lines if not history.reader.admits(line, resource)]

    async def _were_context(self, type_: str, references: Sequence[str]) -> AsyncIterator[str]:
        """Those of the resources that were context of the cohort when the window began."""
        if self.history is None or self._since is None:
            return
        ids = sorted(reference.partition("/")[2] for reference in references)
        for start in range(0, len(ids), BATCH):
            async with closing(self.history.context_at(type_, ids[start : start + BATCH], self._since)) as found:
                async for reference in found:
                    yield reference

    async def _references(self, type_: str, pages: AsyncIterator[Deletions]) -> AsyncIterator[Sequence[str]]:
        form = PageForm(type_, self._query(type_, Everything()).page_bytes, None)
        async with closing(pages) as source:
            async for page in source:
                form.check_deletions(page)
                yield page.references

    def _told_types(self) -> list[str]:
        """The types whose losses are told: not those under a granular scope, since the content that decides is gone (law 27).

        A Patient is selected by its own id, which does not change (law 41).
        """
        restricted = {type_ for type_, _ in self._job.request.granular}
        return [type_ for type_ in self._job.request.types if type_ not in restricted and type_ != _PATIENT]

    def _query(self, type_: str, selection: Selection) -> Query:
        return Query(
            type=type_,
            selection=selection,
            rights=self._rows.rights,
            window=Window(self._since, self.as_of or self._job.request.window.until),
            as_of=None if self.as_of is None else self._cut,
            page_bytes=256 * 1024,
        )

    # --- Slices ------------------------------------------------------------------------------------------------------

    async def _output(self, context: Closure, writer: ListWriter) -> AsyncIterator[Slice]:
        """Slices of the context by type. Organised output has it in its blocks already, apart from what changed on its own."""
        for type_ in context.types():
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
