"""The promises of a `JobStore` to sweeps, as tests."""

from dataclasses import replace

from fhir_bulk_middleware.contract.job import Failure, Idempotency, Job, JobState
from fhir_bulk_middleware.contract.job_store import Due, JobStore
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import (
    LEASE,
    MOUNT,
    NOW,
    OTHER,
    OWNER,
    ROWS,
    Suite,
    a_job,
    a_part,
    added,
    claimed,
    found,
    hour,
    sealed,
    started,
)
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["JobRetentionSuite"]


async def _in_state(store: JobStore, state: JobState, at: Instant = NOW, adapter: str = "") -> Job:
    """A job whose state became `state` at that instant; all but queued ones have a sealed part."""
    job = a_job(at=at, adapter=adapter)
    if state is JobState.QUEUED:
        return await added(store, job)
    job = await started(store, job=job)
    finished = state in {JobState.COMPLETED, JobState.EXPIRED}
    await store.checkpoint(await claimed(store, adapter=adapter), [a_part(job, 0, 0)], "c", at, done=1, finished=finished)
    job = await found(store, job)
    match state:
        case JobState.CANCELLED:
            await store.replace(job.cancelled(at))
        case JobState.FAILED:
            await store.replace(job.failed(Failure(Reason.FAULT, "broken"), at))
        case JobState.EXPIRED:
            await store.replace(job.expired(at))
        case _:
            pass
    return await found(store, job)


async def _one_of_each(store: JobStore) -> dict[JobState, Job]:
    """A job in each state. The queued one is made last, because making the others would claim it."""
    states = [state for state in JobState if state is not JobState.QUEUED]
    return {state: await _in_state(store, state) for state in [*states, JobState.QUEUED]}


