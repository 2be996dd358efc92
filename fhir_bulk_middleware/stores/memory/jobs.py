"""Jobs in memory: what a job store does, without how it is made durable."""

import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Failure, Job, JobState, Lease, Part, Recorded, Slice, Standing
from fhir_bulk_middleware.contract.query import Compartments, Rows
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.leases import EXHAUSTED, SLACK, gone, silent

__all__ = ["MemoryJobStore"]

_ENDED = frozenset({JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED})


@dataclass(slots=True)
class _Work:
    """A piece of work that is left: planning a job, or one of its slices."""

    attempt: int = 0
    excused: int = 0
    """Attempts that do not count: those that recorded a part, and those that were asked to stop."""
    worker: str | None = None
    leased_until: Instant | None = None
    leased_for: float = 0
    done: int = 0
    """How far its slice was ever read, by any attempt."""
    cause: str | None = None

    def free(self, now: Instant) -> bool:
        """Whether nobody holds it; a lease that ends too far ahead is none, for the clock was set back."""
        if self.leased_until is None:
            return True
        return not now < self.leased_until <= after(now, SLACK * self.leased_for)

    def lease(self, now: Instant, seconds: float) -> None:
        self.leased_until, self.leased_for = after(now, seconds), seconds

    def give_back(self, cause: str) -> None:
        self.worker, self.leased_until, self.cause = None, None, cause


@dataclass(slots=True)
class _Entry:
    """A job and what belongs to it. `work` has only what is left; None is the planning."""

    job: Job
    rows: Rows
    work: dict[int | None, _Work] = field(default_factory=lambda: {None: _Work()})
    slices: dict[int, Slice] = field(default_factory=dict)
    parts: dict[tuple[int, int], Part] = field(default_factory=dict)
    reclaimed: bool = False
    cause: str | None = None

    def turn(self, state: JobState, now: Instant, failure: Failure | None = None) -> None:
        """Change the state. Work of a job that is no longer working is no work, so its leases are worth nothing (law 18)."""
        self.job = replace(self.job, state=state, changed_at=now, failure=failure, revision=self.job.revision + 1)
        if not state.working:
            self.work.clear()


