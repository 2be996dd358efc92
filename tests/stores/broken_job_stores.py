"""Job stores that are each broken in one way, and the promise of the kit that catches them.

pytest does not collect this file by itself: `test_broken_job_stores.py` does, and wants to see each class fail.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import anyio.lowlevel
import pytest

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Job, JobState, Lease, Part, Recorded, Slice, Standing
from fhir_bulk_middleware.contract.query import Compartments, Everything, Rows
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.testing.job_store import JobRetentionSuite, JobStoreSuite, WorkQueueSuite
from fhir_bulk_middleware.testing.job_values import OTHER


class Broken(MemoryJobStore):
    """Attributes: promise: how the message begins with which the kit catches it."""

    promise: ClassVar[str]


class IgnoresOwner(Broken):
    promise = "find gives a job only to its owner"

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:  # noqa: ARG002
        entry = self._entries.get(job_id)
        return entry.job if entry and entry.job.mount == mount else None


class IgnoresIssuer(Broken):
    promise = "find gives a job only to its owner"

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        entry = self._entries.get(job_id)
        return entry.job if entry and (entry.job.mount, entry.job.owner.subject) == (mount, owner.subject) else None


class IgnoresClient(Broken):
    promise = "find gives a job only to its owner, the client included"

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        entry = self._entries.get(job_id)
        return (
            entry.job if entry and entry.job.mount == mount and replace(entry.job.owner, client=owner.client) == owner else None
        )


class IgnoresMount(Broken):
    promise = "find gives a job only through the mount that made it"

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:  # noqa: ARG002
        entry = self._entries.get(job_id)
        return entry.job if entry and entry.job.owner == owner else None


class ReadsJobThenParts(Broken):
    """As two reads."""

    promise = "a completed job stands with all its parts"

    async def standing(self, job_id: str, mount: str, owner: Owner) -> Standing | None:
        standing = await super().standing(job_id, mount, owner)
        await anyio.lowlevel.checkpoint()
        return None if standing is None else replace(standing, parts=tuple(await self.parts(job_id)))


class StandsForAnybody(Broken):
    promise = "a standing is its owner's alone"

    async def standing(self, job_id: str, mount: str, owner: Owner) -> Standing | None:  # noqa: ARG002
        job = self._entries[job_id].job if job_id in self._entries else None
        return None if job is None else await super().standing(job_id, mount, job.owner)


class TrimsStrings(Broken):
    promise = "a job comes back as it was added"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        job = replace(job, request=replace(job.request, url=job.request.url.strip()))
        return await super().add(job, rows, working_at_most=working_at_most)


class WidensEmptySelections(Broken):
    promise = "rows come back as they were added, and no selection becomes another"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        if rows.selection == Compartments(frozenset()):
            rows = replace(rows, selection=Everything())
        return await super().add(job, rows, working_at_most=working_at_most)


class CountsBeforeItKeeps(Broken):
    promise = "the limit holds also for kick-offs at the same time"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        below = (
            sum(entry.job.owner == job.owner and entry.job.state.working for entry in self._entries.values()) < working_at_most
        )
        await anyio.lowlevel.checkpoint()
        return await super().add(job, rows, working_at_most=1_000_000) if below else None


class ForgetsIdempotencyKeys(Broken):
    promise = "the same key comes to the same job"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        kept = await super().add(replace(job, idempotency=None), rows, working_at_most=working_at_most)
        return None if kept is None else job


class CountsStopsAsAttempts(Broken):
    promise = "a stop that was asked for is no attempt"

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:  # noqa: ARG002
        await super().release(lease, cause, now)


class IgnoresRevision(Broken):
    promise = "replace refuses a revision that is not the stored one"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        return await super().replace(replace(job, revision=entry.job.revision) if entry else job)


class ProgressIsARevision(Broken):
    promise = "progress does not change the revision"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        entry = self._entries[lease.job.id]
        entry.job = replace(entry.job, revision=entry.job.revision + 1)
        return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)


class _Fenceless(Broken):
    def _current(self, lease: Lease) -> Lease:
        """The lease as the one who holds the work now would have it."""
        entry = self._entries.get(lease.job.id)
        work = entry.work.get(lease.slice.number if lease.slice else None) if entry else None
        return lease if work is None or work.worker is None else replace(lease, worker=work.worker, attempt=work.attempt)


class IgnoresAttemptInCheckpoint(_Fenceless):
    promise = "a holder whose lease was given on publishes nothing"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        return await super().checkpoint(self._current(lease), parts, cursor, now, done=done, finished=finished)


class IgnoresAttemptInPlan(_Fenceless):
    promise = "a holder whose lease was given on publishes nothing"

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant, *, rows: Rows | None = None
    ) -> bool:
        return await super().plan(self._current(lease), cut, codec, slices, now, rows=rows)


class KeepsTheRowsOfTheKickOff(Broken):
    promise = "a plan's rows take the place of the job's"

    async def plan(
        self,
        lease: Lease,
        cut: Instant,
        codec: Codec,
        slices: Sequence[Slice],
        now: Instant,
        *,
        rows: Rows | None = None,  # noqa: ARG002
    ) -> bool:
        return await super().plan(lease, cut, codec, slices, now)


class IgnoresAttemptInRelease(_Fenceless):
    promise = "a lost lease cannot take the current one away"

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        await super().release(self._current(lease), cause, now, excused=excused)


class ComparesWorkersOnly(_Fenceless):
    promise = "the attempt decides whether a lease is current"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        current = self._current(lease)
        lease = current if current.worker == lease.worker else lease
        return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)


class ReleasesByWorker(_Fenceless):
    promise = "the attempt decides whether a lease can be given back"

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        current = self._current(lease)
        await super().release(current if current.worker == lease.worker else lease, cause, now, excused=excused)


class ForgetsJobState(Broken):
    promise = "after a job has ended no lease on it writes any more"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        work = dict(entry.work) if entry else {}
        replaced = await super().replace(job)
        if entry:
            entry.work = work
        return replaced


class FailsHalfway(Broken):
    promise = "after a job has failed no lease on it writes any more"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        before = {entry.job.id: dict(entry.work) for entry in self._entries.values()}
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)
        for entry in self._entries.values():
            if entry.job.state is JobState.FAILED:
                entry.work = {place: work for place, work in before[entry.job.id].items() if work.worker}
        return lease


class CountsTwice(Broken):
    promise = "done adds up over the slices and never falls"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        for work in self._entries[lease.job.id].work.values():
            work.done = 0
        return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)


class CountsRetriesAgain(Broken):
    promise = "done does not fall when a slice starts over, nor counts it twice"

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:
        held = self._held(lease)
        await super().release(lease, cause, now, excused=excused)
        if held:
            held[1].done = 0


class ProgressFalls(Broken):
    promise = "done adds up over the slices and never falls"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        held = await super().renew(lease, now, lease_seconds=lease_seconds, done=done)
        if held:
            entry = self._entries[lease.job.id]
            entry.job = replace(entry.job, done=done)
        return held


class GivesOneSliceToTwo(Broken):
    promise = "each piece of work is given out once"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        before = {id(work): replace(work) for entry in self._entries.values() for work in entry.work.values()}
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)
        if lease is None:
            return None
        number = lease.slice.number if lease.slice else None
        work = self._entries[lease.job.id].work
        granted, work[number] = work[number], before[id(work[number])]
        await anyio.lowlevel.checkpoint()  # another may claim between the look and the grant
        work[number] = granted
        return lease


class NeverGivesOn(Broken):
    promise = "work that nobody holds is given to whoever asks"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                if work.worker:
                    work.leased_until = after(now, lease_seconds)
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class TrustsTheClock(Broken):
    promise = "work that nobody holds is given to whoever asks"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                if work.leased_until and work.leased_until > now:
                    work.leased_until = after(now, lease_seconds)
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class ServesTheOldestJobFirst(Broken):
    promise = "owners take turns"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        self._turns.clear()
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class TriesForEver(Broken):
    promise = "work that was begun too often is not given out again"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:  # noqa: ARG002
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=1_000_000, **more)


class TellsTheOwnerTheCause(Broken):
    promise = "the owner is told nothing of the machine's inside"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)
        for entry in self._entries.values():
            if entry.job.failure:
                entry.job = replace(entry.job, failure=replace(entry.job.failure, detail=str(entry.cause)))
        return lease


class ForgetsHowAWorkerEnded(Broken):
    promise = "the cause of a worker's end is kept for the operator"

    async def release_worker(self, worker: str, now: Instant, cause: str = "") -> None:
        await super().release_worker(worker, now, cause and "it ended")


class ForgetsTheCause(Broken):
    promise = "the cause is kept for the operator"

    async def release(self, lease: Lease, cause: str, now: Instant, *, excused: bool = False) -> None:  # noqa: ARG002
        await super().release(lease, "", now)


class LosesTheCursor(Broken):
    promise = "parts are recorded together with the cursor after them"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        return await super().checkpoint(lease, parts, None if parts else cursor, now, done=done, finished=finished)


class NeverCompletes(Broken):
    promise = "the last slice completes the job"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        entry = self._entries[lease.job.id]
        before = entry.job
        written = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        entry.job = replace(entry.job, state=before.state)
        return written


class CompletesUnnoticed(Broken):
    promise = "exactly one checkpoint says that it completed the job"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        return min(await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished), Recorded.KEPT)


class FailsUnnoticed(Broken):
    promise = "a claim tells which jobs it ended"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        more.clear()
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class CompletesTooEarly(Broken):
    promise = "a job runs until its last slice is finished"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        written = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        entry = self._entries[lease.job.id]
        if written:
            entry.job = replace(entry.job, state=JobState.COMPLETED)
        return written


class SortsNumbersAsText(Broken):
    promise = "parts stand by slice and number, as numbers"

    async def parts(self, job_id: str) -> Sequence[Part]:
        return sorted(await super().parts(job_id), key=lambda part: (str(part.slice), str(part.number)))


class FindsPartsAnywhere(Broken):
    promise = "a file id is good in its own job only"

    async def part(self, job_id: str, file_id: str) -> Part | None:  # noqa: ARG002
        parts = [part for entry in self._entries.values() for part in entry.parts.values()]
        return next((part for part in parts if part.file_id == file_id), None)


class KeepsRequestsOfEndedJobs(Broken):
    promise = "of a job that has ended nothing is kept that its client sent"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        return await super().replace(replace(job, request=entry.job.request) if entry else job)


class KeepsKeysOfEndedJobs(Broken):
    promise = "of a job that has ended nothing is kept that its client sent"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        return await super().replace(replace(job, idempotency=entry.job.idempotency) if entry else job)


class KeepsRequestsOfWorkBegunTooOften(Broken):
    promise = "of a job that has failed neither URL nor criteria are kept"

    async def claim(self, worker: str, now: Instant, **more: Any) -> Lease | None:
        before = {job_id: entry.job.request for job_id, entry in self._entries.items()}
        lease = await super().claim(worker, now, **more)
        for job_id, entry in self._entries.items():
            if entry.job.state is JobState.FAILED:
                entry.job = replace(entry.job, request=before[job_id])
        return lease


class ReclaimsResults(Broken):
    promise = "reclaimable are cancelled, expired and failed jobs, and no others"

    async def reclaimable(self, limit: int, *, adapter: str = "") -> Sequence[str]:  # noqa: ARG002
        return [entry.job.id for entry in self._entries.values() if not entry.job.state.working and not entry.reclaimed][:limit]


class DropsFilesOfQueuedJobs(Broken):
    promise = "files are kept of queued, running and completed jobs"

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        kept = await super().keeps_files(job_ids, adapter=adapter)
        return frozenset(job_id for job_id in kept if self._entries[job_id].job.state is not JobState.QUEUED)


class LeavesWorkOfRemovedJobs(Broken):
    promise = "a removed job is as one that never was"

    async def remove(self, job_id: str) -> None:
        entry = self._entries.get(job_id)
        if entry:
            entry.job = replace(entry.job, mount="removed")


class ForgetsTurnsOnRemove(Broken):
    promise = "removing a job does not bring its owner's turn forward"

    async def remove(self, job_id: str) -> None:
        await super().remove(job_id)
        self._turns.clear()
        self._turns[OTHER] = 1


class GivesWorkToAnyAdapter(Broken):
    promise = "work is given out for its own adapter only"

    async def claim(
        self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, adapter: str = "", **more: Any
    ) -> Lease | None:
        first = next((entry.job.adapter for entry in self._entries.values() if entry.work), adapter)
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, adapter=first, **more)


class PlansForItsAdapterOnly(Broken):
    promise = "work is given out for its own adapter only"

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], now: Instant, *, rows: Rows | None = None
    ) -> bool:
        entry = self._entries.get(lease.job.id)
        if entry:
            entry.job = replace(entry.job, adapter="")
        return await super().plan(lease, cut, codec, slices, now, rows=rows)


class FailsAnybodysJob(Broken):
    promise = "a claim ends no other adapter's job"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        for adapter in {entry.job.adapter for entry in self._entries.values()}:
            for entry in self._entries.values():
                if any(work.free(now) and work.attempt >= attempts for work in entry.work.values()):
                    await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, adapter=adapter)
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class JudgesLeasesByTheAskersOwn(Broken):
    promise = "a lease is judged by its own length, not by that of whoever asks"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, attempts: int, **more: Any) -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                work.leased_for = lease_seconds
        return await super().claim(worker, now, lease_seconds=lease_seconds, attempts=attempts, **more)


class CountsOtherAdaptersJobs(Broken):
    promise = "jobs of another adapter do not count to the limit"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        working = sum(entry.job.owner == job.owner and entry.job.state.working for entry in self._entries.values())
        return None if working >= working_at_most else await super().add(job, rows, working_at_most=working_at_most)


class SweepsAnybodysDueJobs(Broken):
    promise = "a sweep finds its own adapter's jobs only"

    async def due(self, now: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:  # noqa: ARG002
        adapters = sorted({entry.job.adapter for entry in self._entries.values()})
        return [job for name in adapters for job in await MemoryJobStore.due(self, now, limit, adapter=name)][:limit]


class ForgetsAnybodysJobs(Broken):
    promise = "a sweep finds its own adapter's jobs only"

    async def changed_before(
        self,
        states: Collection[JobState],
        instant: Instant,
        limit: int,
        *,
        adapter: str = "",  # noqa: ARG002
    ) -> Sequence[Job]:
        jobs = [entry.job for entry in self._entries.values()]
        found = [job for job in jobs if job.state in states and job.changed_at < instant]
        return sorted(found, key=lambda job: job.changed_at)[:limit]


class EndsAnybodysOverdueJobs(Broken):
    promise = "a sweep finds its own adapter's jobs only"

    async def overdue(self, created_before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:  # noqa: ARG002
        jobs = [entry.job for entry in self._entries.values()]
        return [job for job in jobs if job.state.working and job.created_at < created_before][:limit]


class ReclaimsAnybodysFiles(Broken):
    promise = "a sweep finds its own adapter's jobs only"

    async def reclaimable(self, limit: int, *, adapter: str = "") -> Sequence[str]:  # noqa: ARG002
        adapters = sorted({entry.job.adapter for entry in self._entries.values()})
        return [job for name in adapters for job in await MemoryJobStore.reclaimable(self, limit, adapter=name)][:limit]


class DropsFilesOfOtherAdapters(Broken):
    promise = "files of another adapter's jobs are kept"

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        kept = await super().keeps_files(job_ids, adapter=adapter)
        return frozenset(job_id for job_id in kept if self._entries[job_id].job.adapter == adapter)


class AnotherIdEachTime(Broken):
    promise = "a store keeps its id"

    async def store_id(self) -> str:
        return secrets.token_hex(16)


class LooksTooLate(Broken):
    promise = "who registers is shown what stands there"

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        await super().register(registration, lambda _: None)
        look(self._standing())


class KeepsWhatWasRefused(Broken):
    promise = "what the look at a store's registrations raises passes, and nothing is kept"

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        standing = list(self._standing())
        await super().register(registration, lambda _: None)
        look(standing)


class LooksBeforeItRegisters(Broken):
    promise = "a look and its registration are one step"

    async def register(self, registration: Registration, look: Callable[[Sequence[Registration]], None]) -> None:
        look(self._standing())
        await anyio.lowlevel.checkpoint()
        await super().register(registration, lambda _: None)


class KeepsOneRegistration(Broken):
    promise = "registrations stand there as they were given, by mount, the last of each"

    async def registrations(self) -> Sequence[Registration]:
        return list(await super().registrations())[:1]


BROKEN: tuple[type[Broken], ...] = tuple(
    value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Broken) and value is not Broken and not name.startswith("_")
)


class _Suites(JobStoreSuite, WorkQueueSuite, JobRetentionSuite):
    broken: ClassVar[type[Broken]]

    @pytest.fixture
    def store(self) -> MemoryJobStore:
        return self.broken()


def _suites(broken: type[Broken]) -> type[Any]:
    return type(f"Test{broken.__name__}", (_Suites,), {"broken": broken, "__module__": __name__})


globals().update({f"Test{broken.__name__}": _suites(broken) for broken in BROKEN})
