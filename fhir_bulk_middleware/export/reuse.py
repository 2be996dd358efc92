"""Links the files of earlier exports into an export that is being planned, where nothing has changed since.

A full export of a storage that hardly changed since the last one is almost the same bytes again. Each slice of the selected
output gets a *cache key* and a *fingerprint* when it is planned. The cache key is a digest of everything but the resources: the
shape that was asked for, rights, filters, sizes, codec, owner, and the code itself (`cache_key`). The fingerprint stands for
the resources of the slice's range as of the cut; only the storage can make it (`SupportsFingerprints`). Where a completed job
has a slice of the same cache key, range and fingerprint, its files are the files that this slice would write. They are linked,
and the plan that records the slice records their hash, size, flush points and count with it, in one transaction. No other work
is left for it.

**The same bytes (law 5).** A file is a function of cache key, range and resources, and all three are the same. The edges of
slices must not move as the storage grows, so the ranges of the earlier job are kept as long as they are of about equal size
(`SupportsSlicesNear`). They are frozen in the plan, as ever.

**Nobody can tell (law 7).** A cache key names the owner, so a job is only faster because of an earlier job of its own owner. If
files were shared among owners, the speed of an export would tell whether somebody else had asked for the same before. Operators
whose clients may know that of each other can choose it (`Settings.reuse`); rights, filters and elements are in the cache key
then too, so that nobody gets rows that were selected for somebody with other rights.

**What may go wrong.** An earlier job can be cancelled, expire or be swept at any moment: then there is nothing to link, and the
slice is written as usual. Files are linked before they are recorded: a worker that is killed in between leaves links that no row
names, which go with the job's other leftovers. A link keeps the bytes, whatever becomes of the job that wrote them. A storage
that was restored, or another one, has other fingerprints.

**What is left out.** Only output that was selected at system level, or of all patients without context, is linked: with
`_since` or `_until` next to nothing is the same; the patients of a group, and what is named by what, are found anew by each job;
organised output is one slice; Provenance by its targets depends on other types. So are slices with an error file.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio.lowlevel

from fhir_bulk_middleware.contract.job import FileKind, Former, Job, Part, Sizes, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import Link, OutputStore, SupportsLinking
from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Query, Rows, Window
from fhir_bulk_middleware.contract.returned import answered
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsFingerprints, SupportsSnapshot
from fhir_bulk_middleware.export.cache_key import cache_key_of
from fhir_bulk_middleware.files.format import ending_of
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Clock, Instant
from fhir_bulk_middleware.settings import Settings

__all__ = ["Reuse"]

_log = logging.getLogger("fhir_bulk_middleware")

_Sameness = tuple[str, str, str]
"""Recipe, range and fingerprint of a slice."""


@dataclass(slots=True)
class Reuse:
    """The files of earlier jobs that the plan of one job may link.

    Attributes:
        resources: the storage adapter.
        jobs: the job store.
        outputs: the output store.
        settings: whose files may be linked.
        clock: the current time.
    """

    resources: SupportsExport
    jobs: JobStore
    outputs: OutputStore
    settings: Settings
    clock: Clock
    _cache_keys: dict[str, str] = field(default_factory=dict, init=False)
    _former: list[Former] = field(default_factory=list, init=False)
    _same: dict[_Sameness, Former] = field(default_factory=dict, init=False)

    async def find(self, job: Job, rows: Rows, types: Sequence[str], sizes: Sizes) -> None:
        """Find the slices of earlier jobs for the selected output of these types."""
        if not self._applies(job, rows):
            return
        everybody = self.settings.reuse == "everybody"
        self._cache_keys = {type_: cache_key_of(job, rows, type_, sizes, everybody=everybody) for type_ in types}
        self._former = [*await self.jobs.former(frozenset(self._cache_keys.values()))]
        self._same = {key: former for former in self._former if (key := _sameness(former.slice)) is not None}

    def ranges(self, resource_type: str) -> list[str]:
        """The ranges of the type in the earlier job, in order; none if there are none."""
        cache_key = self._cache_keys.get(resource_type)
        return [] if cache_key is None else [former.slice.range for former in self._former if former.slice.cache_key == cache_key]

    async def marked(self, piece: Slice, query: Query) -> Slice:
        """The slice with cache key and fingerprint, by which a later job finds its files; as it is if none may."""
        cache_key = self._cache_keys.get(piece.type)
        if cache_key is None or not isinstance(self.resources, SupportsFingerprints):
            return piece
        await anyio.lowlevel.checkpoint()  # a plan can have thousands of slices, and storages answer without a pause (law 38)
        found = await self.resources.fingerprint(replace(query, range=piece.range))
        return replace(piece, cache_key=cache_key, fingerprint=None if found is None else answered(found, str, "fingerprint"))

    async def linked(self, lease: Lease, slices: Sequence[Slice]) -> tuple[Slice, ...]:
        """The slices of a plan; those with the same files as before have them (`Slice.made`)."""
        now = self.clock()
        same = {piece.number: former for piece in slices if (former := self._with_same_files(piece)) is not None}
        parts = {number: [_linked(lease, number, part, now) for part in former.parts] for number, former in same.items()}
        links = [
            Link(before.key, part.key, part.stored_size)
            for number, former in same.items()
            for before, part in zip(former.parts, parts[number], strict=True)
        ]
        if not links or not isinstance(self.outputs, SupportsLinking):
            return tuple(slices)
        made = await self.outputs.link(links)
        done = {number: several for number, several in parts.items() if all(part.key in made for part in several)}
        _log.info("job %s: %d of %d slices are as in an earlier job, and were linked", lease.job.id, len(done), len(slices))
        return tuple(
            replace(piece, estimate=same[piece.number].slice.estimate, made=tuple(done[piece.number]))
            if piece.number in done
            else piece
            for piece in slices
        )

    def _applies(self, job: Job, rows: Rows) -> bool:
        """Whether files of the job can be the same as those of another one."""
        return (
            self.settings.reuse != "never"
            and isinstance(self.resources, SupportsFingerprints)
            and isinstance(self.resources, SupportsSnapshot)
            and isinstance(self.outputs, SupportsLinking)
            and isinstance(rows.selection, Everything | EveryPatient)
            and not rows.context
            and job.request.window == Window()
            and job.request.options.organised_by is None
        )

    def _with_same_files(self, piece: Slice) -> Former | None:
        """The earlier slice with the same files; None if there is none, or if one of them is no plain output."""
        key = _sameness(piece)
        former = None if key is None else self._same.get(key)
        if former is None or not former.parts or len(former.parts) != former.slice.parts:
            return None
        return former if all(part.kind is FileKind.OUTPUT for part in former.parts) else None


def _sameness(piece: Slice) -> _Sameness | None:
    return None if piece.cache_key is None or piece.fingerprint is None else (piece.cache_key, piece.range, piece.fingerprint)


def _linked(lease: Lease, number: int, part: Part, now: Instant) -> Part:
    """The row of a linked part: what is in it is as before, and its ids are the job's own."""
    return replace(
        part,
        file_id=file_id(lease.job.id, number, part.number),
        slice=number,
        key=f"{lease.job.id}/{number}-{part.number}.p{lease.attempt}{ending_of(part.codec)}",
        source=part.written_as,
        sealed_at=now,
        references_key=None,
        references_size=0,
    )
