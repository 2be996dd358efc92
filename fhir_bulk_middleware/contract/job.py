"""A job: its states, its slices and parts, and the pure transitions between them.

Every value here is frozen. A transition returns a new job; a `JobStore` writes it only if nobody else wrote in between.
"""

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.query import Level, Rows, Window
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.outcomes import Reason

__all__ = [
    "LEASE_SLACK",
    "Associated",
    "Codec",
    "Failure",
    "FileKind",
    "Idempotency",
    "Ignored",
    "Job",
    "JobKind",
    "JobState",
    "Lease",
    "Options",
    "Part",
    "Recorded",
    "ReportForm",
    "Request",
    "Sizes",
    "Slice",
    "Standing",
    "fell_silent",
]


class JobState(StrEnum):
    """Where a job stands (DL-14). Only `QUEUED` and `RUNNING` have work left; only the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def live(self) -> bool:
        """Whether there is something to poll for: work, a result or a failure."""
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
    """In which list of the manifest a file stands."""

    OUTPUT = "output"
    DELETED = "deleted"
    ERROR = "error"


class Associated(StrEnum):
    """Which Provenance comes along with what is exported; spelled as `includeAssociatedData` spells it (KO-87, KO-88)."""

    LATEST_PROVENANCE = "LatestProvenanceResources"
    RELEVANT_PROVENANCE = "RelevantProvenanceResources"


class Codec(StrEnum):
    """How a job's parts lie in the output store; chosen once per job (law 5)."""

    PLAIN = "plain"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large things may be, in plain bytes: the operator's settings, and within them the client's wish (KO-30, law 15).

    Attributes:
        ceiling: of a part; a single larger resource is the exception.
        floor: of a part that is not the last of its slice.
        page: so that one page, even if shaping makes it larger, fits a part, and one more does not overshoot the floor.
        slice: of a slice, so that its last part is rarely below the floor.
    """

    ceiling: int
    floor: int
    page: int
    slice: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A parameter that was set aside at the client's own wish (`handling=lenient`), and is reported (KO-101, KO-102).

    Attributes:
        reason: why it could not be used.
        detail: for the client.
        part: the part of the request that it is about.
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
    """How the output is shaped; the defaults are those of a plain export.

    Attributes:
        elements: entries of `_elements` (EL-01); empty for whole resources.
        associated: which Provenance comes along; None for no more than what is selected anyway (KO-86).
        organised_by: the resource type of `organizeOutputBy` (KO-92); None for a file per type.
        partial_manifests: files may be published while the job runs (KO-95).
        separate_status: the job's status goes into `X-Export-Status` (KO-45).
        smallest_file: bytes; what the client wants a file to have at least (KO-30).
        largest_file: bytes; what the client wants a file to have at most.
        sizes: of pages, parts and slices, frozen with the rest (law 5); None for a job that no mount has accepted.
        ignored: parameters that were set aside.
        reports: how error files write their issues (ST-15); None for a job that no mount has accepted.
        base_url: under which relative attachment URLs are made absolute (FR-19); None to leave them.
        base_urls: under which an absolute reference is this server's own (KO-85).
        deletions_since: since when all deletions are known, where that is later than `_since`; else None.
        version: the FHIR release of the resources, which knows their elements.
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
    """What was asked, as far as a poll needs to know it; frozen at kick-off (law 8). `Rows` has the rest.

    Attributes:
        url: the kick-off URL as the manifest repeats it (MF-02); without the parameters of a POST.
        level: system, Patient or Group.
        types: the resource types to export, sorted: asked, allowed by scope, and held by the adapter.
        window: `_since` and `_until`. The cut is added when the job starts.
        retention: seconds that the finished job is kept, as its mount promised when it began (ST-22).
        precision: how much of the cut the client is shown, and so the precision that it is taken at (law 1).
        kind: what the job does.
        granular: the queries of granular scopes that restrict it, as (type, query); a token that polls must carry them too.
        options: how the output is shaped.
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

    def forgotten(self) -> "Request":
        """What a tombstone keeps of it: no URL, no window, no criteria and no options (law 38)."""
        return replace(self.of_failed(), granular=(), options=Options())

    def of_failed(self) -> "Request":
        """What a failed job keeps of it: by which rights its owner may hear why, and in which shape."""
        options = Options(separate_status=self.options.separate_status)
        return replace(self, url="", window=Window(), options=options)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How a repeated kick-off is known (law 12).

    Attributes:
        key: a digest of the `Idempotency-Key` header.
        fingerprint: a digest of what was asked, and with which rights.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without a result.

    Attributes:
        reason: in the domain's words.
        detail: for the owner; nothing of the machine's inside.
    """

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of an export that is read, retried and counted on its own.

    Attributes:
        number: its place in the job's plan, from 0.
        kind: what its files hold.
        type: what each line is: a resource type, `OperationOutcome`, or `Bundle` for the deletions of all types.
        range: which part of the type, in the adapter's words (`Range.range`); for deletions the types that there are some of.
        estimate: about how many resources.
        cursor: after which resource the next part begins; None for the first.
        parts: how many parts are sealed.
        joined: whether it holds what members who joined after `_since` had by then (GR-01), instead of what changed since.
    """

    number: int
    kind: FileKind
    type: str
    range: str
    estimate: int
    cursor: str | None = None
    parts: int = 0
    joined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sealed file of a job: durable before its row says so (law 30).

    Attributes:
        file_id: what a URL calls it (`fhir_bulk_middleware.identifiers`).
        slice: number of the slice that it belongs to.
        number: its place in the slice, from 0.
        kind: in which list of the manifest it stands.
        type: what each line is: a resource type, `Bundle` or `OperationOutcome`.
        key: where the output store keeps it; carries the attempt that wrote it.
        codec: how it lies there.
        count: its resources, a line each; the headers of organised blocks are lines too, and not counted (law 22).
        size: bytes of the plain NDJSON.
        sha256: of the plain NDJSON, in hex.
        stored_size: bytes as it lies.
        flush_points: for `GZIP`, the stored offset at which inflating can begin for each multiple of `FLUSH_INTERVAL` plain bytes
            (law 13); the first is the end of the gzip header. Empty for `PLAIN`.
        sealed_at: when.
        severity: of the outcomes in a file of errors, which are all of one (MF-12); None in other files.
        continued_in: id of the file in which the last block of an organised file goes on (FR-15, MF-08); None if it does not.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An export as its owner sees it, without its slices and parts.

    Attributes:
        id: 128 random bits, written like a UUID (KO-115).
        mount: the mount that made it, and the only one that answers for it (law 10).
        adapter: the identity of the adapter that it is about, on whose behalf alone it is worked on, swept and ended (law 32);
            empty in a store that nobody shares.
        owner: whose it is.
        request: what to export.
        state: where it stands.
        revision: counts changes of state; a compare-and-set names the revision that it read. Progress does not count, so a
            cancel does not lose against it.
        created_at: when the kick-off was answered.
        changed_at: when `state` last changed; retention counts from it.
        cut: the manifest's `transactionTime`, once fixed.
        codec: how its parts lie, once planned.
        estimate: about how many resources it will hold, once planned.
        done: how many resources have been read so far; never falls.
        failure: why, for `FAILED`.
        idempotency: the client's key, if it gave one.
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

    @property
    def expires_at(self) -> Instant:
        """When the finished job and its files go; of a job that is not finished it says nothing."""
        return after(self.changed_at, self.request.retention)

    def same_key(self, other: "Job") -> bool:
        """Whether the two came under the same idempotency key, of one owner and through one mount."""
        mine, theirs = self.idempotency, other.idempotency
        if mine is None or theirs is None:
            return False
        return (self.owner, self.mount, mine.key) == (other.owner, other.mount, theirs.key)

    def cancelled(self, now: Instant) -> "Job":
        """This job after its owner cancelled it, or was done with it (DL-01, DL-04, DL-06)."""
        return self._ended(JobState.CANCELLED, now)

    def expired(self, now: Instant) -> "Job":
        """This job after its retention."""
        return self._ended(JobState.EXPIRED, now)

    def failed(self, failure: Failure, now: Instant) -> "Job":
        """This job after something final went wrong (ST-10)."""
        return replace(self._turned(JobState.FAILED, now), failure=failure, request=self.request.of_failed())

    def _ended(self, state: JobState, now: Instant) -> "Job":
        """A tombstone: whose it was and what became of it (laws 11 and 38)."""
        ended = self._turned(state, now)
        return replace(ended, request=self.request.forgotten(), failure=None, idempotency=None)

    def _turned(self, state: JobState, now: Instant) -> "Job":
        if not self.state.live:
            raise ValueError(f"a job that is {self.state} stays so")
        return replace(self, state=state, changed_at=now)


@dataclass(frozen=True, slots=True)
class Standing:
    """A job and what it has come to, as of one instant: what an answer may show together (law 35).

    Attributes:
        job: as it stood.
        parts: its sealed parts, or the one that was asked for, by slice and number; empty where none were asked for.
        unfinished: the number of the first slice of its plan that was not finished, None if all were or there was no plan.
    """

    job: Job
    parts: tuple[Part, ...] = ()
    unfinished: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's hold on one piece of work: planning a job, or exporting one of its slices.

    It cannot stop a worker from running; it stops it from publishing (law 18): each write names the attempt, and a write
    whose attempt is not the current one changes nothing.

    Attributes:
        job: the job as it was when the lease was given.
        rows: which rows the job may hold.
        slice: the slice to export; None to plan the job.
        attempt: the fencing token; the first attempt is 1.
        worker: who holds it.
        tries: how often the work was begun, this time included, since an attempt last recorded a part; attempts whose release
            was excused are not counted.
        cause: why the previous attempt ended, for the operator; None for the first attempt.
    """

    job: Job
    rows: Rows
    slice: Slice | None
    attempt: int
    worker: str
    tries: int = 1
    cause: str | None = None


LEASE_SLACK = 2
"""How far ahead of a claimer's clock a lease may end before the clock must have been set back, in lengths of that lease.

Two, because a claimer reads its clock before it waits for its turn to write: a lease given in between ends later than one length
after that. A clock that was set back by less delays work by no more than that. The length is that of the lease, not of the
claimer's own, whose `lease_seconds` may differ.
"""


def fell_silent(worker: str, attempt: int) -> str:
    """The cause (`Lease.cause`) that a store gives for an attempt whose lease ran out."""
    return f"worker {worker} fell silent in attempt {attempt}"


class Recorded(IntEnum):
    """What came of a checkpoint; only `LOST` is false."""

    LOST = 0
    """The lease is not current any more, and nothing was written (law 18)."""
    KEPT = 1
    COMPLETED = 2
    """It was kept, and with it the job is complete. Exactly one checkpoint of a job says so."""
