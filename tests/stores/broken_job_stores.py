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
from fhir_bulk_middleware.contract.figures import Census
from fhir_bulk_middleware.contract.job import Codec, Failure, Former, Job, JobState, Part, Slice, Standing
from fhir_bulk_middleware.contract.job_store import Due, ListPlace
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.query import Compartments, Everything, Rows, Unfinished
from fhir_bulk_middleware.contract.registration import Registration, Registry
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore, _Work
from fhir_bulk_middleware.testing.job_census import JobCensusSuite
from fhir_bulk_middleware.testing.job_store import JobStoreSuite
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

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        standing = await super().standing(job_id, mount, owner, file_id=file_id)
        await anyio.lowlevel.checkpoint()
        later = await super().standing(job_id, mount, owner, file_id=file_id)
        return standing and later and replace(standing, parts=later.parts)


class StandsForAnybody(Broken):
    promise = "a standing is its owner's alone"

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:  # noqa: ARG002
        job = self._entries[job_id].job if job_id in self._entries else None
        return None if job is None else await super().standing(job_id, mount, job.owner, file_id=file_id)


class OpensFilesForAnybody(Broken):
    promise = "a standing is its owner's alone"

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        if file_id is not None and job_id in self._entries:
            owner = self._entries[job_id].job.owner
        return await super().standing(job_id, mount, owner, file_id=file_id)


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


class CountsStopsAsTries(Broken):
    promise = "a stop that was asked for is no try"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:  # noqa: ARG002
        await super().release(held, cause)


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
        return await super().plan(self._current(lease), cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)


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
        more: bool = False,
        unfinished: Unfinished | None = None,
    ) -> bool:
        return await super().plan(lease, cut, codec, slices, now, more=more, unfinished=unfinished)


class IgnoresAttemptInRelease(_Fenceless):
    promise = "a lost lease cannot take the current one away"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        await super().release(self._current(held) if isinstance(held, Lease) else held, cause, excused=excused)


class ComparesWorkersOnly(_Fenceless):
    promise = "the attempt decides whether a lease is current"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        current = self._current(lease)
        lease = current if current.worker == lease.worker else lease
        return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)


class ReleasesByWorker(_Fenceless):
    promise = "the attempt decides whether a lease can be given back"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        if isinstance(held, Lease) and (current := self._current(held)).worker == held.worker:
            held = current
        await super().release(held, cause, excused=excused)


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
    promise = "after a job has ended no lease on it writes any more"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        work = dict(entry.work) if entry else {}
        replaced = await super().replace(job)
        if entry and replaced and job.state is JobState.FAILED:
            entry.work = {place: each for place, each in work.items() if each.worker}
        return replaced


class CountsTwice(Broken):
    promise = "done adds up over the slices and never falls"

    async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
        for work in self._entries[lease.job.id].work.values():
            work.done = 0
        return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)


class CountsRetriesAgain(Broken):
    promise = "done does not fall when a slice starts over, nor counts it twice"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        found = self._held(held) if isinstance(held, Lease) else None
        await super().release(held, cause, excused=excused)
        if found:
            found[1].done = 0


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

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        before = {id(work): replace(work) for entry in self._entries.values() for work in entry.work.values()}
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)
        if lease is None:
            return None
        number = lease.slice.number if lease.slice else None
        work = self._entries[lease.job.id].work
        granted, work[number] = work[number], before[id(work[number])]
        await anyio.lowlevel.checkpoint()  # another may claim between the look and the grant
        work[number] = granted
        return lease


class NeverGivesOn(Broken):
    promise = "free work is given to the worker that claims"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                if work.worker:
                    work.leased_until = after(now, lease_seconds)
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)


class TrustsTheClock(Broken):
    promise = "free work is given to the worker that claims"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                if work.leased_until and work.leased_until > now:
                    work.leased_until = after(now, lease_seconds)
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)


class ServesTheOldestJobFirst(Broken):
    promise = "owners take turns"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        self._turns.clear()
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)


class ForgetsTries(Broken):
    promise = "each time that work is given out its tries are one more"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)
        return lease and replace(lease, tries=1)


class FailsJobsByItself(Broken):
    promise = "a store fails no job"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        await super().release(held, cause, excused=excused)
        if isinstance(held, Lease) and held.attempt == 5:
            entry = self._entries[held.job.id]
            entry.job = entry.job.failed(Failure(Reason.FAULT, cause), entry.job.changed_at)


