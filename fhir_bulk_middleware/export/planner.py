"""The plan of an export: its cut and its slices, made once before the first read (laws 1, 2, 5, 6)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fhir_bulk_middleware.export.job import FileKind, Job, Slice
from fhir_bulk_middleware.export.query import Compartments, Query, Range, Rows, Window
from fhir_bulk_middleware.instant import Clock, Instant, after, floor
from fhir_bulk_middleware.protocols import SupportsDeletions, SupportsExport, SupportsSlices, SupportsSnapshot
from fhir_bulk_middleware.settings import Settings

__all__ = ["Plan", "Planner"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will read.

    Attributes:
        cut: the manifest's `transactionTime`.
        slices: what is read, numbered from 0; none where nothing can be selected.
    """

    cut: Instant
    slices: tuple[Slice, ...]


class Planner:
    """Makes plans, and the queries that follow from them.

    Args:
        resources: the storage adapter.
        settings: sizes and times.
        clock: what time it is, for storages without a clock of their own.
        deletions: who knows what was deleted, None if nobody does: the adapter, or our own log.
    """

    def __init__(self, resources: SupportsExport, settings: Settings, clock: Clock, deletions: SupportsDeletions | None) -> None:
        self._resources = resources
        self._deletions = deletions
        self._settings = settings
        self._clock = clock

    async def plan(self, job: Job, rows: Rows) -> Plan:
        """Fix the cut, then cut what is asked into slices: output by type, then deletions by type.

        The order is fixed, so that slice numbers, and with them file ids, mean the same in every process.
        """
        cut = await self._cut(job)
        if rows.selection == Compartments(frozenset()):
            return Plan(cut, ())
        slices: list[Slice] = []
        for kind, types in ((FileKind.OUTPUT, sorted(job.request.types)), (FileKind.DELETED, self._deleted_types(job))):
            for type_ in types:
                for part in await self._ranges(replace(job, cut=cut), rows, kind, type_):
                    slices.append(Slice(number=len(slices), kind=kind, type=type_, range=part.range, estimate=part.estimate))
        return Plan(cut, tuple(slices))

    def query(self, job: Job, rows: Rows, resource_type: str, part: str = "") -> Query:
        """What to ask the adapter for a type, or a range of it, of a job whose cut is fixed (law 2).

        A store without snapshots is asked for whatever is there when it is read, up to `_until`: an upper bound at the cut would
        lose what changes between the cut and the read, for its older version is gone (law 6).
        """
        window, as_of = job.request.window, None
        if isinstance(self._resources, SupportsSnapshot) and job.cut is not None:
            as_of = job.cut
            window = Window(window.since, job.cut if window.until is None else min(window.until, job.cut))
        return Query(type=resource_type, rows=rows, window=window, as_of=as_of, range=part, page_bytes=self._settings.page_bytes)

    async def _cut(self, job: Job) -> Instant:
        precision = job.request.precision
        if isinstance(self._resources, SupportsSnapshot):
            return await self._resources.cut(precision)
        return floor(after(self._clock(), -self._settings.settle), precision)

    def _deleted_types(self, job: Job) -> list[str]:
        """Deletions are wanted since an instant, or not at all (DR-01, DR-02)."""
        if job.request.window.since is None or self._deletions is None:
            return []
        return sorted(job.request.types)

    async def _ranges(self, job: Job, rows: Rows, kind: FileKind, resource_type: str) -> Sequence[Range]:
        if kind is FileKind.OUTPUT and isinstance(self._resources, SupportsSlices):
            return await self._resources.slices(self.query(job, rows, resource_type), self._settings.slice_bytes)
        return [Range("", 0)]
