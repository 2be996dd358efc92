"""Where jobs, their slices and their parts are kept."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Job, JobState, Lease, Part, Recorded, Slice, Standing
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.instant import Instant

__all__ = ["JobRetention", "JobStore", "WorkQueue"]


class JobStore(Protocol):
    """Where jobs are kept. A write that has returned is durable (law 30).

    Several adapters may share one store. Each job names its own (`Job.adapter`), and what is asked for on behalf of one
    adapter never finds a job of another (law 32).
    """

    async def store_id(self) -> str:
        """The store's own id: random, made once, the same however often the store is opened and by whichever process."""
        ...

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        """Keep a registration in place of the one with the same mount, if there is one.

        `look` is called with those that stand there, in the same transaction. What it raises passes, and nothing is kept.
        """
        ...

    async def registrations(self) -> Sequence[Registration]:
        """The registrations that stand there, by mount."""
        ...

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """Keep a new job; None, and nothing kept, when its owner has that many queued or running for its adapter (KO-113).

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

        With the state it writes what is left of the request, the failure and the idempotency key: of a job that has ended the
        store keeps nothing that the client sent (law 38). Identity, progress and time of creation stay as they are.

        After a job has left the working states no lease on it can write any more.
        """
        ...

    async def standing(self, job_id: str, mount: str, owner: Owner) -> Standing | None:
        """The job as `find` gives it, with its sealed parts and how far its plan is done, all as of one instant (law 35)."""
        ...

    async def parts(self, job_id: str) -> Sequence[Part]:
        """The sealed parts of a job, by slice and number."""
        ...

    async def part(self, job_id: str, file_id: str) -> Part | None:
        """One sealed part of a job."""
        ...


class JobRetention(Protocol):
    """What a sweep needs of a job store. Each method can be called again after a crash and does no harm.

    A sweep is made on behalf of one adapter, and finds its jobs only (law 32).
    """

    async def due(self, now: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """Completed and failed jobs whose retention is over (`Job.expires_at` is not later than `now`), longest over first."""
        ...

    async def changed_before(
        self, states: Collection[JobState], instant: Instant, limit: int, *, adapter: str = ""
    ) -> Sequence[Job]:
        """Jobs in one of these states whose state changed before the instant, oldest first."""
        ...

    async def overdue(self, created_before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """Jobs still queued or running that were created before the instant."""
        ...

    async def reclaimable(self, limit: int, *, adapter: str = "") -> Sequence[str]:
        """Ids of jobs that were cancelled, expired or failed and whose files were not yet given back."""
        ...

    async def reclaimed(self, job_id: str) -> None:
        """Forget the job's slices, parts and rows: its files are gone."""
        ...

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """Which of these jobs have files or may still get some, or are another adapter's: all others' leftovers can go."""
        ...

    async def remove(self, job_id: str) -> None:
        """Forget the job altogether; its id is then as one that never was (law 11)."""
        ...


class WorkQueue(Protocol):
    """What workers need of a job store. Every write names the lease, and counts only while that lease is current (law 18)."""

    async def claim(
        self,
        worker: str,
        now: Instant,
        *,
        lease_seconds: float,
        attempts: int,
        adapter: str = "",
        failed: Callable[[Job], None] = lambda _: None,
    ) -> Lease | None:
        """The next piece of work for this adapter, None if there is none: a queued job to plan, or a slice that nobody holds.

        Work whose lease has run out, or reaches further ahead than that lease can (the clock was set back), is given out again.
        Work that was begun `attempts` times without recording a part, stops that were asked for aside, fails its job with the
        cause that was kept. Owners take turns.

        Args:
            worker: who asks.
            now: what time it is.
            lease_seconds: how long the lease is good for.
            attempts: how often work may be begun.
            adapter: whose jobs may be claimed, or failed on the way.
            failed: is told of each job that this call has ended, once that is durable.
        """
        ...

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """Say that the holder is alive and that `done` resources of the slice have been read; False if the lease is lost."""
        ...

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant, *, rows: Rows | None = None
    ) -> bool:
        """Turn a queued job into a running one with this plan, written once (law 5); False if the lease is lost.

        A plan without slices completes the job. Where `rows` are given they take the place of the job's, in the same step: each
        later lease has them.
        """
        ...

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """Record sealed parts together with the cursor after them; nothing is recorded if the lease is lost.

        `finished` ends the slice: in the job's estimate, what was guessed of it gives way to what was read. With the last slice
        it completes the job, in the same transaction.
        """
        ...

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        """Give the work back, to be begun again by anybody, and keep the cause. A lost lease is ignored.

        `excused` is for a holder that was asked to stop: its attempt does not count, so that deployments fail no job.
        """
        ...

    async def release_worker(self, worker: str, now: Instant, cause: str = "") -> None:
        """Give back all that a worker held who is known to be gone, and keep the cause; in general words where none is given."""
        ...

    async def cause(self, job_id: str) -> str | None:
        """Why a job failed whose work was begun too often, for the operator's log; None if that is not what became of it."""
        ...