class OverlooksSilence(Broken):
    promise = "an attempt whose lease ran out is a try"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                work.excused += work.worker is not None and work.free(now)
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)


class NeverCountsAnew(Broken):
    promise = "an attempt that recorded a part begins the count anew"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        recorded = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        for work in self._entries[lease.job.id].work.values():
            work.excused = 0
        return recorded


class CountsAnewWithoutParts(Broken):
    promise = "an attempt that recorded no part is a try"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        recorded = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        for work in self._entries[lease.job.id].work.values():
            work.excused = max(work.attempt - 1, 0)
        return recorded


class ForgetsHowAWorkerEnded(Broken):
    promise = "the cause of a worker's end is kept for the operator"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        await super().release(held, cause if isinstance(held, Lease) else "it ended", excused=excused)


class ForgetsTheCause(Broken):
    promise = "a lease has the cause for which the attempt before it ended"

    async def release(self, held: Lease | str, cause: str, *, excused: bool = False) -> None:
        await super().release(held, cause if isinstance(held, str) else "", excused=excused)


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

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        standing = await super().standing(job_id, mount, owner, file_id=file_id)
        parts = sorted(standing.parts if standing else (), key=lambda part: (str(part.slice), str(part.number)))
        return standing and replace(standing, parts=tuple(parts))


class FindsPartsAnywhere(Broken):
    promise = "a file id is good in its own job only"

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        standing = await super().standing(job_id, mount, owner, file_id=file_id)
        parts = [part for entry in self._entries.values() for part in entry.parts.values() if part.file_id == file_id]
        return replace(standing, parts=tuple(parts)) if standing and file_id is not None else standing


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


class _Sweeps(Broken):
    """Sweeps by a rule of its own: `due_since` of each job, for steps that it overrides."""

    def _found(self, jobs: Sequence[Job], limit: int) -> Sequence[Job]:
        return sorted(jobs, key=lambda job: job.changed_at)[:limit]


class ReclaimsResults(_Sweeps):
    promise = "reclaimable are cancelled, expired and failed jobs, and no others"

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        if step is not Due.RECLAIM:
            return await super().due(step, before, limit, adapter=adapter)
        jobs = [entry.job for entry in self._entries.values() if not entry.job.state.working and not entry.reclaimed]
        return self._found([job for job in jobs if job.adapter == adapter], limit)


class ForgetsJobsWithFiles(_Sweeps):
    promise = "tombstones are due once they are old enough"

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        if step is not Due.FORGET:
            return await super().due(step, before, limit, adapter=adapter)
        jobs = [entry.job for entry in self._entries.values() if entry.job.adapter == adapter and entry.job.changed_at < before]
        return self._found([job for job in jobs if job.state in {JobState.CANCELLED, JobState.EXPIRED}], limit)


class IgnoresTheLimit(Broken):
    promise = "due keeps to its limit"

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        return await super().due(step, before, limit + 1, adapter=adapter)


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

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        first = next((entry.job.adapter for entry in self._entries.values() if entry.work), adapter)
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=first)


class PlansForItsAdapterOnly(Broken):
    promise = "work is given out for its own adapter only"

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
        entry = self._entries.get(lease.job.id)
        if entry:
            entry.job = replace(entry.job, adapter="")
        return await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)


class JudgesLeasesByTheAskersOwn(Broken):
    promise = "a lease is judged by its own length, not by that of the claimer"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        for entry in self._entries.values():
            for work in entry.work.values():
                work.leased_for = lease_seconds
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)


class CountsOtherAdaptersJobs(Broken):
    promise = "jobs of another adapter do not count to the limit"

    async def add(self, job: Job, rows: Rows, *, working_at_most: int) -> Job | None:
        working = sum(entry.job.owner == job.owner and entry.job.state.working for entry in self._entries.values())
        return None if working >= working_at_most else await super().add(job, rows, working_at_most=working_at_most)


class _SweepsAnybodys(Broken):
    """Attributes: step: for which it does not look whose jobs they are."""

    step: ClassVar[Due]
    promise = "a sweep finds its own adapter's jobs only"

    async def due(self, step: Due, before: Instant, limit: int, *, adapter: str = "") -> Sequence[Job]:
        adapters = sorted({entry.job.adapter for entry in self._entries.values()}) if step is self.step else [adapter]
        return [job for name in adapters for job in await super(_SweepsAnybodys, self).due(step, before, limit, adapter=name)]


