"""A job: its states, its slices and parts, and the pure transitions between them.

Every value here is frozen. A transition returns a new job, which a `JobStore` writes by compare-and-set.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.query import Level, Unfinished, Window
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.outcomes import Reason

__all__ = [
    "Associated",
    "Codec",
    "Failure",
    "FileKind",
    "Former",
    "Idempotency",
    "Ignored",
    "Job",
    "JobKind",
    "JobState",
    "Options",
    "Origin",
    "Part",
    "ReportForm",
    "Request",
    "Sizes",
    "Slice",
    "Standing",
]


class JobState(StrEnum):
    """The state of a job (DL-14). Only `QUEUED` and `RUNNING` have work left; no work follows the other four."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def live(self) -> bool:
        """Whether a poll has something to show: work, a result or a failure."""
        return self in {JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED, JobState.FAILED}

    @property
    def working(self) -> bool:
        """Whether work is left."""
        return self is JobState.QUEUED or self is JobState.RUNNING


class JobKind(StrEnum):
    """What a job does."""

    EXPORT = "export"
    REMOVE_ALL = "remove-all"
    """Removes the versions that its rows name (law 26)."""


class FileKind(StrEnum):
    """The list of the manifest that names a file."""

    OUTPUT = "output"
    DELETED = "deleted"
    LEFT = "left"
    """Resources that live but left the export's cohort (law 34)."""
    ERROR = "error"


class Origin(StrEnum):
    """Why resources are in an export."""

    SELECTED = "selected"
    """They lie in the selection and changed within the window."""
    ENTERED = "entered"
    """They changed before the window and entered the export within it: older data of members who joined after `_since` (GR-01),
    and the Provenance of what moved into the selection (law 34)."""
    CONTEXT = "context"
    """Exported resources name them (law 40)."""


class Associated(StrEnum):
    """The Provenance to export with the selected resources; the values are those of `includeAssociatedData` (KO-87, KO-88)."""

    LATEST_PROVENANCE = "LatestProvenanceResources"
    RELEVANT_PROVENANCE = "RelevantProvenanceResources"


class Codec(StrEnum):
    """How the parts of a job are stored; chosen once per job (law 5)."""

    PLAIN = "plain"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Size limits in uncompressed bytes: the operator's settings, and within them the client's wish (KO-30, law 15).

    Attributes:
        ceiling: maximum of a part; only a single larger resource exceeds it.
        floor: minimum of a part that is not the last of its slice.
        page: maximum of a page, so small that one page fits a part even after transformation.
        slice: target of a slice, so large that few parts are below the floor.
    """

    ceiling: int
    floor: int
    page: int
    slice: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A parameter that the server ignored under `handling=lenient`, to be reported to the client (KO-101, KO-102).

    Attributes:
        reason: why it was not used.
        detail: the text for the client.
        part: the part of the request that it was in.
    """

    reason: Reason
    detail: str
    part: str | None


