"""Everything that a host may implement, and nothing else.

A capability is an implemented protocol: routes, CapabilityStatement and documentation follow from what an adapter has. Each
protocol says who guarantees what; `fhir_bulk_middleware.testing` has a suite for each.

The storage adapter itself is one object with `SupportsExport` and as many of the other `Supports...` protocols as it can keep.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from fhir_bulk_middleware.export.job import Codec, Job, JobState, Lease, Part, Slice
from fhir_bulk_middleware.export.query import Authorisation, Block, Deletions, Page, Query, Range, Rows
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.principal import Owner, Principal

__all__ = [
    "JobRetention",
    "JobRunner",
    "JobStore",
    "OutputSink",
    "OutputStore",
    "Recipe",
    "SupportsDeletions",
    "SupportsExport",
    "SupportsGroups",
    "SupportsJoining",
    "SupportsOrganising",
    "SupportsPatients",
    "SupportsProvenance",
    "SupportsSlices",
    "SupportsSnapshot",
    "SupportsTypes",
    "SupportsWorkerProcess",
    "TokenVerifier",
    "Work",
    "WorkQueue",
]


# --- The storage adapter ---------------------------------------------------------------------------------------------


@runtime_checkable
class SupportsExport(Protocol):
    """A storage that can be exported. Without it there is nothing to install.

    We guarantee: the principal is verified; each `Query` names a type that `authorise` allowed; `pages` is called in any process,
    several at a time, and may be called again for what was read before.
    """

    async def authorise(self, principal: Principal) -> Authorisation:
        """What this principal may export from this storage, scopes aside.

        Raises:
            Refused: `SERVICE_INACTIVE`, where the export service is switched off for the principal (law 29).
        """
        ...

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The resources of a query, in one fixed order, beginning after the cursor `after` (None: from the start).

        The adapter guarantees: lines are canonical (see `Page`); no resource twice; the same query gives the same lines in the
        same order as long as the storage has not changed (for stores with snapshots: always); no page is larger than
        `query.page_bytes`, unless it holds a single resource; an empty selection gives no page.
        """
        ...


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A storage that can be read as of an instant. Without it exports may hold changes that came after their cut (law 6)."""

    async def now(self) -> Instant:
        """The storage's own clock, by which a `_since` is in the future or not (law 2)."""
        ...

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut: the latest instant at `precision` from which on nothing can change any more.

        The adapter guarantees: each write that is visible later has a `lastUpdated` after the cut, also those whose
        transactions are open now; a query with `as_of` at the cut gives the storage as it was then, for as long as jobs are kept.
        """
        ...


@runtime_checkable
class SupportsSlices(Protocol):
    """A storage that can cut a query into parts of about the same size. Without it each type is one slice."""

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """Ranges that together hold each resource of the query exactly once, in the order of `pages`.

        The adapter guarantees: for a query with `as_of`, the ranges hold the same resources whenever they are read.
        """
        ...


@runtime_checkable
class SupportsDeletions(Protocol):
    """A storage that knows what was deleted. Without it the manifest has no `deleted` list (DR-02, DR-07)."""

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """What was deleted within the query's window and does not live as of its cut, in one fixed order.

        The adapter guarantees: no reference twice; a resource that was created again is not among them (MF-22); a deletion whose
        compartments are unknown is left out where the selection is not `Everything` (law 27).
        """
        ...


@runtime_checkable
class SupportsTypes(Protocol):
    """A storage that tells anybody which types it exports. Without it the CapabilityStatement does not list them (CS-06)."""

    def exportable_types(self) -> frozenset[str]:
        """The types that `authorise` allows to somebody; it is published, and asked for once."""
        ...


@runtime_checkable
class SupportsGroups(Protocol):
    """Who knows the members of groups; groups may live outside the FHIR server (law 29). Without it there is no Group level."""

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        """References of the group's members (`Patient/123`), None for a group that is unknown to this principal.

        A group without members is an empty set, and its export is empty.
        """
        ...


@runtime_checkable
class SupportsJoining(Protocol):
    """Whoever knows the members of groups also knows their past. Without it GR-01 is not to be had."""

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:
        """References of those who were the group's members at that instant; nobody, if there was no such group then."""
        ...