class ExpiresAnybodysJobs(_SweepsAnybodys):
    step = Due.EXPIRE


class ForgetsAnybodysJobs(_SweepsAnybodys):
    step = Due.FORGET


class EndsAnybodysOverdueJobs(_SweepsAnybodys):
    step = Due.FAIL


class ReclaimsAnybodysFiles(_SweepsAnybodys):
    step = Due.RECLAIM


class DropsFilesOfOtherAdapters(Broken):
    promise = "files of another adapter's jobs are kept"

    async def keeps_files(self, job_ids: Collection[str], *, adapter: str = "") -> frozenset[str]:
        kept = await super().keeps_files(job_ids, adapter=adapter)
        return frozenset(job_id for job_id in kept if self._entries[job_id].job.adapter == adapter)


class AnotherIdEachTime(Broken):
    promise = "a store keeps its id"

    async def registry(self) -> Registry:
        return replace(await super().registry(), store_id=secrets.token_hex(16))


class LooksTooLate(Broken):
    promise = "who registers is shown what stands there"

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        await super().register(registration, lambda _: None)
        admit(self._present())


class KeepsWhatWasRefused(Broken):
    promise = "what the look at a store's registrations raises passes, and nothing is kept"

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        standing = self._present()
        await super().register(registration, lambda _: None)
        admit(standing)


class LooksBeforeItRegisters(Broken):
    promise = "a look and its registration are one step"

    async def register(self, registration: Registration, admit: Callable[[Sequence[Registration]], None]) -> None:
        admit(self._present())
        await anyio.lowlevel.checkpoint()
        await super().register(registration, lambda _: None)


class KeepsOneRegistration(Broken):
    promise = "registrations stand there as they were given, by mount, the last of each"

    async def registry(self) -> Registry:
        registry = await super().registry()
        return replace(registry, registrations=registry.registrations[:1])


class CompletesAfterTheFirstRound(Broken):
    promise = "a round with more to come does not complete the job"

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
        del more
        return await super().plan(lease, cut, codec, slices, now, rows=rows, unfinished=unfinished)


class CompletesWithARoundWithoutSlices(Broken):
    promise = "a round without slices makes the planning of the next free work at once"

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
        return await super().plan(lease, cut, codec, slices, now, rows=rows, more=more and bool(slices), unfinished=unfinished)


class WaitsForSlicesThatAreNotThere(Broken):
    promise = "a round without slices makes the planning of the next free work at once"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned and not slices:
            self._entries[lease.job.id].work.clear()
        return planned


class ForgetsWhatTheCutDidNotWaitFor(Broken):
    promise = "a job keeps what its cut did not wait for, as its first round said it"

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
        del unfinished
        return await super().plan(lease, cut, codec, slices, now, rows=rows, more=more)


class SaysWhatALaterRoundDidNotWaitFor(Broken):
    promise = "a job keeps what its cut did not wait for, as its first round said it"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned and unfinished is not None:
            entry = self._entries[lease.job.id]
            entry.job = replace(entry.job, unfinished=unfinished)
        return planned


class PlansBesideTheSlices(Broken):
    promise = "the next round is planned when all slices are finished, and not before"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        recorded = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        entry = self._entries[lease.job.id]
        if finished and recorded and entry.job.more:
            entry.work.setdefault(None, _Work(attempt=entry.plannings, excused=entry.plannings))
        return recorded


class PlansForEver(Broken):
    promise = "a job knows whether another round follows"

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
        entry = self._entries.get(lease.job.id)
        more = more or (entry is not None and entry.job.more and bool(slices))
        return await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)


class ForgetsEarlierEstimates(Broken):
    promise = "the slices of a later round add to the estimate"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        entry = self._entries.get(lease.job.id)
        if planned and entry and slices:
            entry.job = replace(entry.job, estimate=sum(piece.estimate for piece in slices))
        return planned


class DropsThePartsOfEarlierRounds(Broken):
    promise = "a later round leaves the parts before it alone"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned:
            self._entries[lease.job.id].parts.clear()
        return planned


class MovesTheCut(Broken):
    promise = "cut and codec are those of the first round"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        entry = self._entries.get(lease.job.id)
        if planned and entry:
            entry.job = replace(entry.job, cut=cut)
        return planned


class ChangesTheCodec(Broken):
    promise = "cut and codec are those of the first round"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        entry = self._entries.get(lease.job.id)
        if planned and entry:
            entry.job = replace(entry.job, codec=codec)
        return planned