class MemoryJobStore:
    """A `JobStore`, `JobRetention` and `WorkQueue` for one process; nothing outlives it.

    It belongs to no event loop: threads with loops of their own may share it.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._turns: dict[Owner, int] = {}
        self._id = secrets.token_hex(16)
        self._registrations: dict[str, Registration] = {}
        self._lock = threading.Lock()  # never held across an await

    # --- JobStore ---

    async def store_id(self) -> str:
        """See `JobStore.store_id`."""
        return self._id

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        """See `JobStore.register`."""
        with self._lock:
            look(self._standing())
            self._registrations[registration.mount] = registration

    async def registrations(self) -> Sequence[Registration]:
        """See `JobStore.registrations`."""
        with self._lock:
            return self._standing()

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        """See `JobStore.add`."""
        with self._lock:
            for entry in self._entries.values():
                if entry.job.state.live and job.idempotency is not None and entry.job.same_key(job):
                    return entry.job
            whose = job.adapter, job.owner
            working = sum((each.adapter, each.owner) == whose and each.state.working for each in self._jobs())
            if working >= working_at_most:
                return None
            if job.id in self._entries:
                raise ValueError(f"there is a job {job.id} already")
            self._entries[job.id] = _Entry(job, rows)
            return job

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        """See `JobStore.find`."""
        with self._lock:
            entry = self._entries.get(job_id)
            return entry.job if entry and entry.job.mount == mount and entry.job.owner == owner else None

    async def replace(self, job: Job) -> bool:
        """See `JobStore.replace`. The identity of a job is never rewritten, and `done` never falls."""
        with self._lock:
            entry = self._entries.get(job.id)
            if entry is None or entry.job.revision != job.revision:
                return False
            entry.job = replace(
                entry.job,
                request=job.request,
                idempotency=job.idempotency,
                cut=job.cut,
                codec=job.codec,
                estimate=job.estimate,
                done=max(job.done, entry.job.done),
            )
            entry.turn(job.state, job.changed_at, job.failure)
            return True

    async def standing(self, job_id: str, mount: str, owner: Owner) -> Standing | None:
        """See `JobStore.standing`."""
        with self._lock:
            entry = self._entries.get(job_id)
            if entry is None or (entry.job.mount, entry.job.owner) != (mount, owner):
                return None
            parts = tuple(part for _, part in sorted(entry.parts.items()))
            return Standing(entry.job, parts, min((number for number in entry.work if number is not None), default=None))

    async def parts(self, job_id: str) -> Sequence[Part]:
        """See `JobStore.parts`."""
        with self._lock:
            entry = self._entries.get(job_id)
            return [part for _, part in sorted(entry.parts.items())] if entry else []

    async def part(self, job_id: str, file_id: str) -> Part | None:
        """See `JobStore.part`."""
        return next((part for part in await self.parts(job_id) if part.file_id == file_id), None)

    # --- JobRetention ---

    async def due(self, now: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """See `JobRetention.due`."""
        with self._lock:
            finished = {JobState.COMPLETED, JobState.FAILED}
            over = [job for job in self._jobs(adapter) if job.state in finished and job.expires_at <= now]
            return sorted(over, key=lambda job: job.expires_at)[:limit]

    async def changed_before(
        self, states: Collection[JobState], instant: Instant, limit: int, *, adapter: str = ""
    ) -> Sequence[Job]:
        """See `JobRetention.changed_before`."""
        with self._lock:
            jobs = [job for job in self._jobs(adapter) if job.state in states and job.changed_at < instant]
        return sorted(jobs, key=lambda job: job.changed_at)[:limit]

    async def overdue(self, created_before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """See `JobRetention.overdue`."""
        with self._lock:
            jobs = [job for job in self._jobs(adapter) if job.state.working and job.created_at < created_before]
        return sorted(jobs, key=lambda job: job.created_at)[:limit]

    async def reclaimable(self, limit: int, *, adapter: str = "") -> Sequence[str]:
        """See `JobRetention.reclaimable`; oldest first."""
        with self._lock:
            jobs = [job for job in self._jobs(adapter) if job.state in _ENDED and not self._entries[job.id].reclaimed]
        return [job.id for job in sorted(jobs, key=lambda job: job.changed_at)[:limit]]

    async def reclaimed(self, job_id: str) -> None:
        """See `JobRetention.reclaimed`."""
        with self._lock:
            entry = self._entries.get(job_id)
            if entry and entry.job.state in _ENDED:  # whatever the caller believes, a job with a result keeps it
                entry.reclaimed = True
                entry.rows = Rows(Compartments(frozenset()))
                entry.slices.clear()
                entry.parts.clear()

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """See `JobRetention.keeps_files`."""
        with self._lock:
            jobs = [job for job in self._jobs() if job.id in job_ids]
        return frozenset(job.id for job in jobs if job.adapter != adapter or job.state not in _ENDED)

    async def remove(self, job_id: str) -> None:
        """See `JobRetention.remove`."""
        with self._lock:
            self._entries.pop(job_id, None)
            owners = {job.owner for job in self._jobs()}
            self._turns = {owner: turn for owner, turn in self._turns.items() if owner in owners}

    # --- WorkQueue ---

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
        """See `WorkQueue.claim`."""
        ended: list[Job] = []
        lease = self._claim(adapter, worker, now, lease_seconds=lease_seconds, attempts=attempts, ended=ended)
        for job in ended:
            failed(job)
        return lease

    def _claim(
        self, adapter: str, worker: str, now: Instant, *, lease_seconds: float, attempts: int, ended: list[Job]
    ) -> Lease | None:
        with self._lock:
            while (found := self._next(adapter, now)) is not None:
                entry, place = found
                work = entry.work[place]
                if work.worker is not None:  # it was neither finished nor given back
                    work.give_back(silent(work.worker, work.attempt))
                if work.attempt - work.excused >= attempts:
                    entry.cause = work.cause
                    entry.job = replace(entry.job, request=entry.job.request.of_failed())
                    entry.turn(JobState.FAILED, now, EXHAUSTED)
                    ended.append(entry.job)
                    continue
                work.attempt, work.worker = work.attempt + 1, worker
                work.lease(now, lease_seconds)
                self._turns[entry.job.owner] = max(self._turns.values(), default=0) + 1
                piece = None if place is None else entry.slices[place]
                return Lease(job=entry.job, rows=entry.rows, slice=piece, attempt=work.attempt, worker=worker)
            return None

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """See `WorkQueue.renew`."""
        with self._lock:
            held = self._held(lease)
            if held is None:
                return False
            entry, work = held
            work.lease(now, lease_seconds)
            _advance(entry, work, done)
            return True

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant, *, rows: Rows | None = None
    ) -> bool:
        """See `WorkQueue.plan`."""
        with self._lock:
            held = self._held(lease)
            if held is None or lease.slice is not None:
                return False
            entry, _ = held
            entry.slices = {piece.number: piece for piece in slices}
            entry.rows = rows or entry.rows
            entry.work = {number: _Work() for number in sorted(entry.slices)}
            entry.job = replace(entry.job, cut=cut, codec=codec, estimate=sum(piece.estimate for piece in slices))
            entry.turn(JobState.RUNNING if slices else JobState.COMPLETED, now)
            return True

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """See `WorkQueue.checkpoint`."""
        with self._lock:
            held = self._held(lease)
            if held is None or lease.slice is None:
                return Recorded.LOST
            entry, work = held
            number = lease.slice.number
            _advance(entry, work, done)
            entry.parts |= {(part.slice, part.number): part for part in parts}
            piece = entry.slices[number]
            entry.slices[number] = replace(piece, cursor=cursor, parts=piece.parts + len(parts))
            if parts:
                work.excused = work.attempt - 1
            if finished:
                entry.job = replace(entry.job, estimate=entry.job.estimate + work.done - piece.estimate)
                del entry.work[number]
                if not entry.work:
                    entry.turn(JobState.COMPLETED, now)
                    return Recorded.COMPLETED
            return Recorded.KEPT

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:  # noqa: ARG002 - free at once
        """See `WorkQueue.release`."""
        with self._lock:
            held = self._held(lease)
            if held is not None:
                held[1].excused += excused
                held[1].give_back(cause)

    async def release_worker(self, worker: str, now: Instant, cause: str = "") -> None:  # noqa: ARG002 - as above
        """See `WorkQueue.release_worker`."""
        with self._lock:
            for entry in self._entries.values():
                for work in entry.work.values():
                    if work.worker == worker:
                        work.give_back(cause or gone(worker))

    async def cause(self, job_id: str) -> str | None:
        """See `WorkQueue.cause`."""
        with self._lock:
            entry = self._entries.get(job_id)
            return entry.cause if entry else None

    def _standing(self) -> Sequence[Registration]:
        return [registration for _, registration in sorted(self._registrations.items())]

    def _jobs(self, adapter: str | None = None) -> Iterator[Job]:
        """The jobs of an adapter; of all of them for None."""
        return (entry.job for entry in self._entries.values() if adapter is None or entry.job.adapter == adapter)

    def _next(self, adapter: str, now: Instant) -> tuple[_Entry, int | None] | None:
        """The first free work of the oldest job of the owner who was served longest ago."""
        entries = [entry for entry in self._entries.values() if entry.job.adapter == adapter]
        for entry in sorted(entries, key=lambda entry: (self._turns.get(entry.job.owner, 0), entry.job.created_at)):
            for place, work in entry.work.items():
                if work.free(now):
                    return entry, place
        return None

    def _held(self, lease: Lease) -> tuple[_Entry, _Work] | None:
        """The work that a lease is about, None if the lease is lost."""
        entry = self._entries.get(lease.job.id)
        work = entry.work.get(None if lease.slice is None else lease.slice.number) if entry else None
        if entry is None or work is None or (work.worker, work.attempt) != (lease.worker, lease.attempt):
            return None
        return entry, work


def _advance(entry: _Entry, work: _Work, done: int) -> None:
    """Count what is beyond the slice's mark, so that a slice that starts over is not counted twice."""
    if done > work.done:
        entry.job = replace(entry.job, done=entry.job.done + done - work.done)
        work.done = done