class JobRetentionSuite(Suite):
    """How a `JobStore` is swept."""

    async def test_tombstones_are_due_by_their_age(self, store: JobStore) -> None:
        """Law 11: their age counts from the change of state, and they must be reclaimed before."""
        promise = "tombstones are due once they are old enough, oldest first"
        cancelled = [await _in_state(store, JobState.CANCELLED, hour(h)) for h in (2, 0)]
        expired = await _in_state(store, JobState.EXPIRED, hour(1))
        expected = [cancelled[1], expired, cancelled[0]]
        for state in (JobState.COMPLETED, JobState.FAILED, JobState.RUNNING):
            await store.reclaimed((await _in_state(store, state)).id)
        held = await _in_state(store, JobState.CANCELLED)
        for job in expected:
            await store.reclaimed(job.id)
        assert list(await store.due(Due.FORGET, hour(9), 10)) == expected, f"{promise}, and those with files to reclaim are not"
        assert list(await store.due(Due.FORGET, hour(2), 10)) == expected[:2], promise
        assert list(await store.due(Due.FORGET, hour(9), 2)) == expected[:2], "due keeps to its limit"
        await store.reclaimed(held.id)
        assert held in await store.due(Due.FORGET, hour(9), 10), promise

    async def test_a_sweep_finds_its_own_adapters_jobs_only(self, store: JobStore) -> None:
        """Law 32."""
        promise = "a sweep finds its own adapter's jobs only"
        for state in [*(state for state in JobState if state is not JobState.QUEUED), JobState.QUEUED]:
            await _in_state(store, state, adapter="b")
        for adapter, count in (("a", 0), ("", 0), ("b", 1)):
            for step, jobs in ((Due.FAIL, 2), (Due.EXPIRE, 2), (Due.RECLAIM, 3)):
                assert len(await store.due(step, hour(9), 10, adapter=adapter)) == jobs * count, promise
        for job in await store.due(Due.RECLAIM, hour(9), 10, adapter="b"):
            await store.reclaimed(job.id)
        assert list(await store.due(Due.FORGET, hour(9), 10, adapter="a")) == [], promise
        assert len(await store.due(Due.FORGET, hour(9), 10, adapter="b")) == 2, promise

    async def test_files_of_another_adapters_jobs_are_kept(self, store: JobStore) -> None:
        """Law 32: they may be in the same output store, and only their own sweep removes them."""
        theirs = await _in_state(store, JobState.CANCELLED, adapter="b")
        asked = [theirs.id, new_job_id()]
        assert await store.keeps_files(asked, adapter="a") == {theirs.id}, "files of another adapter's jobs are kept"
        assert await store.keeps_files(asked, adapter="b") == frozenset(), "files of cancelled jobs are not kept"

    async def test_due_are_the_finished_jobs_whose_retention_is_over(self, store: JobStore) -> None:
        """ST-22: to the microsecond, and each job by its own."""
        promise = "due gives finished jobs once their retention is over, longest over first"
        later = await _in_state(store, JobState.COMPLETED, hour(2))
        first = await _in_state(store, JobState.FAILED, hour(1))
        for state in (JobState.CANCELLED, JobState.EXPIRED, JobState.RUNNING):
            await _in_state(store, state, hour(0))
        assert list(await store.due(Due.EXPIRE, first.expires_at, 10)) == [], promise
        assert list(await store.due(Due.EXPIRE, Instant(first.expires_at + 1), 10)) == [first], promise
        assert list(await store.due(Due.EXPIRE, hour(9), 10)) == [first, later], promise
        assert list(await store.due(Due.EXPIRE, hour(9), 1)) == [first], "due keeps to its limit"

    async def test_overdue_jobs_are_those_that_still_work(self, store: JobStore) -> None:
        """A job always ends."""
        jobs = await _one_of_each(store)
        overdue = await store.due(Due.FAIL, Instant(NOW + 1), 10)
        assert {job.id for job in overdue} == {jobs[JobState.QUEUED].id, jobs[JobState.RUNNING].id}, (
            "overdue are the queued and running jobs, and no others"
        )
        assert list(await store.due(Due.FAIL, NOW, 10)) == [], "a job created at the instant was not created before it"
        assert len(await store.due(Due.FAIL, Instant(NOW + 1), 1)) == 1, "due keeps to its limit"

    async def test_files_are_reclaimed_of_jobs_that_ended_without_a_result(self, store: JobStore) -> None:
        """DL-09: space is given back after the answer."""
        jobs = await _one_of_each(store)
        ended = {jobs[state].id for state in (JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED)}
        due = await store.due(Due.RECLAIM, hour(9), 10)
        assert {job.id for job in due} == ended, "reclaimable are cancelled, expired and failed jobs, and no others"
        assert len(await store.due(Due.RECLAIM, hour(9), 2)) == 2, "due keeps to its limit"
        for job in due:
            await store.reclaimed(job.id)
            assert await sealed(store, job) == [], "a reclaimed job has no parts"
        assert list(await store.due(Due.RECLAIM, hour(9), 10)) == [], "what was reclaimed is not reclaimable again"
        for state in JobState:
            assert await found(store, jobs[state]) == jobs[state], "reclaiming leaves the job itself, for its owner may ask"

    @pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED])
    async def test_of_a_job_that_has_ended_nothing_is_kept_that_its_client_sent(self, store: JobStore, state: JobState) -> None:
        """Law 38."""
        promise = "of a job that has ended nothing is kept that its client sent"
        asked = await added(store, replace(a_job(), idempotency=Idempotency("key", "fingerprint")))
        failed = asked.failed(Failure(Reason.FAULT, "broken"), NOW)
        ended = {JobState.CANCELLED: asked.cancelled(NOW), JobState.EXPIRED: asked.expired(NOW), JobState.FAILED: failed}[state]
        assert await store.replace(ended), "replace writes a job whose revision is the stored one"
        kept = await found(store, asked)
        assert (kept.request, kept.idempotency) == (ended.request, ended.idempotency), promise
        assert (kept.request.url, kept.request.options.elements, kept.request.window.since) == ("", (), None), promise

    async def test_sweeping_again_does_no_harm(self, store: JobStore) -> None:
        """The sweep before may have crashed."""
        job = await _in_state(store, JobState.CANCELLED)
        for _ in range(2):
            await store.reclaimed(job.id)
        assert await found(store, job) == job, "reclaimed can be called again"
        for _ in range(2):
            await store.remove(job.id)
        await store.reclaimed(job.id)
        assert await store.find(job.id, MOUNT, job.owner) is None, "what was removed stays removed"
        assert list(await store.due(Due.RECLAIM, hour(9), 10)) == [], "a removed job has nothing to reclaim"

    async def test_a_result_is_not_reclaimed(self, store: JobStore) -> None:
        """Also if a sweep is mistaken."""
        job = await _in_state(store, JobState.COMPLETED)
        await store.reclaimed(job.id)
        assert len(await sealed(store, job)) == 1, "a completed job keeps its parts, also when a sweep is mistaken"

    async def test_files_are_kept_of_jobs_with_a_result_or_on_the_way_to_one(self, store: JobStore) -> None:
        """All other files can be discarded."""
        jobs = await _one_of_each(store)
        asked = [job.id for job in jobs.values()] + [new_job_id()]
        kept = {jobs[state].id for state in (JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED)}
        assert await store.keeps_files(asked) == kept, "files are kept of queued, running and completed jobs, and no others"
        some = jobs[JobState.COMPLETED].id
        assert await store.keeps_files([some]) == {some}, "keeps_files speaks of the jobs that it was asked about"
        assert await store.keeps_files([]) == frozenset(), "keeps_files speaks of the jobs that it was asked about"

    @pytest.mark.parametrize("state", JobState)
    async def test_a_removed_job_is_as_one_that_never_was(self, store: JobStore, state: JobState) -> None:
        """Law 11."""
        job = await _in_state(store, state)
        await store.remove(job.id)
        assert await store.find(job.id, MOUNT, job.owner) is None, "a removed job is as one that never was: not found"
        assert await sealed(store, job) == [], "a removed job is as one that never was: no parts"
        late = await store.claim("late", hour(9), lease_seconds=LEASE)
        assert late is None, "a removed job is as one that never was: no work"
        again = replace(a_job(), id=job.id)
        assert await store.add(again, ROWS, working_at_most=1), "a removed job does not count to its owner's limit"
        assert await found(store, again) == again, "a removed job is as one that never was: its id is free"
        fresh = await claimed(store)
        assert (fresh.slice, fresh.attempt) == (None, 1), "a removed job is as one that never was: no attempts"

    async def test_a_removed_job_does_not_take_its_owner_forward(self, store: JobStore) -> None:
        """Sweeps do not change the order of owners."""
        jobs = [await added(store, a_job(owner)) for owner in (OWNER, OWNER, OWNER, OTHER)]
        given = [await claimed(store) for _ in range(3)]
        assert [lease.job.owner for lease in given] == [OWNER, OTHER, OWNER], "owners take turns"
        await store.release(given[1], "stopped")
        await store.replace(jobs[0].cancelled(NOW))
        await store.remove(jobs[0].id)
        assert (await claimed(store)).job.owner == OTHER, "removing a job does not bring its owner's turn forward"