class FindsWhatIsNotFinished(Broken):
    promise = "only the slices of completed jobs are found"

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        entries = list(self._entries.values())
        return [Former(piece, ()) for each in entries for piece in each.slices.values() if piece.cache_key in cache_keys]


class FindsTheOldest(Broken):
    promise = "of several jobs with a cache_key the newest is found"

    async def former(self, cache_keys: Collection[str]) -> Sequence[Former]:
        entries = self._entries
        try:
            self._entries = {
                id_: replace(entry, job=replace(entry.job, created_at=Instant(-entry.job.created_at)))
                for id_, entry in entries.items()
            }
            return await super().former(cache_keys)
        finally:
            self._entries = entries


class QueuesWhatWasMade(Broken):
    promise = "a slice that was made before is"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned and self._entries[lease.job.id].job.state is JobState.RUNNING:
            self._entries[lease.job.id].work |= {piece.number: _Work() for piece in slices if piece.made}
        return planned


class ForgetsWhatWasMade(Broken):
    promise = "the parts of a slice that was made before are recorded with the plan"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned:
            for piece in slices:
                for part in piece.made:
                    del self._entries[lease.job.id].parts[piece.number, part.number]
        return planned


class CountsLinksTwice(Broken):
    promise = "bytes that several jobs share are counted once"

    async def census(self, *, adapter: str = "") -> Census:
        found = await super().census(adapter=adapter)
        entries = [entry for entry in self._entries.values() if entry.job.adapter == adapter]
        return replace(found, kept_bytes=sum(part.stored_size for entry in entries for part in entry.parts.values()))


class ReadsTheRowsOnce(Broken):
    promise = "rows hold until a round of the plan brings others"

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[tuple[str, JobState], Rows] = {}

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        lease = await super().claim(worker, now, lease_seconds=lease_seconds, adapter=adapter)
        return lease and replace(lease, rows=self._read.setdefault((lease.job.id, lease.job.state), lease.rows))


class NumbersThePlanningsOfARoundAnew(Broken):
    promise = "no lease of an earlier round is ever current again"

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
        planned = await super().plan(lease, cut, codec, slices, now, rows=rows, more=more, unfinished=unfinished)
        if planned:
            entry = self._entries[lease.job.id]
            entry.plannings = 0
            if None in entry.work:
                entry.work[None] = _Work()
        return planned


class CountsTriesOverRounds(Broken):
    promise = "the tries of each round's planning begin at 1"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        recorded = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        planning = self._entries[lease.job.id].work.get(None)
        if planning is not None:
            planning.excused = 0
        return recorded


class KeepsTheCauseOverRounds(Broken):
    promise = "the cause that a planning has is of its own round"

    async def checkpoint(
        self, lease: Lease, parts: Sequence[Part], cursor: str | None, now: Instant, *, done: int, finished: bool
    ) -> Recorded:
        recorded = await super().checkpoint(lease, parts, cursor, now, done=done, finished=finished)
        planning = self._entries[lease.job.id].work.get(None)
        if planning is not None and planning.attempt > 1:
            planning.cause = "broken"
        return recorded


class NamesAnUnfinishedSliceBetweenRounds(Broken):
    promise = "between rounds no slice is unfinished"

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        standing = await super().standing(job_id, mount, owner, file_id=file_id)
        planning = None in self._entries[job_id].work if standing else False
        return replace(standing, unfinished=-1) if standing and planning else standing


class PlansJobsThatHaveEnded(Broken):
    promise = "a job that ended between two rounds is planned no further"

    async def replace(self, job: Job) -> bool:
        entry = self._entries.get(job.id)
        planning = entry.work.get(None) if entry and entry.slices else None
        replaced = await super().replace(job)
        if entry and planning is not None:
            entry.work[None] = planning
        return replaced


class PlansLaterRoundsForAnyAdapter(Broken):
    promise = "the planning of a later round is its adapter's alone"

    async def claim(self, worker: str, now: Instant, *, lease_seconds: float, adapter: str = "") -> Lease | None:
        whose = [entry.job.adapter for entry in self._entries.values() if entry.slices and None in entry.work]
        return await super().claim(worker, now, lease_seconds=lease_seconds, adapter=whose[0] if whose else adapter)


