"""The plan of an export: its cut and its slices, made once before the first read (laws 1, 2, 5, 6)."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.contract.job import FileKind, Job, Sizes, Slice
from fhir_bulk_middleware.contract.query import (
    Compartments,
    Deletions,
    Everything,
    Level,
    Membership,
    Page,
    ProvenanceTarget,
    Query,
    Range,
    Rows,
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
    SupportsSnapshot,
)
from fhir_bulk_middleware.export.sizes import sizes_of
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.instant import Clock, Instant, after, floor
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["PROVENANCE", "Planner", "by_target"]

PROVENANCE = "Provenance"


@runtime_checkable
class SettlesDoubts(Protocol):
    """Who knows what was deleted may be in doubt of some, after a crash; our own log is."""

    async def settle_doubts(self, type_: str) -> None:
        """Find out what became of all that is in doubt, of one type."""
        ...


def by_target(job: Job, resources: SupportsExport) -> bool:
    """Whether a job's Provenance is chosen by what it is about, which also takes an adapter that knows that.

    It is where `includeAssociatedData` steers it (KO-87, KO-88), and at Patient and Group level, where it is that of all that
    lies in the compartments (KO-86). Otherwise it is exported as any other type. It is never exported twice.
    """
    if PROVENANCE not in job.request.types or not isinstance(resources, SupportsProvenance):
        return False
    return job.request.level is not Level.SYSTEM or _steered(job)


def _steered(job: Job) -> bool:
    """Only Provenance was asked for: then there is nothing that it could come along with."""
    return job.request.options.associated is not None and len(job.request.types) > 1


class Planner:
    """Makes plans, and the queries that follow from them.

    Args:
        resources: the storage adapter.
        settings: sizes and times.
        clock: what time it is, for storages without a clock of their own.
        deletions: who knows what was deleted, None if nobody does: the adapter, or our own log.
        groups: who knows the members of groups, None if nobody does.
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
        self._groups = groups
        self.deletions = deletions
        """Who knows what was deleted."""
        self._settings = settings
        self._clock = clock

    async def plan(self, job: Job, rows: Rows) -> Plan:
        """Fix the cut, then cut what is asked into slices: what there is to report, output by type, deletions.

        The order is fixed, so that slice numbers, and with them file ids, mean the same in every process. An export since an
        instant has no slice for a type without a change, for each slice costs some durable writes (law 44).
        """
        deletions: object = self.deletions
        if isinstance(deletions, SettlesDoubts):
            for type_ in self._deleted_types(job):
                await deletions.settle_doubts(type_)
        cut = await self._cut(job)
        job = replace(job, cut=cut)
        resolved = None
        if rows.membership is not None:
            rows = resolved = await self._with_members(rows, rows.membership, job.request.window.since, cut)
        planned: list[Slice] = []
        if ignored := job.request.options.ignored:
            # First, because a page of a manifest that was read cannot learn of errors later (law 20).
            planned.append(_slice(FileKind.ERROR, "OperationOutcome", Range("", len(ignored))))
        if rows.selection != Compartments(frozenset()):
            planned += await self._output(job, rows, joined=False)
            if rows.joined and job.request.window.since is not None:
                planned += await self._output(job, rows, joined=True)
            planned += await self._deleted(job, rows)
        return Plan(cut, tuple(replace(piece, number=number) for number, piece in enumerate(planned)), resolved)

    def sizes(self, job: Job) -> Sizes:
        """The sizes for a job: those that were frozen when it was accepted, so that no later setting changes its files."""
        options = job.request.options
        return options.sizes or sizes_of(self._settings, options.smallest_file, options.largest_file)

    def query(self, job: Job, rows: Rows, resource_type: str, part: str = "", *, joined: bool = False) -> Query:
        """What to ask the adapter for a type, or a range of it, of a job whose cut is fixed (law 2).

        A store without snapshots is asked for whatever is there when it is read, up to `_until`: an upper bound at the cut would
        lose what changes between the cut and the read, for its older version is gone (law 6).

        Args:
            job: planned.
            rows: which rows it may hold.
            resource_type: the type.
            part: the range.
            joined: what the members who joined after `_since` had by then, instead of what changed since (GR-01).
        """
        window, as_of = job.request.window, None
        if isinstance(self._resources, SupportsSnapshot) and job.cut is not None:
            as_of = job.cut
            window = Window(window.since, job.cut if window.until is None else min(window.until, job.cut))
        if joined:
            window, rows = Window(None, window.since), replace(rows, selection=Compartments(rows.joined))
        if resource_type == PROVENANCE and by_target(job, self._resources) and _steered(job):
            window = Window(None, as_of)  # however old it is: what it is about has changed
        return Query(
            type=resource_type,
            selection=rows.selection,
            rights=rows.rights,
            window=window,
            as_of=as_of,
            range=part,
            page_bytes=self.sizes(job).page,
        )

    def queries(self, job: Job, rows: Rows, *, joined: bool = False) -> list[Query]:
        """What to ask for all types of a job."""
        return [self.query(job, rows, type_, joined=joined) for type_ in job.request.types]

    def targets(self, job: Job, rows: Rows) -> list[ProvenanceTarget]:
        """What the Provenance of a job may be about, if that decides: what is exported, or all that lies in the compartments."""
        if _steered(job):
            types = [type_ for type_ in job.request.types if type_ != PROVENANCE]
            older = [self.query(job, rows, type_, joined=True) for type_ in types if rows.joined]
            queries = [*(self.query(job, rows, type_) for type_ in types), *older]
            return [ProvenanceTarget(query, tuple(each for each in rows.filters if each.type == query.type)) for query in queries]
        whole = replace(job, request=replace(job.request, window=Window(None, job.request.window.until)))
        definitions, kinds = CompartmentMembership(job.request.options.version), {"Patient"}
        if isinstance(rows.selection, Compartments):
            kinds = {reference.partition("/")[0] for reference in rows.selection.references} & definitions.kinds
        held = sorted(frozenset[str]().union(*map(definitions.types, sorted(kinds))))
        return [ProvenanceTarget(self.query(whole, rows, type_)) for type_ in held if type_ != PROVENANCE]

    async def _cut(self, job: Job) -> Instant:
        precision = job.request.precision
        if isinstance(self._resources, SupportsSnapshot):
            return Instant(answered(await self._resources.cut(precision), int, "cut"))
        return floor(after(self._clock(), -self._settings.settle), precision)

    async def _with_members(self, rows: Rows, membership: Membership, since: Instant | None, cut: Instant) -> Rows:
        """The rows of a group's members (law 33): those of now, just after the cut was fixed, and those of the cut.

        Those of the cut are needed because to the next export whoever was not a member at it is one who joined since, and nobody
        else is (GR-01). Those of now, because a cut that shows seconds can lie before the group was made. Where the past of
        groups is not known, those of now have to do. Of a group that is gone all members have left.
        """
        if self._groups is None:
            raise TypeError(
                "this job exports a group, and nobody knows its members: was the adapter changed while it was queued?"
            )
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

    async def _output(self, job: Job, rows: Rows, *, joined: bool) -> list[Slice]:
        """The slices of the output; organised output is one slice, for it is read patient by patient."""
        types, organised_by = sorted(job.request.types), job.request.options.organised_by
        found: list[Slice] = []
        for type_ in types:
            if joined and type_ == PROVENANCE and _steered(job):
                continue  # it comes with the Provenance of all others
            ranges = await self._ranges(job, rows, type_, joined=joined)
            found.extend(replace(_slice(FileKind.OUTPUT, type_, part), joined=joined) for part in ranges)
        if _steered(job) and all(piece.type == PROVENANCE for piece in found):
            return []  # nothing for it to come along with
        if organised_by is None or not found:
            return found
        estimate = sum(piece.estimate for piece in found)
        return [replace(_slice(FileKind.OUTPUT, organised_by, Range("", estimate)), joined=joined)]

    async def _deleted(self, job: Job, rows: Rows) -> list[Slice]:
        """One slice for the deletions of all types; its range names those that have any."""
        if self.deletions is None:
            return []
        queries = [self.query(job, rows, type_) for type_ in self._deleted_types(job)]
        types = [query.type for query in queries if await _any(self.deletions.deletions(query, None))]
        return [_slice(FileKind.DELETED, "Bundle", Range(json.dumps(types), 0))] if types else []

    def _deleted_types(self, job: Job) -> Iterator[str]:
        """Deletions are wanted since an instant, or not at all (DR-01, DR-02).

        The content of what was deleted is gone, so no filter can be applied to it. Under a granular scope, which is a right, it
        is therefore left out (law 27). Under a `_typeFilter`, which is a request, it is told by its type (DR-06): whoever mirrors
        the export must learn of it, and a deletion of what the mirror never had does no harm.
        """
        if job.request.window.since is None:
            return
        restricted = {type_ for type_, _ in job.request.granular}
        yield from sorted(type_ for type_ in job.request.types if type_ not in restricted)

    async def _ranges(self, job: Job, rows: Rows, resource_type: str, *, joined: bool) -> Sequence[Range]:
        whole = [Range("", 0)]
        query = self.query(job, rows, resource_type, joined=joined)
        if resource_type == PROVENANCE and by_target(job, self._resources):
            if _steered(job):
                return whole
            anything = replace(query, selection=Everything())  # what it is about is looked at when it is read
            return whole if await self._parts(job, anything) else []
        return await self._parts(job, query)

    async def _parts(self, job: Job, query: Query) -> Sequence[Range]:
        """The ranges of a query; none where nothing has changed."""
        if isinstance(self._resources, SupportsSlices):
            ranges = await self._resources.slices(query, self.sizes(job).slice)
            return [answered(each, Range, "slices (an entry)") for each in ranges]
        if job.request.window.since is not None and not await _any(self._resources.pages(query, None)):
            return []
        return [Range("", 0)]


async def _any(pages: AsyncIterator[Page] | AsyncIterator[Deletions]) -> bool:
    """Whether there is a page with anything in it."""
    source: AsyncIterator[Page | Deletions] = pages
    async with closing(source):
        async for page in source:
            if isinstance(page, Deletions) and page.references:
                return True
            if isinstance(page, Page) and (page.count or page.unreadable):
                return True
    return False


def _slice(kind: FileKind, resource_type: str, part: Range = Range("", 0)) -> Slice:  # noqa: B008 - frozen
    """A slice that has no number yet."""
    return Slice(number=-1, kind=kind, type=resource_type, range=part.range, estimate=part.estimate)
