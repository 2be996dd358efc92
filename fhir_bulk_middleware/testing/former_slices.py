"""The promises of a `JobStore` to exports that link files of earlier ones (`JobStore.former`, `Slice.made`), as tests."""

from collections.abc import Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.job import Codec, Failure, Former, Job, JobState, Part, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    NOW,
    Suite,
    a_job,
    a_part,
    a_slice,
    added,
    claimed,
    found,
    hour,
    idle,
    planned,
    standing,
)
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["FormerSlicesSuite"]


def _slice(number: int, cache_key: str | None, range_: str = "") -> Slice:
    return replace(a_slice(number, range_=range_), cache_key=cache_key, fingerprint=None if cache_key is None else f"f{number}")


async def _completed(store: JobStore, slices: Sequence[Slice], at: Instant = NOW) -> tuple[Job, list[Part]]:
    """A completed job with one part for each slice, and the parts."""
    job = await added(store, a_job(at=at))
    await planned(store, slices)
    parts = []
    for piece in slices:
        lease = await claimed(store)
        parts.append(a_part(job, piece.number, 0))
        assert await store.checkpoint(lease, parts[-1:], "end", NOW, done=7, finished=True), "a holder can finish its slice"
    return await found(store, job), parts


class FormerSlicesSuite(Suite):
    """How a `JobStore` finds slices of earlier jobs, and keeps those that were made before they were planned."""

    async def test_slices_are_found_by_their_recipes_with_their_parts(self, store: JobStore) -> None:
        """And with ranges and fingerprints, as they were planned."""
        slices = [_slice(0, "a", "0-9"), _slice(1, "b"), _slice(2, None), _slice(3, "a", "10-19")]
        _, parts = await _completed(store, slices)
        former = await store.former(["a", "unknown"])
        assert [each.slice.number for each in former] == [0, 3], "slices are found by their cache_keys, by number"
        of_plan = [(each.slice.range, each.slice.cache_key, each.slice.fingerprint) for each in former]
        assert of_plan == [("0-9", "a", "f0"), ("10-19", "a", "f3")], "a slice keeps range, cache_key and fingerprint"
        assert [each.parts for each in former] == [(parts[0],), (parts[3],)], "a former slice has its own parts"
        assert [each.slice.estimate for each in former] == [7, 7], "the estimate of a finished slice is what was read"
        assert await store.former([]) == [], "without a cache_key nothing is found"

    async def test_of_several_jobs_the_newest_is_found_for_each_recipe(self, store: JobStore) -> None:
        """Whichever was completed or added last."""
        await _completed(store, [_slice(0, "a"), _slice(1, "b")], hour(1))
        newest, _ = await _completed(store, [_slice(0, "a")], hour(2))
        await _completed(store, [_slice(0, "a")], hour(0))
        former: list[Former] = sorted(await store.former(["a", "b"]), key=lambda each: each.slice.cache_key or "")
        assert [each.slice.cache_key for each in former] == ["a", "b"], "each cache_key is found in one job"
        keys = [part.key.startswith(newest.id) for each in former for part in each.parts]
        assert keys == [True, False], "of several jobs with a cache_key the newest is found"

    @pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED])
    async def test_only_completed_jobs_are_found(self, store: JobStore, state: JobState) -> None:
        """The files of others are not finished, or go away."""
        job = await added(store)
        await planned(store, [_slice(0, "a"), _slice(1, "b")])
        lease = await claimed(store)
        assert await store.checkpoint(lease, [a_part(job, 0, 0)], "end", NOW, done=1, finished=True), "a slice can be finished"
        job = await found(store, job)
        ends = {
            JobState.CANCELLED: job.cancelled(hour(1)),
            JobState.EXPIRED: job.expired(hour(1)),
            JobState.FAILED: job.failed(Failure(Reason.FAULT, "broken"), hour(1)),
        }
        if state in ends:
            assert await store.replace(ends[state]), "a running job can be ended"
        assert await store.former(["a", "b"]) == [], "only the slices of completed jobs are found"

    async def test_a_slice_that_was_made_before_is_finished_by_the_plan(self, store: JobStore) -> None:
        """Its parts are recorded with it, and nobody can claim it."""
        job = await added(store)
        made = a_part(job, 0, 0), replace(a_part(job, 0, 1), source=f"{job.id}/elsewhere")
        await planned(store, [replace(_slice(0, "a"), estimate=70, made=made), _slice(1, "a")])
        now = await standing(store, job)
        assert now.parts == made, "the parts of a slice that was made before are recorded with the plan"
        assert (now.unfinished, now.slices) == (1, 2), "a slice that was made before is finished by the plan"
        assert (now.job.done, now.job.estimate) == (70, 170), "what was made before counts as read"
        lease = await claimed(store)
        assert lease.slice is not None, "the other slices are free work"
        assert lease.slice.number == 1, "a slice that was made before is no work"
        assert await idle(store), "a slice that was made before is no work"
        assert await store.checkpoint(lease, [], None, NOW, done=5, finished=True), "a holder can finish its slice"
        former = await store.former(["a"])
        assert [(each.slice.estimate, each.slice.parts, each.parts) for each in former] == [(70, 2, made), (5, 0, ())], (
            "a slice that was made before is found as any other"
        )

    async def test_a_plan_of_slices_that_were_all_made_before_completes_the_job(self, store: JobStore) -> None:
        """In one step, unless another round follows."""
        for more in (False, True):
            job = await added(store)
            lease = await claimed(store, "planner")
            slices = [replace(_slice(number, "a"), made=(a_part(job, number, 0),)) for number in range(2)]
            assert await store.plan(lease, CUT, Codec.GZIP, slices, hour(1), more=more), "a holder can plan"
            now = await standing(store, job)
            assert now.job.state is (JobState.RUNNING if more else JobState.COMPLETED), (
                "a plan whose slices were all made before completes the job, or frees the next round"
            )
            assert len(now.parts) == 2, "the parts of a slice that was made before are recorded with the plan"
        assert (await claimed(store)).slice is None, "a round of slices that were all made frees the planning of the next"
