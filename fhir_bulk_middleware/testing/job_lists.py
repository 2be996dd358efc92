"""The promises of a `JobStore` about lists of jobs, as tests: whose they are, their order, and how a list goes on."""

from collections.abc import Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Failure, Job, JobState
from fhir_bulk_middleware.contract.job_store import JobStore, ListPlace
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import MOUNT, NOW, OTHER, OWNER, Suite, a_job, added, found, hour, planned
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["JobListsSuite"]

_STRANGERS = (
    OTHER,
    Owner("https://other.example", OWNER.subject),
    Owner(OWNER.issuer, OWNER.subject + " "),
    Owner(OWNER.issuer, OWNER.subject, "another client of the same subject"),
    Owner("%", "%"),
)


def _newest_first(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in sorted(jobs, key=ListPlace.of, reverse=True)]


async def _owned(store: JobStore, *, limit: int = 100, after: ListPlace | None = None) -> list[str]:
    return [job.id for job in await store.owned(MOUNT, OWNER, after=after, limit=limit)]


class JobListsSuite(Suite):
    """The lists of a `JobStore`."""

    @pytest.mark.parametrize("stranger", _STRANGERS, ids=str)
    async def test_a_list_has_its_owners_jobs_alone(self, store: JobStore, stranger: Owner) -> None:
        """Law 7."""
        mine = await added(store)
        theirs = await added(store, a_job(stranger))
        assert await _owned(store) == [mine.id], "an owner's list has the owner's jobs alone"
        listed = await store.owned(MOUNT, stranger, after=None, limit=9)
        assert listed == [theirs], "a listed job is as find gives it"

    async def test_a_list_has_the_jobs_of_its_mount_alone(self, store: JobStore) -> None:
        """Law 10."""
        await added(store, a_job(mount="/other"))
        assert await _owned(store) == [], "an owner's list has the jobs of its mount alone"

    async def test_a_list_has_live_jobs_alone(self, store: JobStore) -> None:
        """Cancelled and expired jobs are gone."""
        ended = []
        for state in (JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED):
            job = await added(store)
            failed = job.failed(Failure(Reason.FAULT, "broken"), NOW)
            ended.append(job)
            turned = {JobState.CANCELLED: job.cancelled(NOW), JobState.EXPIRED: job.expired(NOW), JobState.FAILED: failed}[state]
            assert await store.replace(turned), "replace writes a job whose revision is the stored one"
        completed = await added(store)
        await planned(store, [])
        queued = await added(store)
        live = [ended[-1], completed, queued]
        assert await _owned(store) == _newest_first(live), "an owner's list has queued, running, completed and failed jobs"
        every = [job.id for job in await store.kept(after=None, limit=9)]
        assert every == _newest_first([*ended, completed, queued]), "the operator's list has jobs in every state"

    async def test_lists_begin_with_the_newest_job(self, store: JobStore) -> None:
        """By when it was created, not by when it was added: a clock may be set back."""
        jobs = [await added(store, a_job(at=hour(hours))) for hours in (2, 3, 1)]
        assert await _owned(store) == [jobs[1].id, jobs[0].id, jobs[2].id], "a list begins with the newest job"
        assert await _owned(store, limit=2) == [jobs[1].id, jobs[0].id], "a list has at most `limit` jobs, the newest"

    async def test_a_list_goes_on_behind_a_place(self, store: JobStore) -> None:
        """Nothing is listed twice or left out, whatever is added or removed meanwhile; many jobs may be of one instant."""
        promise = "a list goes on behind the last job: none is listed twice and none is left out"
        there = [await added(store, a_job(at=Instant(NOW + number // 4))) for number in range(12)]
        seen: list[str] = []
        after: ListPlace | None = None
        while page := await store.owned(MOUNT, OWNER, after=after, limit=3):
            seen += [job.id for job in page]
            after = ListPlace.of(page[-1])
            await store.remove(page[-1].id)
            await added(store, a_job(at=hour(1)))
        assert seen == _newest_first(there), promise
        whole: list[str] = []
        after = None
        while several := await store.kept(after=after, limit=5):
            whole += [job.id for job in several]
            after = ListPlace.of(several[-1])
        assert len(whole) == len({*whole}), promise
        assert {*whole} >= {job.id for job in there} - {*seen[2::3]}, promise

    async def test_the_operators_list_is_an_adapters_own(self, store: JobStore) -> None:
        """Law 32."""
        promise = "the operator's list has the jobs of all owners and mounts of one adapter"
        jobs = [
            await added(store, replace(a_job(owner, at=hour(hours), mount=mount), adapter="a"))
            for hours, (owner, mount) in enumerate([(OWNER, MOUNT), (OTHER, MOUNT), (OWNER, "/other")])
        ]
        other = await added(store, replace(a_job(), adapter="b"))
        assert [job.id for job in await store.kept(after=None, limit=9, adapter="a")] == _newest_first(jobs), promise
        assert [job.id for job in await store.kept(after=None, limit=9, adapter="b")] == [other.id], promise
        one = await store.kept(after=None, limit=9, adapter="a", job_id=jobs[0].id)
        assert list(one) == [await found(store, jobs[0])], "with an id the operator's list has that job alone"
        assert list(await store.kept(after=None, limit=9, adapter="b", job_id=jobs[0].id)) == [], promise
