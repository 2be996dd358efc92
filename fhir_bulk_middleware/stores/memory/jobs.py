"""Jobs in memory, as a model of what every job store does."""

import secrets
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from itertools import islice

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.figures import Census
from fhir_bulk_middleware.contract.job import Codec, Failure, Former, Job, JobState, Part, Slice, Standing
from fhir_bulk_middleware.contract.job_store import Due, ListPlace
from fhir_bulk_middleware.contract.lease import LEASE_SLACK, Lease, Recorded, fell_silent
from fhir_bulk_middleware.contract.query import Compartments, Rows, Unfinished
from fhir_bulk_middleware.contract.registration import Registration, Registry
from fhir_bulk_middleware.instant import Instant, after

__all__ = ["MemoryJobStore"]

_FINISHED = frozenset({JobState.COMPLETED, JobState.FAILED})
_ENDED = frozenset({JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED})


@dataclass(slots=True)
class _Work:
    """A piece of work that is not finished: planning a job, or one of its slices."""

    attempt: int = 0
    excused: int = 0
    """Attempts that do not count as tries."""
    worker: str | None = None
    leased_until: Instant | None = None
    leased_for: float = 0
    done: int = 0
    """The highest count of any attempt."""
    cause: str | None = None

    def free(self, now: Instant) -> bool:
        """Whether it can be claimed. A lease that ends too far ahead counts as run out, because the clock was set back."""
        if self.leased_until is None:
            return True
        return not now < self.leased_until <= after(now, LEASE_SLACK * self.leased_for)

    def lease(self, now: Instant, seconds: float) -> None:
        self.leased_until, self.leased_for = after(now, seconds), seconds

    def give_back(self, cause: str) -> None:
        self.worker, self.leased_until, self.cause = None, None, cause


@dataclass(slots=True)
class _Entry:
    """A job and all that belongs to it. `work` has only unfinished work, by slice; None is the planning."""

    job: Job
    rows: Rows
    work: dict[int | None, _Work] = field(default_factory=lambda: {None: _Work()})
    slices: dict[int, Slice] = field(default_factory=dict)
    parts: dict[tuple[int, int], Part] = field(default_factory=dict)
    plannings: int = 0
    """Attempts at planning so far, above which those of the next round are numbered."""
    reclaimed: bool = False

    def due_since(self, step: Due) -> Instant | None:
        """Since when the job needs a step of housekeeping; None if it does not."""
        job, state = self.job, self.job.state
        match step:
            case Due.FAIL:
                return job.created_at if state.working else None
            case Due.EXPIRE:
                return job.expires_at if state in _FINISHED else None
            case Due.RECLAIM:
                return job.changed_at if state in _ENDED and not self.reclaimed else None
            case Due.FORGET:
                return job.changed_at if state in _ENDED and state not in _FINISHED and self.reclaimed else None

    def turn(self, state: JobState, now: Instant, failure: Failure | None = None) -> None:
        """Change the state. Outside the working states the job has no work, so all its leases are lost (law 18)."""
        self.job = replace(self.job, state=state, changed_at=now, failure=failure, revision=self.job.revision + 1)
        if not state.working:
            self.work.clear()

    def go_on(self, now: Instant) -> bool:
        """If no work is left, queue the planning of the next round, or complete the job; whether the job was completed."""
        if self.work:
            return False
        if self.job.more:
            self.work[None] = _Work(attempt=self.plannings, excused=self.plannings)
            return False
        self.turn(JobState.COMPLETED, now)
        return True