@runtime_checkable
class SupportsPatients(Protocol):
    """A storage that can say which patients there are. Without it `patient` is believed at Patient level (PT-04)."""

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:
        """Those of the references (`Patient/123`) that name a patient whom this principal may see."""
        ...


@runtime_checkable
class SupportsProvenance(Protocol):
    """A storage that knows which Provenance belongs to what. Without it `includeAssociatedData` is not supported."""

    def provenance(self, query: Query, targets: Sequence[Query], after: str | None, *, latest: bool) -> AsyncIterator[Page]:
        """The Provenance of the resources that `targets` select, each once, in one fixed order (KO-86 to KO-88).

        The adapter guarantees the same as for `pages`. Here it applies `Rows.filters` of the targets itself, for what is not
        exported has no Provenance to come along; `fhir_bulk_middleware.export.filters.Filters` does it line by line.

        Args:
            query: Provenance; its window and `as_of` hold for the Provenance itself, its selection does not.
            targets: what the Provenance is about: any number of queries, several of one type among them, with one `as_of`.
            after: the cursor to go on after.
            latest: only the Provenance of each resource that changed last (by `lastUpdated`).
        """
        ...


@runtime_checkable
class SupportsOrganising(Protocol):
    """A storage that can read patient by patient. Without it `organizeOutputBy` is not supported (law 22)."""

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        """What the queries select, grouped by the patient whose compartment it lies in, patients in one fixed order (FR-17).

        A resource in several selected patients' compartments is in the block of each. The queries share selection, window and
        `as_of`; their filters are applied by us. `after` is the cursor of the last block that is not wanted any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an object again in another process.

    Attributes:
        factory: `package.module:callable`.
        arguments: its keyword arguments; at most some kB of JSON.
    """

    factory: str
    arguments: Mapping[str, JsonValue]


@runtime_checkable
class SupportsWorkerProcess(Protocol):
    """An adapter or store that can be made again in a worker process. Without it slices are read in the server's loop."""

    def recipe(self) -> Recipe:
        """How to make it again there."""
        ...


# --- Collaborators ---------------------------------------------------------------------------------------------------


class TokenVerifier(Protocol):
    """Turns a bearer token into a principal."""

    async def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises:
            TokenRejected: it is not good, for whatever reason.
            Refused: `BUSY`, if that cannot be told just now, because what it is checked with is not to be had.
        """
        ...


class JobStore(Protocol):
    """Where jobs are kept. A write that has returned is durable (law 30)."""

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """Keep a new job; None, and nothing kept, when its owner already has that many jobs queued or running (KO-113).

        Where the owner has a live job of the same mount under the same idempotency key, that one is returned instead, whatever it
        asked for, and nothing is kept. All of this holds across all processes on the store.
        """
        ...

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """The job with this id, if this mount made it for this owner; the only way to a job on behalf of a caller (law 7).

        One indexed read and no write (law 19).
        """
        ...

    async def replace(self, job: Job) -> bool:
        """Write `job` if the stored one still has its revision, and add one to that; False if it has not.

        After a job has left the working states no lease on it can write any more.
        """
        ...

    async def parts(self, job_id: str) -> Sequence[Part]:
        """The sealed parts of a job, by slice and number."""
        ...

    async def unfinished(self, job_id: str) -> int | None:
        """The number of the first slice of a job's plan that is not finished, None if all are or there is no plan."""
        ...

    async def part(self, job_id: str, file_id: str) -> Part | None:
        """One sealed part of a job."""
        ...