class ListsForAnybody(Broken):
    promise = "an owner's list has the owner's jobs alone"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:  # noqa: ARG002
        return [job for job in await self.kept(after=after, limit=limit) if job.mount == mount and job.state.live]


class ListsForAnyClient(Broken):
    promise = "an owner's list has the owner's jobs alone"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        jobs = await self.kept(after=after, limit=limit)
        return [job for job in jobs if job.mount == mount and job.state.live and replace(job.owner, client=owner.client) == owner]


class ListsThroughAnyMount(Broken):
    promise = "an owner's list has the jobs of its mount alone"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:  # noqa: ARG002
        return [job for job in await self.kept(after=after, limit=limit) if job.owner == owner and job.state.live]


class ListsTheEnded(Broken):
    promise = "an owner's list has queued, running, completed and failed jobs"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        return [job for job in await self.kept(after=after, limit=limit) if (job.mount, job.owner) == (mount, owner)]


class ListsTheOldestFirst(Broken):
    promise = "a list begins with the newest job"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        return (await super().owned(mount, owner, after=after, limit=limit))[::-1]


class ListsInTheOrderOfArrival(Broken):
    promise = "a list begins with the newest job"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        jobs = {job.id for job in await super().owned(mount, owner, after=after, limit=1_000)}
        return [job for job in self._jobs() if job.id in jobs][::-1][:limit]


class GoesOnBehindTheInstant(Broken):
    """And so leaves out the other jobs of that instant."""

    promise = "a list goes on behind the last job"

    async def owned(self, mount: str, owner: Owner, *, after: ListPlace | None, limit: int) -> Sequence[Job]:
        behind = None if after is None else ListPlace(after.created_at, "")
        return await super().owned(mount, owner, after=behind, limit=limit)


class ListsJobsOfOtherAdapters(Broken):
    promise = "the operator's list has the jobs of all owners and mounts of one adapter"

    async def kept(
        self,
        *,
        after: ListPlace | None,
        limit: int,
        job_id: str | None = None,
        adapter: str = "",  # noqa: ARG002
    ) -> Sequence[Job]:
        found: list[Job] = []
        for each in ("", "a", "b"):
            found += await super().kept(after=after, limit=limit, job_id=job_id, adapter=each)
        return found


class CountsOtherAdapters(Broken):
    promise = "a census is of one adapter"

    async def census(self, *, adapter: str = "") -> Census:  # noqa: ARG002
        return await super().census(adapter="")


class CountsFromTheLastAdded(Broken):
    promise = "oldest_queued is when the oldest queued job was created"

    async def census(self, *, adapter: str = "") -> Census:
        counted = await super().census(adapter=adapter)
        queued = [job.created_at for job in self._jobs() if job.state is JobState.QUEUED]
        return replace(counted, oldest_queued=queued[0] if queued else None)


class CountsEndedJobs(Broken):
    promise = "a census counts a planned job as running and an ended one not at all"

    async def census(self, *, adapter: str = "") -> Census:
        counted = await super().census(adapter=adapter)
        return replace(counted, running=len([job for job in self._jobs() if job.state is not JobState.QUEUED]))


class CountsPlainBytes(Broken):
    promise = "kept_bytes are the stored sizes of all sealed parts"

    async def census(self, *, adapter: str = "") -> Census:
        parts = [part for entry in self._entries.values() if entry.job.adapter == adapter for part in entry.parts.values()]
        return replace(await super().census(adapter=adapter), kept_bytes=sum(part.size for part in parts))


class CountsBytesOfLiveJobs(Broken):
    promise = "the bytes of an ended job count until they are reclaimed"

    async def census(self, *, adapter: str = "") -> Census:
        live = [entry for entry in self._entries.values() if entry.job.adapter == adapter and entry.job.state.live]
        kept = sum(part.stored_size for entry in live for part in entry.parts.values())
        return replace(await super().census(adapter=adapter), kept_bytes=kept)


BROKEN: tuple[type[Broken], ...] = tuple(
    value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Broken) and value is not Broken and not name.startswith("_")
)


class _Suite(JobStoreSuite, JobCensusSuite):
    broken: ClassVar[type[Broken]]

    @pytest.fixture
    def store(self) -> MemoryJobStore:
        return self.broken()


def _suite(broken: type[Broken]) -> type[Any]:
    return type(f"Test{broken.__name__}", (_Suite,), {"broken": broken, "__module__": __name__})


globals().update({f"Test{broken.__name__}": _suite(broken) for broken in BROKEN})