class MemoryJobStore:
    """A `JobStore` for one process, which keeps nothing after it.

    Threads, each with an event loop of its own, may share it.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lists: dict[tuple[str, Owner], list[ListPlace]] = {}
        """The places of each owner's jobs at a mount, in order: an owner with thousands of jobs may list them often (law 38)."""
        self._turns: dict[Owner, int] = {}
        self._id = secrets.token_hex(16)
        self._registrations: dict[str, Registration] = {}
        self._lock = threading.Lock()  # never held across an await

    async def registry(self) -> Registry:
        """See `JobStore.registry`."""
        with self._lock:
            return Registry(self._id, self._present())

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        """See `JobStore.register`."""
        with self._lock:
            admit(self._present())
            self._registrations[registration.mount] = registration

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
            insort(self._lists.setdefault((job.mount, job.owner), []), ListPlace.of(job))
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

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        """See `JobStore.standing`."""
        with self._lock:
            entry = self._entries.get(job_id)
            if entry is None or (entry.job.mount, entry.job.owner) != (mount, owner):
                return None
            parts = tuple(part for _, part in sorted(entry.parts.items()) if file_id is None or part.file_id == file_id)
            unfinished = min((number for number in entry.work if number is not None), default=None)
            return Standing(entry.job, parts, unfinished, len(entry.slices) if file_id is None else 0)

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        """See `JobStore.owned`."""
        with self._lock:
            places = self._lists.get((mount, owner), [])
            behind = range(len(places) if after is None else bisect_left(places, after))
            jobs = (self._entries[places[number].job_id].job for number in reversed(behind))
            return list(islice((job for job in jobs if job.state.live), limit))

    async def kept(self, *, after: ListPlace | None, limit: int, job_id: str | None = None, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.kept`."""
        with self._lock:
            jobs = [job for job in self._jobs() if job.adapter == adapter and job_id in {None, job.id}]
        behind = (job for job in jobs if after is None or ListPlace.of(job) < after)
        return nlargest(limit, behind, key=ListPlace.of)

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        """See `JobStore.due`."""
        with self._lock:
            since = [(job, entry.due_since(step)) for entry in self._entries.values() if (job := entry.job).adapter == adapter]
        found = [(job, instant) for job, instant in since if instant is not None and instant < before]
        return [job for job, _ in sorted(found, key=lambda each: each[1])][:limit]

    async def reclaimed(self, job_id: str) -> None:
        """See `JobStore.reclaimed`."""
        with self._lock:
            entry = self._entries.get(job_id)
            if entry and entry.job.state in _ENDED:  # also if the caller is mistaken, a job with a result keeps it
                entry.reclaimed = True
                entry.rows = Rows(Compartments(frozenset()))
                entry.slices.clear()
                entry.parts.clear()

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        """See `JobStore.keeps_files`."""
        with self._lock:
            jobs = [job for job in self._jobs() if job.id in job_ids]
        return frozenset(job.id for job in jobs if job.adapter != adapter or job.state not in _ENDED)

    async def remove(self, job_id: str) -> None:
        """See `JobStore.remove`."""
        with self._lock:
            entry = self._entries.pop(job_id, None)
            if entry is None:
                return
            key = entry.job.mount, entry.job.owner
            self._lists[key].remove(ListPlace.of(entry.job))
            if not self._lists[key]:
                del self._lists[key]
            if all(owner != entry.job.owner for _, owner in self._lists):
                self._turns.pop(entry.job.owner, None)

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        """See `JobStore.claim`."""
        with self._lock:
            found = self._next(adapter, now)
            if found is None:
                return None
            entry, place = found
            work = entry.work[place]
            if work.worker is not None:  # it was neither finished nor given back
                work.give_back(fell_silent(work.worker, work.attempt))
            work.attempt, work.worker = work.attempt + 1, worker
            work.lease(now, lease_seconds)
            self._turns[entry.job.owner] = max(self._turns.values(), default=0) + 1
            return Lease(
                job=entry.job,
                rows=entry.rows,
                slice=None if place is None else entry.slices[place],
                attempt=work.attempt,
                worker=worker,
                tries=work.attempt - work.excused,
                cause=work.cause,
            )

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        """See `JobStore.renew`."""
        with self._lock:
            held = self._held(lease)
            if held is None:
                return False
            entry, work = held
            work.lease(now, lease_seconds)
            _advance(entry, work, done)
            return True

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        """See `JobStore.former`."""
        with self._lock:
            completed = [entry for entry in self._entries.values() if entry.job.state is JobState.COMPLETED]
            completed.sort(key=lambda entry: ListPlace.of(entry.job))
            newest = {piece.cache_key: entry for entry in completed for piece in entry.slices.values()}
            return [
                Former(piece, tuple(part for place, part in sorted(entry.parts.items()) if place[0] == piece.number))
                for entry in completed
                for _, piece in sorted(entry.slices.items())
                if piece.cache_key in cache_keys and newest[piece.cache_key] is entry
            ]

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
        """See `JobStore.plan`."""
        with self._lock:
            held = self._held(lease)
            if held is None or lease.slice is not None:
                return False
            entry, _ = held
            entry.slices |= {piece.number: replace(piece, parts=len(piece.made), made=()) for piece in slices}
            entry.parts |= {(part.slice, part.number): part for piece in slices for part in piece.made}
            entry.rows = rows or entry.rows
            entry.work = {piece.number: _Work() for piece in slices if not piece.made}
            entry.plannings = lease.attempt
            if entry.job.cut is None:
                entry.job = replace(entry.job, cut=cut, codec=codec, unfinished=unfinished)
            estimate = entry.job.estimate + sum(piece.estimate for piece in slices)
            done = entry.job.done + sum(piece.estimate for piece in slices if piece.made)
            entry.job = replace(entry.job, estimate=estimate, done=done, more=more)
            entry.turn(JobState.RUNNING, now)
            entry.go_on(now)
            return True

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        """See `JobStore.checkpoint`."""
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
                entry.slices[number] = replace(entry.slices[number], estimate=work.done)
                del entry.work[number]
                if entry.go_on(now):
                    return Recorded.COMPLETED
            return Recorded.KEPT

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        """See `JobStore.release`."""
        with self._lock:
            if isinstance(held, Lease):
                found = self._held(held)
                given_back = [found[1]] if found else []
            else:
                given_back = [work for entry in self._entries.values() for work in entry.work.values() if work.worker == held]
            for work in given_back:
                work.excused += excused
                work.give_back(cause)

    async def census(self, *, adapter: str = "") -> Census:
        """See `SupportsCensus`."""
        with self._lock:
            entries = [entry for entry in self._entries.values() if entry.job.adapter == adapter]
            queued = [entry.job.created_at for entry in entries if entry.job.state is JobState.QUEUED]
            stored = {part.written_as: part.stored_size for entry in entries for part in entry.parts.values()}
            return Census(
                queued=len(queued),
                running=sum(entry.job.state is JobState.RUNNING for entry in entries),
                oldest_queued=min(queued, default=None),
                kept_bytes=sum(stored.values()),
            )

    def _present(self) -> tuple[Registration, ...]:
        return tuple(registration for _, registration in sorted(self._registrations.items()))

    def _jobs(self) -> Iterator[Job]:
        return (entry.job for entry in self._entries.values())

    def _next(self, adapter: str, now: Instant) -> tuple[_Entry, int | None] | None:
        """The first free work of the oldest job of the owner that was served least recently."""
        entries = [entry for entry in self._entries.values() if entry.work and entry.job.adapter == adapter]
        for entry in sorted(entries, key=lambda entry: (self._turns.get(entry.job.owner, 0), entry.job.created_at)):
            for place, work in entry.work.items():
                if work.free(now):
                    return entry, place
        return None

    def _held(self, lease: Lease) -> tuple[_Entry, _Work] | None:
        """The work of a lease, None if the lease is lost."""
        entry = self._entries.get(lease.job.id)
        work = entry.work.get(None if lease.slice is None else lease.slice.number) if entry else None
        if entry is None or work is None or (work.worker, work.attempt) != (lease.worker, lease.attempt):
            return None
        return entry, work


def _advance(entry: _Entry, work: _Work, done: int) -> None:
    """Count what is above the highest count, so that a slice that starts over is not counted twice."""
    if done > work.done:
        entry.job = replace(entry.job, done=entry.job.done + done - work.done)
        work.done = done