class JobRetention(Protocol):
    """What a sweep needs of a job store. Each method can be called again after a crash and does no harm."""

    async def due(self, now: Instant, limit: int) -> Sequence[Job]:
        """Completed and failed jobs whose retention is over (`Job.expires_at` is not later than `now`), longest over first."""
        ...

    async def changed_before(self, states: Collection[JobState], instant: Instant, limit: int) -> Sequence[Job]:
        """Jobs in one of these states whose state changed before the instant, oldest first."""
        ...

    async def overdue(self, created_before: Instant, limit: int) -> Sequence[Job]:
        """Jobs still queued or running that were created before the instant."""
        ...

    async def reclaimable(self, limit: int) -> Sequence[str]:
        """Ids of jobs that were cancelled, expired or failed and whose files were not yet given back."""
        ...

    async def reclaimed(self, job_id: str) -> None:
        """Forget the job's slices, parts and rows: its files are gone."""
        ...

    async def keeps_files(self, job_ids: Collection[str]) -> frozenset[str]:
        """Which of these jobs have files or may still get some: all others' leftovers can go."""
        ...

    async def remove(self, job_id: str) -> None:
        """Forget the job altogether; its id is then as one that never was (law 11)."""
        ...


class WorkQueue(Protocol):
    """What workers need of a job store. Every write names the lease, and counts only while that lease is current (law 18)."""

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int) -> Lease | None:
        """The next piece of work, None if there is none: a queued job to plan, or a slice that nobody holds.

        Work whose lease has run out, or reaches further ahead than a lease can (the clock was set back), is given out again.
        Work that was begun `attempts` times without recording a part, stops that were asked for aside, fails its job with the
        cause that was kept. Owners take turns.
        """
        ...

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """Say that the holder is alive and that `done` resources of the slice have been read; False if the lease is lost."""
        ...

    async def plan(self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant) -> bool:
        """Turn a queued job into a running one with this plan, written once (law 5); False if the lease is lost.

        A plan without slices completes the job.
        """
        ...

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> bool:
        """Record sealed parts together with the cursor after them; False, and nothing recorded, if the lease is lost.

        `finished` ends the slice, and with the last slice completes the job, in the same transaction.
        """
        ...

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        """Give the work back, to be begun again by anybody, and keep the cause. A lost lease is ignored.

        `excused` is for a holder that was asked to stop: its attempt does not count, so that deployments fail no job.
        """
        ...

    async def release_worker(self, worker: str, now: Instant) -> None:
        """Give back all that a worker held who is known to be gone."""
        ...

    async def cause(self, job_id: str) -> str | None:
        """Why a job failed whose work was begun too often, for the operator's log; None if that is not what became of it."""
        ...


class OutputSink(Protocol):
    """A part being written. Nobody sees it before it is sealed; leaving it unsealed leaves nothing behind."""

    async def write(self, data: bytes) -> None:
        """Append."""
        ...

    async def seal(self) -> None:
        """Make it durable, contents and name, and visible under its key."""
        ...


class OutputStore(Protocol):
    """Where parts lie, as bytes under keys of ours (`{job_id}/{name}`); it knows nothing of what is in them."""

    def create(self, key: str) -> AbstractAsyncContextManager[OutputSink]:
        """Begin a part. Writing a key again replaces it, as a whole, when it is sealed."""
        ...

    def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """`length` bytes from `start`, in chunks. A read that has begun goes on to its end though the part is discarded (DL-09).

        Raises:
            FileNotFoundError: on the first step, if there is no such part.
        """
        ...

    async def discard(self, job_id: str) -> None:
        """Remove all parts of a job, begun or sealed. No error if there are none."""
        ...

    def jobs(self) -> AsyncIterator[str]:
        """Ids of the jobs that have anything here, sealed or not."""
        ...


class Work(Protocol):
    """What a runner runs. It does not know what an export is."""

    async def step(self, worker: str) -> bool:
        """Do one piece of work in the name of `worker`; False if there was none."""
        ...

    async def abandoned(self, worker: str) -> None:
        """Give back what a worker held who is known to be gone."""
        ...

    def recipe(self) -> Recipe | None:
        """How to make this again in a worker process, None if that is not possible."""
        ...


class JobRunner(Protocol):
    """Decides where work runs. Correctness never rests on it: duplicates are fenced out by the work's leases."""

    def running(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Run work while the context is open; on leaving, stop cleanly with work in flight."""
        ...

    def wake(self) -> None:
        """There may be new work. Cheap, never blocks, never fails; missing one delays work by a second at most."""
        ...
