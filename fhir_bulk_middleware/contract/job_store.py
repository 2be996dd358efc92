"""The job store: where jobs, their rows, slices and parts are kept, and the queue of the work that they leave."""

from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, Self, runtime_checkable

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Former, Job, Part, Slice, Standing
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.query import Rows, Unfinished
from fhir_bulk_middleware.contract.registration import Registration, Registry
from fhir_bulk_middleware.instant import Instant

__all__ = ["Due", "JobStore", "ListPlace", "SupportsBacklog", "SupportsHints"]


class Due(StrEnum):
    """A step of housekeeping, by which a sweep asks for the jobs that need it (`JobStore.due`)."""

    FAIL = "fail"
    """Queued and running jobs that were created before the instant."""
    EXPIRE = "expire"
    """Completed and failed jobs whose `Job.expires_at` lies before the instant."""
    RECLAIM = "reclaim"
    """Cancelled, expired and failed jobs whose state changed before the instant and that still hold slices, parts or rows."""
    FORGET = "forget"
    """Cancelled and expired jobs whose state changed before the instant and that were reclaimed."""


class ListPlace(NamedTuple):
    """The place of a job in a list: lists begin with the greatest place, so with the newest job.

    It does not change while the job exists, and says where a list goes on after the job is gone.

    Attributes:
        created_at: `Job.created_at`.
        job_id: `Job.id`, which orders jobs of the same instant by their characters.
    """

    created_at: Instant
    job_id: str

    @classmethod
    def of(cls, job: Job) -> Self:
        """The place of a job."""
        return cls(job.created_at, job.id)


