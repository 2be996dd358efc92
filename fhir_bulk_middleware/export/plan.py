"""Plans an export: fixes its cut and its slices, once, before the first read (laws 1, 2, 5, 6)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.contract.job import FileKind, Job, Origin, Sizes, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import (
    Compartments,
    Everything,
    Level,
    Membership,
    ProvenanceTarget,
    Query,
    Range,
    Rows,
    Unfinished,
    Window,
)
from fhir_bulk_middleware.contract.returned import answered
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletions,
    SupportsExport,
    SupportsGroups,
    SupportsJoining,
    SupportsProvenance,
    SupportsSlices,
    SupportsSlicesNear,
    SupportsSnapshot,
    SupportsUnfinished,
)
from fhir_bulk_middleware.export.changed_types import changed_types
from fhir_bulk_middleware.export.cohort import enters_by_content
from fhir_bulk_middleware.export.context.context_planner import ContextPlanner, anything
from fhir_bulk_middleware.export.context.context_round import ContextRound
from fhir_bulk_middleware.export.reuse import Reuse
from fhir_bulk_middleware.export.sizes import share, sizes_of, smallest_slice
from fhir_bulk_middleware.export.type_origins import TypeOrigins
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.instant import Clock, Instant, after, floor
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.settings import Settings

__all__ = ["PROVENANCE", "Planner", "by_target"]

PROVENANCE = "Provenance"


@runtime_checkable
class SettlesDoubts(Protocol):
    """A source of deletions that can be in doubt about some after a crash, as our own log can."""

    async def settle_doubts(self, type_: str) -> None:
        """Settle all deletions of one type that are in doubt."""
        ...


def by_target(job: Job, resources: SupportsExport) -> bool:
    """Whether a job selects Provenance by its targets; the adapter must support that (`SupportsProvenance`).

    True with `includeAssociatedData` (KO-87, KO-88), and at Patient and Group level, where the targets are all resources of the
    compartments (KO-86). Otherwise Provenance is exported like any other type. It is never exported twice.
    """
    if PROVENANCE not in job.request.types or not isinstance(resources, SupportsProvenance):
        return False
    return job.request.level is not Level.SYSTEM or _steered(job)


def _steered(job: Job) -> bool:
    """Whether `includeAssociatedData` selects the Provenance; with no other type in the export it has nothing to select by."""
    return job.request.options.associated is not None and len(job.request.types) > 1


class Planner:
    """Makes plans, and the queries of planned jobs.

    Args:
        resources: the storage adapter.
        settings: sizes and times.
        clock: the current time, for storages without a clock of their own.
        deletions: the source of deletions (the adapter or our own log), None without one.
        groups: knows the members of groups, None if exports of groups are not offered.
    """

    def __init__(
        self,
        resources: SupportsExport,
        settings: Settings,
        clock: Clock,
        deletions: SupportsDeletions | None,
        groups: SupportsGroups | None = None,
    ) -> None:
        self._resources = resources
        # Once: a plan asks for each of 150 types, and the check of a protocol takes longer than many a query.
        self._snapshots = resources if isinstance(resources, SupportsSnapshot) else None
        self._slices = resources if isinstance(resources, SupportsSlices) else None
        self._slices_near = resources if isinstance(resources, SupportsSlicesNear) else None
        self._groups = groups
        self.deletions = deletions
        """The source of deletions, None without one."""
        self.context = ContextPlanner(resources, deletions, self.sizes, by_target)
        """Plans context."""
        self._settings = settings
        self._clock = clock

    async def plan(self, job: Job, rows: Rows, reuse: Reuse | None = None) -> Plan:
        """Plan the first round: fix the cut, then make the slices: reports, output by type, deletions.

        At Patient and Group level another round may follow (`ContextRound`), which begins when this output is written.

        The order is fixed, so that slice numbers, and with them file ids, mean the same in every process. With `_since`, types
        without a change get no slice, since each slice costs durable writes (law 44).

        Args:
            job: the job.
            rows: the rows that it may hold.
            reuse: the files of earlier jobs, near whose ranges slices are cut; None to look for none.
        """
        deletions: object = self.deletions
        if isinstance(deletions, SettlesDoubts):
            for type_ in self._deleted_types(job):
                await deletions.settle_doubts(type_)
        cut = await self._cut(job)
        job = replace(job, cut=cut)
        before = rows
        if rows.membership is not None:
            rows = await self._with_members(rows, rows.membership, job.request.window.since, cut)
            rows = replace(rows, groups=await self.context.groups(job, rows))
        rows = replace(rows, context=await self.context.types(job, rows))
        planned: list[Slice] = []
        if ignored := job.request.options.ignored:
            # First, because no error can be added to a page of the manifest that was already read (law 20).
            planned.append(_slice(FileKind.ERROR, "OperationOutcome", Range("", len(ignored))))
        if rows.selection != Compartments(frozenset()):
            changed = await self._changed(job, rows, job.request.types)
            planned += await self._output(job, rows, changed, Origin.SELECTED, reuse)
            if job.request.window.since is not None:
                planned += await self._output(job, rows, await self._entered_types(job, rows), Origin.ENTERED)
            planned += await self._deleted(job, rows, changed)
        numbered = tuple(replace(piece, number=number) for number, piece in enumerate(planned))
        return Plan(
            cut,
            numbered,
            None if rows == before else rows,
            more=self.context.goes_on(job, rows),
            unfinished=await self._unfinished(cut),
        )

    async def context_round(self, lease: Lease, jobs: JobStore, outputs: OutputStore) -> ContextRound:
        """The last round of an export whose first round went on."""
        job, rows = lease.job, lease.rows
        return await self.context.round(
            lease, jobs, outputs, cohort_types=self._selected(job, rows), target_types=self._target_types(job, rows)
        )

    def sizes(self, job: Job) -> Sizes:
        """The sizes of a job: frozen when it was accepted, so that a changed setting does not change its files."""
        options = job.request.options
        return options.sizes or sizes_of(self._settings, options.smallest_file, options.largest_file)

    def query(
        self,
        job: Job,
        rows: Rows,
        resource_type: str,
        part: str = "",
        *,
        origin: Origin = Origin.SELECTED,
        filtered: bool = False,
    ) -> Query:
        """The query for a type of a planned job, or for a range of it (law 2).

        A storage without snapshots is asked for its current resources up to `_until`. An upper bound at the cut would lose a
        resource that changes between cut and read, since its older version is gone (law 6).

        Args:
            job: planned, so it has a cut.
            rows: the rows that it may hold.
            resource_type: the type.
            part: the range, empty for the whole type.
            origin: with `Origin.ENTERED`, query what is older than the window: the data of members who joined after `_since`
                (GR-01), and any Provenance, whose targets then decide (law 34).
            filtered: whether the adapter may leave out what does not meet the filters. Deletions, and the targets of Provenance,
                are read without them (TF-01, DR-06).
        """
        window, as_of = self._window(job, origin)
        if origin is Origin.ENTERED and not enters_by_content(resource_type, rows):
            rows = replace(rows, selection=Compartments(rows.joined))
        if resource_type == PROVENANCE and by_target(job, self._resources) and _steered(job):
            window = Window(None, as_of)  # of any age: its targets have changed
        return Query(
            type=resource_type,
            selection=rows.selection,
            rights=rows.rights,
            window=window,
            as_of=as_of,
            filters=tuple(each for each in rows.filters if filtered and each.type == resource_type),
            range=part,
            page_bytes=self.sizes(job).page,
        )

    def _window(self, job: Job, origin: Origin) -> tuple[Window, Instant | None]:
        """The window of queries, and the instant as of which the storage is read."""
        window, as_of = job.request.window, None
        if self._snapshots is not None and job.cut is not None:
            as_of = job.cut
            window = Window(window.since, job.cut if window.until is None else min(window.until, job.cut))
        return (Window(None, window.since) if origin is Origin.ENTERED else window), as_of

    async def _changed(self, job: Job, rows: Rows, types: Sequence[str], origin: Origin = Origin.SELECTED) -> frozenset[str]:
        """Those of the types that have to be asked for: all that the storage does not rule out, and Provenance by its targets."""
        window, as_of = self._window(job, origin)
        late = frozenset(type_ for type_ in types if self._late(job, type_))
        return late | await changed_types(
            self._resources, (type_ for type_ in types if type_ not in late), window, as_of=as_of, rights=rows.rights
        )

    async def _entered_types(self, job: Job, rows: Rows) -> frozenset[str]:
        """The types of which older data may enter the export.

        Steered Provenance is of any age already; other types have older data of new members only.
        """
        types = [type_ for type_ in self._selected(job, rows) if (not _steered(job) if self._late(job, type_) else rows.joined)]
        return await self._changed(job, rows, types, Origin.ENTERED)

    def queries(self, job: Job, rows: Rows, origin: Origin = Origin.SELECTED) -> list[Query]:
        """The queries for all types that the job's selection can hold."""
        return [self.query(job, rows, type_, origin=origin, filtered=True) for type_ in self._selected(job, rows)]

    def _selected(self, job: Job, rows: Rows) -> list[str]:
        """The types of a job that its selection can hold, sorted; the others come as context alone (law 40)."""
        return sorted(TypeOrigins(job.request.options.version, rows.selection).selected(frozenset(job.request.types)))

    def targets(self, job: Job, rows: Rows, origin: Origin = Origin.SELECTED) -> list[ProvenanceTarget]:
        """The targets by which Provenance is selected: the exported resources, or all of the compartments.

        For older Provenance: the resources that entered the selection within the window, and those of members who joined.
        """
        if _steered(job):
            types = [type_ for type_ in job.request.types if type_ != PROVENANCE]
            older = [self.query(job, rows, type_, origin=Origin.ENTERED) for type_ in types if rows.joined]
            queries = [*(self.query(job, rows, type_) for type_ in types), *older]
            return [ProvenanceTarget(query, tuple(each for each in rows.filters if each.type == query.type)) for query in queries]
        whole = replace(job, request=replace(job.request, window=Window(None, job.request.window.until)))
        held = self._target_types(job, rows)
        if origin is Origin.ENTERED:
            before = None
            if rows.joined and isinstance(rows.selection, Compartments):
                before = Compartments(rows.selection.references - rows.joined)
            moved = [ProvenanceTarget(self.query(job, rows, type_), entered=True, before=before) for type_ in held]
            joined = replace(rows, selection=Compartments(rows.joined))
            return moved + [ProvenanceTarget(self.query(whole, joined, type_)) for type_ in held if rows.joined]
        return [ProvenanceTarget(self.query(whole, rows, type_)) for type_ in held]

    def _target_types(self, job: Job, rows: Rows) -> list[str]:
        """The types of the compartments, whose Provenance is exported (KO-86)."""
        version = job.request.options.version
        possible = TypeOrigins(version, rows.selection).selected(definitions(version).resource_types)
        return [type_ for type_ in sorted(possible) if type_ != PROVENANCE]

    async def _cut(self, job: Job) -> Instant:
        precision = job.request.precision
        if self._snapshots is not None:
            return Instant(answered(await self._snapshots.cut(precision), int, "cut"))
        return floor(after(self._clock(), -self._settings.settle), precision)

    async def _unfinished(self, cut: Instant) -> Unfinished | None:
        resources: object = self._resources
        return await resources.unfinished(cut) if isinstance(resources, SupportsUnfinished) else None

    async def _with_members(self, rows: Rows, membership: Membership, since: Instant | None, cut: Instant) -> Rows:
        """The rows of a group's members (law 33): of those at the cut, and of those now, just after the cut was fixed.

        Members at the cut, because the next export treats everybody who was no member at this cut as joined since (GR-01).
        Members now, because a cut with a precision of seconds can lie before the creation of the group; also if the storage does
        not know past members. A group that no longer exists has no members.
        """
        if self._groups is None:
            raise TypeError("this job exports a group, but the adapter no longer implements SupportsGroups")
        group, principal = membership.group_id, membership.principal
        members, joined = await self._groups.members(group, principal) or frozenset[str](), frozenset[str]()
        groups: object = self._groups
        if isinstance(groups, SupportsJoining):
            members |= await groups.members_at(group, principal, cut)
            if membership.older and since is not None:
                joined = members - await groups.members_at(group, principal, since)
        if membership.patients is not None:
            members, joined = members & membership.patients, joined & membership.patients
        return replace(rows, selection=Compartments(members), joined=joined, membership=None)

    async def _output(
        self, job: Job, rows: Rows, types: frozenset[str], origin: Origin, reuse: Reuse | None = None
    ) -> list[Slice]:
        """The slices of the output of some types. Organised output is one slice, since it is read patient by patient."""
        organised_by = job.request.options.organised_by
        found: list[Slice] = []
        by_type: dict[str, Sequence[Range]] = {}
        for type_ in self._selected(job, rows):
            if type_ in types and (ranges := await self._ranges(job, rows, type_, origin)):
                by_type[type_] = ranges
        total = sum(each.estimate for ranges in by_type.values() for each in ranges)
        if reuse is not None:
            await reuse.find(job, rows, [type_ for type_ in by_type if not self._late(job, type_)], self.sizes(job))
        for type_, usual in by_type.items():
            query = self.query(job, rows, type_, origin=origin, filtered=True)
            former = [] if reuse is None else reuse.ranges(type_)
            ranges = await self._divided(job, query, usual, total, former)
            pieces = [replace(_slice(FileKind.OUTPUT, type_, part), origin=origin) for part in ranges]
            found += pieces if reuse is None else [await reuse.marked(piece, query) for piece in pieces]
        if _steered(job) and all(piece.type == PROVENANCE for piece in found):
            return []  # no targets
        if organised_by is None or not found:
            return found
        estimate = sum(piece.estimate for piece in found)
        return [replace(_slice(FileKind.OUTPUT, organised_by, Range("", estimate)), origin=origin)]

    def _late(self, job: Job, resource_type: str) -> bool:
        """Whether resources of the type are selected by those of other types."""
        return resource_type == PROVENANCE and by_target(job, self._resources)

    async def _deleted(self, job: Job, rows: Rows, changed: frozenset[str]) -> list[Slice]:
        """One slice for the deletions of all types; its range is the JSON list of the types that have any.

        Those of the storage itself are of types that have changed.
        """
        if self.deletions is None:
            return []
        source: object = self.deletions
        told = [type_ for type_ in self._deleted_types(job) if source is not self._resources or type_ in changed]
        queries = [self.query(job, rows, type_) for type_ in told]
        types = [query.type for query in queries if await anything(self.deletions.deletions(query, None))]
        return [_slice(FileKind.DELETED, "Bundle", Range(json.dumps(types), 0))] if types else []

    def _deleted_types(self, job: Job) -> Iterator[str]:
        """The types whose deletions are exported: none without `_since` (DR-01, DR-02).

        The content of deleted resources is gone, so no filter can be applied. Types under a granular scope, which is a right, are
        left out (law 27). For types with a `_typeFilter`, which is a request, all deletions are listed (DR-06): a client that
        mirrors the export needs them, and a deletion of a resource that it never had does no harm.
        """
        if job.request.window.since is None:
            return
        restricted = {type_ for type_, _ in job.request.granular}
        yield from sorted(type_ for type_ in job.request.types if type_ not in restricted)

    async def _ranges(self, job: Job, rows: Rows, resource_type: str, origin: Origin) -> Sequence[Range]:
        whole = [Range("", 0)]
        query = self.query(job, rows, resource_type, origin=origin, filtered=True)
        if self._late(job, resource_type):
            if _steered(job):
                return whole
            if origin is Origin.ENTERED and isinstance(self._resources, SupportsProvenance):
                entered = self._resources.provenance(query, self.targets(job, rows, origin), None, latest=False)
                return whole if await anything(entered) else []
            of_any = replace(query, selection=Everything())  # targets are matched when the slice is read
            return whole if await self._parts(job, of_any) else []
        return await self._parts(job, query)

    async def _divided(
        self, job: Job, query: Query, usual: Sequence[Range], total: int, former: Sequence[str]
    ) -> Sequence[Range]:
        """Ranges of at most a worker's share of the export, so that a type alone keeps all workers busy; the usual ones if small.

        If there are former ones, they stay as far as they can.
        """
        target = await self._target(job, query, usual, total)
        if former and self._slices_near is not None:
            ranges = await self._slices_near.slices_near(query, target or self.sizes(job).slice, former)
            return [answered(each, Range, "slices_near (an entry)") for each in ranges]
        return usual if target is None else await self._parts(job, query, target)

    async def _target(self, job: Job, query: Query, usual: Sequence[Range], total: int) -> int | None:
        """The size of a range in bytes; None if the usual ones are small enough.

        How large a type is shows in the number of its smallest ranges.
        """
        pieces, smallest = share(usual, total, self._settings.worker_processes), smallest_slice(self.sizes(job))
        if pieces == 1 or job.request.options.organised_by is not None or smallest == self.sizes(job).slice:
            return None
        found = len(await self._parts(job, query, smallest))
        return None if found == len(usual) else max(smallest, found * smallest // pieces)

    async def _parts(self, job: Job, query: Query, target_bytes: int | None = None) -> Sequence[Range]:
        """The ranges of a query, of the job's size by default; none with `_since` if nothing has changed."""
        if self._slices is not None:
            ranges = await self._slices.slices(query, target_bytes or self.sizes(job).slice)
            return [answered(each, Range, "slices (an entry)") for each in ranges]
        if job.request.window.since is not None and not await anything(self._resources.pages(query, None)):
            return []
        return [Range("", 0)]


def _slice(kind: FileKind, resource_type: str, part: Range = Range("", 0)) -> Slice:  # noqa: B008 - frozen
    """A slice that has no number yet."""
    return Slice(number=-1, kind=kind, type=resource_type, range=part.range, estimate=part.estimate)
