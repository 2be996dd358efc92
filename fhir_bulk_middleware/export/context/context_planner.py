"""Plans the context of exports: its types, the groups that may be told, and the round that finds it (laws 40 and 41)."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.contract.job import Job, Sizes
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Compartments, Deletions, Everything, Level, NoPatient, Page, Query, Rows, Window
from fhir_bulk_middleware.contract.storage import (
    SupportsContext,
    SupportsDeletions,
    SupportsExport,
    SupportsLeft,
    SupportsNaming,
    SupportsSnapshot,
)
from fhir_bulk_middleware.export.changed_types import changed_types
from fhir_bulk_middleware.export.context.cohort_history import CohortHistory
from fhir_bulk_middleware.export.context.cohort_losses import CohortLosses, types_in_window
from fhir_bulk_middleware.export.context.context_reader import ContextReader
from fhir_bulk_middleware.export.context.context_round import ContextRound
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["ContextPlanner", "anything"]

_PATIENT, _PROVENANCE, _GROUP = "Patient", "Provenance", "Group"
_PROBE = 4_096
"""Bytes of the page that shows whether there is anything at all."""


async def anything(pages: AsyncIterator[Page] | AsyncIterator[Deletions]) -> bool:
    """Whether any page is not empty."""
    source: AsyncIterator[Page | Deletions] = pages
    async with closing(source):
        async for page in source:
            if isinstance(page, Deletions) and page.references:
                return True
            if isinstance(page, Page) and (page.count or page.unreadable):
                return True
    return False


@dataclass(frozen=True, slots=True)
class ContextPlanner:
    """Plans the context of the exports from one storage.

    Attributes:
        resources: the storage adapter.
        deletions: the source of deletions, None without one.
        sizes: the sizes of a job.
        by_target: whether a job selects Provenance by its targets.
    """

    resources: SupportsExport
    deletions: SupportsDeletions | None
    sizes: Callable[[Job], Sizes]
    by_target: Callable[[Job, SupportsExport], bool]

    def as_of(self, job: Job) -> Instant | None:
        """The instant of context: the cut, or `_until` if that is earlier; None for a storage without snapshots."""
        if job.cut is None or not isinstance(self.resources, SupportsSnapshot):
            return None
        return min(job.cut, job.request.window.until or job.cut)

    def reader(self, job: Job, rows: Rows) -> ContextReader | None:
        """Reads the context of a job; None if the storage cannot read what is named."""
        if not isinstance(self.resources, SupportsContext):
            return None
        return ContextReader(self.resources, job, rows, self.sizes(job).page)

    async def types(self, job: Job, rows: Rows) -> tuple[str, ...]:
        """The types of which something can be context: those with resources that lie in nobody's compartment."""
        if rows.selection == Compartments(frozenset()) or not isinstance(self.resources, SupportsContext):
            return ()
        types = [type_ for type_ in rows.context if type_ not in self._never(job)]
        if not isinstance(self.resources, SupportsNaming):
            return tuple(types)
        as_of, found = self.as_of(job), list[str]()
        window = Window(None, as_of)
        held = await changed_types(self.resources, types, window, as_of=as_of, rights=rows.rights)
        for type_ in (type_ for type_ in types if type_ in held):
            query = Query(type=type_, selection=NoPatient(), rights=rows.rights, window=window, as_of=as_of, page_bytes=_PROBE)
            if await anything(self.resources.pages(query, None)):
                found.append(type_)
        return tuple(found)

    async def groups(self, job: Job, rows: Rows) -> frozenset[str]:
        """The groups that were asked for, and those inside them (law 41)."""
        resources, options = self.resources, job.request.options
        if not isinstance(resources, SupportsContext):
            return rows.groups
        seen, waiting = set(rows.groups), sorted(rows.groups)
        while waiting:
            query = Query(type=_GROUP, selection=Everything(), rights=rows.rights, window=Window(), as_of=self.as_of(job))
            id_ = waiting.pop().partition("/")[2]
            async with closing(resources.named(query, [id_])) as pages:
                async for page in pages:
                    inside = ReferenceScan((_GROUP,), options.base_urls).of(page.lines)
                    new = {reference.decode() for reference in inside} - seen
                    seen |= new
                    waiting += sorted(new)
        return frozenset(seen)

    def goes_on(self, job: Job, rows: Rows) -> bool:
        """Whether another round follows the first. Organised output has its context in its blocks."""
        if job.request.level is Level.SYSTEM or rows.selection == Compartments(frozenset()):
            return False
        if job.request.window.since is not None:
            return isinstance(self.resources, SupportsLeft | SupportsContext)
        return bool(rows.context) and job.request.options.organised_by is None

    async def round(
        self,
        lease: Lease,
        jobs: JobStore,
        outputs: OutputStore,
        *,
        cohort_types: Sequence[str],
        target_types: Sequence[str],
    ) -> ContextRound:
        """The last round of an export whose first round went on.

        With `_since`, the storage is asked once which types changed (law 44).

        Args:
            lease: on the planning of the round.
            jobs: the job store.
            outputs: the output store.
            cohort_types: the exported types that the selection can hold.
            target_types: all types that the selection can hold, whose Provenance is exported.
        """
        job, rows, as_of = lease.job, lease.rows, self.as_of(lease.job)
        history, losses, since, changed = None, None, job.request.window.since, frozenset[str]()
        if since is not None:
            types = {*job.request.types, *rows.context, *target_types}
            changed = await types_in_window(self.resources, job, rows, types, as_of)
            history = self._history(job, rows, cohort_types)
            losses = CohortLosses(
                resources=self.resources,
                deletions=self.deletions,
                history=history,
                job=job,
                rows=rows,
                since=since,
                as_of=as_of,
                target_types=target_types,
                changed=changed,
            )
        return ContextRound(
            resources=self.resources,
            jobs=jobs,
            outputs=outputs,
            lease=lease,
            reader=self.reader(job, rows),
            history=history,
            losses=losses,
            changed=changed,
            as_of=as_of,
            slice_bytes=self.sizes(job).slice,
        )

    def _history(self, job: Job, rows: Rows, cohort_types: Sequence[str]) -> CohortHistory | None:
        """What the cohort held at any instant; None if the storage cannot tell."""
        resources: object = self.resources
        reader = self.reader(job, rows)
        if reader is None or not isinstance(resources, SupportsNaming) or not isinstance(resources, SupportsSnapshot):
            return None
        return CohortHistory(
            resources=reader.resources,
            naming=resources,
            reader=reader,
            cohort_types=cohort_types,
            context_types=[type_ for type_ in job.request.types if type_ not in self._never(job)],
            by_target=self.by_target(job, self.resources),
        )

    def _never(self, job: Job) -> frozenset[str]:
        """Types that are never context: patients are selected, and Provenance comes by its targets."""
        return frozenset({_PATIENT, _PROVENANCE} if self.by_target(job, self.resources) else {_PATIENT})