class JobStore(Protocol):
    """Keeps jobs, and is the queue of their work.

    How each value is written down is ready-made (`fhir_bulk_middleware.contract.job_record`), so a store is its tables and one
    transaction for each method.

    **Guarantees.** Each method is one atomic step across all processes on the store, and a write that has returned is durable
    (law 30). Instants are passed in; a store never reads a clock.

    **Processes.** Server processes call `registry`, `register`, `add`, `find`, `standing`, `owned` and `replace` in an event loop
    that no method may block. Where work runs (a worker process, whose loop may be blocked, or the server with `LoopRunner`),
    `claim`, `renew`, `former`, `plan`, `checkpoint` and `release` are called, and `find`, `standing` and `replace` for the job
    that is worked on; `renew` may come from a second thread with an event loop of its own. `due`, `keeps_files`, `reclaimed` and
    `remove` are called by sweeps, which run in every server process and may overlap. Commands of the operator call `kept`,
    `replace` and `reclaimed`.

    **Errors.** A method that cannot get at the storage for the moment (locked, overloaded, full, no connection) raises
    `Refused(Reason.BUSY)`: a request is then answered 503 with `Retry-After`, a worker tries again, and nothing was written. Any
    other exception is a fault: it is logged whole, and the client is told little.

    **Adapters.** Several adapters may share one store. Each job names its own (`Job.adapter`), and what is asked for on behalf of
    one adapter never finds a job of another (law 32).
    """

    async def registry(self) -> Registry:
        """The store's own id, and the mounts that are registered on it."""
        ...

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        """Keep a registration in place of the one with the same mount, if there is one.

        `admit` is called with the present registrations, by mount, in the same transaction. If it raises, nothing is kept and the
        exception passes to the caller. It does no input or output.
        """
        ...

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """Keep a new job and queue its planning.

        If the owner has a live job of the same mount under the same idempotency key, that job is returned, whatever it asked
        for, and nothing is kept (law 12). Otherwise None is returned, and nothing is kept, if the owner already has
        `working_at_most` queued or running jobs for the job's adapter (KO-113).
        """
        ...

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """The job with this id, if this mount made it for this owner (laws 7 and 10). One indexed read, no write (law 19)."""
        ...

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        """The job as `find` gives it, with its sealed parts and the progress of its plan, all as of one instant (law 35).

        With `file_id` only the part of that id is read; `Standing.parts` is empty if the job has none.
        """
        ...

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        """At most `limit` live jobs that this mount made for this owner (laws 7 and 10), newest first (`ListPlace`).

        Listed are queued, running, completed and failed jobs. With `after`, which need not be the place of a job that is still
        there, only those behind it. A client may ask often, so a database reads it from an index (law 38).
        """
        ...

    async def kept(self, *, after: ListPlace | None, limit: int, job_id: str | None = None, adapter: str = "") -> Sequence[Job]:
        """At most `limit` jobs of the adapter in any state, of all owners and mounts, newest first; `after` as in `owned`.

        For the operator only: no request of a client may lead here. With `job_id` only the job of that id.
        """
        ...

    async def replace(self, job: Job) -> bool:
        """Write `job` if the stored one still has its revision, and add one to that; False if it does not, or is not there.

        Written are state, `changed_at`, cut, codec, estimate, failure, request and idempotency key, so that the store keeps
        nothing a client sent once a job has ended (law 38). Identity and `created_at` stay, and `done` never falls.

        Once a job has left the working states, every lease on it is lost (laws 18 and 36).
        """
        ...

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        """Lease the next free piece of work to `worker`: a queued job to plan, or a slice. None if there is none.

        Work is free if nobody holds it, if its lease has run out (`now` is its end or later), or if its lease ends more than
        `LEASE_SLACK` times its own length after `now`: then the clock was set back. Owners take turns; within an owner the oldest
        job comes first, and within a job the first slice. Where there is nothing to claim, nothing is written.

        The store gives out work however often it was tried. `Lease.tries` and `Lease.cause` let the caller fail the job instead.

        Args:
            worker: the name of the worker; different for each worker, and never used again.
            now: the current instant.
            lease_seconds: how long the lease is good for.
            adapter: the adapter whose jobs may be claimed.
        """
        ...

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """Extend the lease to `lease_seconds` after `now`, and count `done` resources of its slice as read; False if it is lost.

        `Job.done` grows by what lies beyond the highest count of any attempt on the slice.
        """
        ...

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        """The slices with one of these cache keys, and their parts: for each key those of the newest completed job that has some.

        Ordered by job and number. A cache key says whose job it may come from (law 7), so no other restriction is needed. Jobs
        that are queued, running or failed, cancelled or expired are passed over: their files may not be finished, or go away.

        Args:
            cache_keys: at most some hundred.
        """
        ...

    async def plan(
        self,
        lease: Lease,
        cut: Instant,
        codec: Codec,
        slices: Sequence[Slice],
        now: Instant,
        *,
        rows: Rows | None = None,
        more: bool = False,
        unfinished: Unfinished | None = None,
    ) -> bool:
        """Write a round of the job's plan, once (law 5); False if the lease is lost or for a slice.

        The first round turns a queued job into a running one. With `more`, the planning of the next round becomes free work when
        all slices are finished: at once if this round has none. Otherwise the job is completed then. The store keeps cut, codec
        and `unfinished` of the first round and ignores those of a later one. The slices of a later round have numbers above those
        of the rounds before, and add to the estimate. `rows`, where given, take the place of the job's.

        A slice with `Slice.made` is finished by this: those parts are recorded, no work is queued for it, and its estimate counts
        as read (`Job.done`). If all slices of the last round are, the job is completed in the same step.

        The planning of a later round is work of its own: its tries begin at 1 and it has no cause. Its attempts are numbered
        above those of the round before, so that no lease on an earlier round's planning is ever current again (law 18).
        """
        ...

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """Record sealed parts of the lease's slice and the cursor after them, and count `done` as `renew` does.

        `finished` ends the slice, and its estimate gives way to what was read, in that of the job and in `former`. In the same
        step, the last slice of the last round completes the job, and that of an earlier round makes the planning of the next
        round free work.
        """
        ...

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        """Give work back, free at once, and keep the cause for the next `Lease.cause`.

        Args:
            held: a lease, which is ignored if it is lost; or the name of a worker that has ended, for all that it held.
            cause: why, for the operator.
            excused: the holder was asked to stop, so the attempt does not count among `Lease.tries`.
        """
        ...

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """At most `limit` jobs of the adapter that need this step, those that have needed it longest first."""
        ...

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """Which of these jobs are queued, running or completed, or belong to another adapter: their files must stay."""
        ...

    async def reclaimed(self, job_id: str) -> None:
        """Forget the slices, parts and rows of a cancelled, expired or failed job, whose files are gone; else do nothing."""
        ...

    async def remove(self, job_id: str) -> None:
        """Forget the job altogether; its id is then as one that never was (law 11). Owners' turns stay as they are."""
        ...


@runtime_checkable
class SupportsHints(Protocol):
    """A job store that tells servers what other machines did to it. Without it they look by themselves each second."""

    async def listen(self, *, work: Callable[[], None], ended: Callable[[str], None]) -> None:
        """Pass hints on until cancelled; runs in the event loop of each server process, from its start.

        A hint may be lost, late or wrong: it only makes a process look sooner. A store that cannot hear hints now tries again,
        and raises nothing.

        Args:
            work: to be called when there may be new work, also when hints may have been lost. Never blocks.
            ended: to be called with the id of a job that may have ended. Never blocks.
        """
        ...


@runtime_checkable
class SupportsBacklog(Protocol):
    """A job store that counts the work which waits, so that a dispatcher can make as many tasks of it (`Dispatcher`)."""

    async def backlog(self, now: Instant, at_most: int, *, adapter: str = "") -> int:
        """The number of free pieces of work of the adapter, as `JobStore.claim` defines them, counted up to `at_most`.

        Called every second by each process that dispatches, so a database reads it from an index.
        """
        ...