@dataclass(frozen=True, slots=True)
class ReportForm:
    """How the dialect of a job's mount writes the issues of error files; part of the job, since workers serve several mounts.

    Attributes:
        element: which element of an issue carries the text.
        codes: `issue.code` of each reason that an error file can report.
    """

    element: TextElement
    codes: tuple[tuple[Reason, str], ...]

    def code(self, reason: Reason) -> str:
        """The issue code of a reason."""
        return dict(self.codes)[reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the output is transformed, split and served; the defaults are those of a plain export.

    Attributes:
        elements: entries of `_elements` (EL-01); empty for whole resources.
        associated: which Provenance is exported too; None for none but what is selected anyway (KO-86).
        organised_by: the resource type of `organizeOutputBy` (KO-92); None for a file per type.
        partial_manifests: files may be published while the job runs (KO-95).
        separate_status: the job's status goes into `X-Export-Status` (KO-45).
        smallest_file: the minimum size of a file in bytes that the client asked for (KO-30).
        largest_file: the maximum size of a file in bytes that the client asked for.
        sizes: the sizes of pages, parts and slices, frozen at kick-off (law 5); None only before that.
        ignored: the parameters that were ignored.
        reports: how error files write their issues (ST-15); None only before kick-off.
        base_url: the base of relative attachment URLs, which are made absolute (FR-19); None to leave them.
        base_urls: the bases below which an absolute reference is local (KO-85).
        deletions_since: the instant from which all deletions are known, if it is later than `_since`; else None.
        version: the FHIR release of the resources.
    """

    elements: tuple[str, ...] = ()
    associated: Associated | None = None
    organised_by: str | None = None
    partial_manifests: bool = False
    separate_status: bool = False
    smallest_file: int | None = None
    largest_file: int | None = None
    sizes: Sizes | None = None
    ignored: tuple[Ignored, ...] = ()
    reports: ReportForm | None = None
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    deletions_since: Instant | None = None
    version: FhirVersion = FhirVersion.R4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The part of a kick-off that polls read; frozen at kick-off (law 8). `Rows` has the rest.

    Attributes:
        url: the kick-off URL as the manifest repeats it (MF-02); without the parameters of a POST.
        level: system, Patient or Group.
        types: the resource types to export, sorted: requested, allowed by scope, and offered by the adapter.
        window: `_since` and `_until`. The cut is added when the job starts.
        retention: seconds that a finished job is kept, fixed at kick-off (ST-22).
        precision: the precision of the cut, which is what the client sees of it (law 1).
        kind: what the job does.
        granular: the queries of granular scopes that restrict the job, as (type, query); a token that polls must have them too.
        options: how the output is made.
        traceparent: identifies the span of the kick-off, to which those of its work are linked; shown to nobody.
    """

    url: str
    level: Level
    types: tuple[str, ...]
    window: Window
    retention: float
    precision: Precision
    granular: tuple[tuple[str, str], ...] = ()
    options: Options = Options()
    kind: JobKind = JobKind.EXPORT
    traceparent: str | None = None

    def forgotten(self) -> "Request":
        """The request as a tombstone keeps it: without URL, window, criteria and options (law 38)."""
        return replace(self.of_failed(), granular=(), options=Options())

    def of_failed(self) -> "Request":
        """The request as a failed job keeps it: the rights that a poll needs, and the form of its answer (law 38)."""
        options = Options(separate_status=self.options.separate_status)
        return replace(self, url="", window=Window(), options=options, traceparent=None)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Identifies a repeated kick-off (law 12).

    Attributes:
        key: a digest of the `Idempotency-Key` header.
        fingerprint: a digest of the request and the rights.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without a result.

    Attributes:
        reason: the class of failure.
        detail: safe to show to the owner: nothing about the machine.
    """

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A piece of a job that is carried out, retried and counted on its own.

    Attributes:
        number: its place in the job's plan, from 0.
        kind: what its files hold.
        type: the type of each line: a resource type, `OperationOutcome`, or `Bundle` for the deletions of all types.
        range: the range of the type, as the adapter defined it (`Range.range`); for deletions the types that have some.
        estimate: the approximate number of resources.
        cursor: the position after the last sealed part; None at the start.
        parts: the number of sealed parts.
        origin: why its resources are in the export.
        cache_key: a digest of all that its files depend on but the resources themselves; None if no other job may have its files.
        fingerprint: stands for the resources of its range as of the cut (`SupportsFingerprints`); None if that is unknown.
        made: its parts, if they are linked files of an earlier job. The plan that writes it then finishes it too. Not kept: a
            slice that is read from a job store has none.
    """

    number: int
    kind: FileKind
    type: str
    range: str
    estimate: int
    cursor: str | None = None
    parts: int = 0
    origin: Origin = Origin.SELECTED
    cache_key: str | None = None
    fingerprint: str | None = None
    made: tuple["Part", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sealed file of a job: durable before its row says so (law 30).

    Attributes:
        file_id: its id in URLs (`fhir_bulk_middleware.identifiers`).
        slice: the number of its slice.
        number: its place in the slice, from 0.
        kind: the list of the manifest that names it.
        type: the type of each line: a resource type, `Bundle` or `OperationOutcome`.
        key: its key in the output store; contains the attempt that wrote it.
        codec: how it is stored.
        count: the number of resources; the headers of organised blocks are lines too, but are not counted (law 22).
        size: bytes of the plain NDJSON.
        sha256: of the plain NDJSON, in hex.
        stored_size: bytes as stored.
        flush_points: for `GZIP`, the stored offset at which inflating can begin for each multiple of `FLUSH_INTERVAL` plain bytes
            (law 13); the first is the end of the gzip header. Empty for `PLAIN`.
        sealed_at: when it was sealed.
        severity: the one severity of all outcomes in an error file (MF-12); None in other files.
        continued_in: id of the file that continues the last block of an organised file (FR-15, MF-08); None if none does.
        references_key: the key of the list of references in its lines, from which context is planned (law 40); None if there are
            none, or context is not wanted. Needed until the job is completed.
        references_size: bytes of that list.
        source: the key under which its bytes were written, if it is a link to a file of an earlier job (`SupportsLinking`); None
            if it was written for this job.
    """

    file_id: str
    slice: int
    number: int
    kind: FileKind
    type: str
    key: str
    codec: Codec
    count: int
    size: int
    sha256: str
    stored_size: int
    flush_points: tuple[int, ...]
    sealed_at: Instant
    severity: str | None = None
    continued_in: str | None = None
    references_key: str | None = None
    references_size: int = 0
    source: str | None = None

    @property
    def written_as(self) -> str:
        """The key under which its bytes were written. Parts with the same one share the disk."""
        return self.source or self.key


@dataclass(frozen=True, slots=True)
class Former:
    """A finished slice of a completed job, whose files a later job may link.

    Attributes:
        slice: the slice; its estimate is the number of resources that were read.
        parts: its parts, by number.
    """

    slice: Slice
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job without its rows, slices and parts.

    Attributes:
        id: 128 random bits, written like a UUID (KO-115).
        mount: the mount that made it, and the only one that answers for it (law 10).
        adapter: the identity of its adapter; workers and sweeps of other adapters ignore the job (law 32). Empty in a store that
            only one adapter uses.
        owner: the client that created it.
        request: what to do.
        state: its state.
        revision: the number of changes of state, compared by compare-and-set. Progress does not count, so a cancel never loses
            against it.
        created_at: when the kick-off was accepted.
        changed_at: when `state` last changed; retention counts from it.
        cut: the manifest's `transactionTime`, once planned.
        codec: how its parts are stored, once planned.
        estimate: the approximate number of resources, once planned.
        done: the number of resources read so far; never falls.
        failure: the failure of a `FAILED` job.
        idempotency: the client's idempotency key, if it sent one.
        more: whether another round of the plan follows when all planned slices are finished (`JobStore.plan`).
        unfinished: the transactions that the cut did not wait for; None if there were none, or there is no cut yet.
    """

    id: str
    mount: str
    adapter: str = ""
    owner: Owner
    request: Request
    state: JobState = JobState.QUEUED
    revision: int = 0
    created_at: Instant
    changed_at: Instant
    cut: Instant | None = None
    codec: Codec | None = None
    estimate: int = 0
    done: int = 0
    failure: Failure | None = None
    idempotency: Idempotency | None = None
    more: bool = False
    unfinished: Unfinished | None = None

    @property
    def expires_at(self) -> Instant:
        """When a completed or failed job and its files expire; meaningless for other states."""
        return after(self.changed_at, self.request.retention)

    def same_key(self, other: "Job") -> bool:
        """Whether both have the same idempotency key, owner and mount."""
        mine, theirs = self.idempotency, other.idempotency
        if mine is None or theirs is None:
            return False
        return (self.owner, self.mount, mine.key) == (other.owner, other.mount, theirs.key)

    def cancelled(self, now: Instant) -> "Job":
        """This job after its owner cancelled or deleted it (DL-01, DL-04, DL-06)."""
        return self._ended(JobState.CANCELLED, now)

    def expired(self, now: Instant) -> "Job":
        """This job after its retention."""
        return self._ended(JobState.EXPIRED, now)

    def failed(self, failure: Failure, now: Instant) -> "Job":
        """This job after a final failure (ST-10)."""
        return replace(self._turned(JobState.FAILED, now), failure=failure, request=self.request.of_failed())

    def _ended(self, state: JobState, now: Instant) -> "Job":
        """The tombstone: owner, state and rights, and nothing that the client sent (laws 11 and 38)."""
        ended = self._turned(state, now)
        return replace(ended, request=self.request.forgotten(), failure=None, idempotency=None)

    def _turned(self, state: JobState, now: Instant) -> "Job":
        if not self.state.live:
            raise ValueError(f"a job that is {self.state} stays so")
        return replace(self, state=state, changed_at=now)


@dataclass(frozen=True, slots=True)
class Standing:
    """A job with its parts and progress as of one instant, for one answer (law 35).

    Attributes:
        job: the job.
        parts: its sealed parts, or the one that was asked for, by slice and number; empty where none were asked for.
        unfinished: the number of the first slice of its plan that was not finished, None if all were or there was no plan.
        slices: how many slices its plan has so far; 0 where one part was asked for.
    """

    job: Job
    parts: tuple[Part, ...] = ()
    unfinished: int | None = None
    slices: int = 0
