"""The promises of a `JobStore` to jobs whose plan comes in rounds (`JobStore.plan`), as tests."""

from collections.abc import Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.job import Codec, Failure, Job, JobState
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.query import Rows, Unfinished
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    LEASE,
    NOW,
    ROWS,
    Suite,
    a_job,
    a_part,
    a_slice,
    added,
    claimed,
    found,
    hour,
    idle,
    standing,
    together,
    writes,
)
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["PlanRoundsSuite"]


async def _planned(
    store: JobStore, numbers: Sequence[int], *, more: bool, now: Instant = NOW, rows: Rows | None = None, adapter: str = ""
) -> Lease:
    """Plan a round of slices with these numbers, which must be the free work; its lease."""
    lease = await claimed(store, "planner", now, adapter=adapter)
    assert lease.slice is None, "the planning of a round is free work"
    slices = [a_slice(number, estimate=10 + number) for number in numbers]
    assert await store.plan(lease, CUT, Codec.GZIP, slices, now, rows=rows, more=more), "the holder of a planning can plan"
    return lease


async def _finished(store: JobStore, slices: int, *, done: int = 1, now: Instant = NOW) -> Recorded:
    """Carry out so many slices, each with one part; the result of the last one."""
    recorded = Recorded.LOST
    for _ in range(slices):
        lease = await claimed(store, "worker", now)
        assert lease.slice is not None, "the slices of a round are free work"
        part = a_part(lease.job, lease.slice.number, 0)
        recorded = await store.checkpoint(lease, [part], None, now, done=done, finished=True)
        assert recorded, "a holder can finish its slice"
    return recorded


async def _between(store: JobStore, adapter: str = "") -> Job:
    """A job whose first round of two slices is finished, and whose second round is not planned yet."""
    job = await added(store, a_job(adapter=adapter))
    await _planned(store, [0, 1], more=True, adapter=adapter)
    for _ in range(2):
        lease = await claimed(store, adapter=adapter)
        number = lease.slice.number if lease.slice else -1
        await store.checkpoint(lease, [a_part(job, number, 0)], None, NOW, done=1, finished=True)
    return await found(store, job)


class PlanRoundsSuite(Suite):
    """How a `JobStore` keeps a plan that comes in rounds."""

    async def test_the_last_slice_of_a_round_makes_the_planning_of_the_next_free(self, store: JobStore) -> None:
        """Law 40: which context an export has is known when its lines are written."""
        job = await added(store)
        await _planned(store, [0, 1], more=True)
        leases = [await claimed(store) for _ in range(2)]
        assert await idle(store), "the next round is planned when all slices are finished, and not before"
        last = leases.pop()
        for lease in leases:
            assert await store.checkpoint(lease, [], None, NOW, done=1, finished=True), "a holder can finish its slice"
        assert await idle(store), "the next round is planned when all slices are finished, and not before"
        recorded = await store.checkpoint(last, [], None, NOW, done=1, finished=True)
        assert recorded is Recorded.KEPT, "a round with more to come does not complete the job"
        now = await found(store, job)
        assert (now.state, now.more) == (JobState.RUNNING, True), "a round with more to come does not complete the job"
        lease = await claimed(store, "second")
        assert lease.slice is None, "a finished round makes the planning of the next free work"
        assert lease.job == now, "a lease has the job as it is"
        assert await idle(store), "the planning of a round is given out once"

    async def test_slices_that_end_at_once_free_one_planning(self, store: JobStore) -> None:
        """However many workers end a round."""
        await added(store)
        await _planned(store, range(8), more=True)
        leases = [await claimed(store) for _ in range(8)]
        done = await together(8, lambda n: store.checkpoint(leases[n], [], None, NOW, done=1, finished=True))
        assert done == [Recorded.KEPT] * 8, "a round with more to come does not complete the job"
        given = await together(8, lambda n: store.claim(f"worker {n}", NOW, lease_seconds=LEASE))
        assert sum(lease is not None for lease in given) == 1, "the planning of a round is given out once"

    async def test_a_round_without_slices_frees_the_next_at_once(self, store: JobStore) -> None:
        """The first round and a later one."""
        promise = "a round without slices makes the planning of the next free work at once"
        job = await added(store)
        for _ in range(2):
            await _planned(store, [], more=True)
            now = await found(store, job)
            assert (now.state, now.cut) == (JobState.RUNNING, CUT), promise
            lease = await store.claim("hasty", NOW, lease_seconds=LEASE)
            assert lease is not None, promise
            await store.release(lease, "stopped")
        await _planned(store, [0], more=True)
        await _finished(store, 1)
        await _planned(store, [], more=True)
        assert (await found(store, job)).state is JobState.RUNNING, promise
        await _planned(store, [], more=False)
        assert (await found(store, job)).state is JobState.COMPLETED, "a last round without slices completes the job"
        assert await idle(store, hour(9)), "a completed job has no work"

    async def test_the_last_slice_of_the_last_round_completes_the_job(self, store: JobStore) -> None:
        """And no other."""
        promise = "the last slice of the last round completes the job"
        job = await added(store)
        for first, more in ((0, True), (2, True), (4, False)):
            await _planned(store, [first, first + 1], more=more)
            assert (await found(store, job)).more is more, "a job knows whether another round follows"
            assert await _finished(store, 1) is Recorded.KEPT, promise
            assert (await found(store, job)).state is JobState.RUNNING, promise
            recorded = await _finished(store, 1, now=hour(1))
            assert recorded is (Recorded.KEPT if more else Recorded.COMPLETED), promise
        ended = await found(store, job)
        assert (ended.state, ended.changed_at) == (JobState.COMPLETED, hour(1)), promise
        assert await idle(store, hour(9)), "a completed job has no work"

    async def test_rounds_add_up(self, store: JobStore) -> None:
        """ST-03: slices, parts, estimates and counts."""
        job = await added(store)
        await _planned(store, [0, 1], more=True)
        assert (await found(store, job)).estimate == 21, "the estimate of a first round is that of its slices"
        await _finished(store, 2, done=7)
        await _planned(store, [2, 5], more=True)
        now = await found(store, job)
        assert (now.estimate, now.done) == (14 + 27, 14), "the slices of a later round add to the estimate"
        await _finished(store, 2, done=3)
        await _planned(store, [6], more=False)
        lease = await claimed(store)
        assert lease.slice == a_slice(6, estimate=16), "the slices of a later round are given out as they were planned"
        assert lease.slice is not None
        await store.checkpoint(lease, [a_part(job, 6, 0)], None, NOW, done=1, finished=True)
        ended = await standing(store, job)
        assert ended.job.estimate == ended.job.done == 21, "at the end the estimate is what was read in all rounds"
        assert [part.slice for part in ended.parts] == [0, 1, 2, 5, 6], "a later round leaves the parts before it alone"

    async def test_cut_and_codec_are_those_of_the_first_round(self, store: JobStore) -> None:
        """Laws 1 and 5: a later round may be planned by a process without the codec, or with a clock of its own."""
        promise = "cut and codec are those of the first round"
        await _between(store)
        lease = await claimed(store)
        assert await store.plan(lease, hour(5), Codec.PLAIN, [a_slice(2)], hour(5)), "the holder of a planning can plan"
        now = await found(store, lease.job)
        assert (now.cut, now.codec) == (CUT, Codec.GZIP), promise
        again = (await claimed(store)).job
        assert (again.cut, again.codec) == (CUT, Codec.GZIP), promise

    async def test_what_the_cut_did_not_wait_for_is_said_with_the_first_round(self, store: JobStore) -> None:
        """The manifest tells it, beside the cut that it is about."""
        promise = "a job keeps what its cut did not wait for, as its first round said it"
        for said in (Unfinished(3, hour(1)), None):
            await added(store)
            lease = await claimed(store)
            assert await store.plan(lease, CUT, Codec.GZIP, [], NOW, more=True, unfinished=said), "a holder can plan"
            lease = await claimed(store)
            assert lease.job.unfinished == said, promise
            assert await store.plan(lease, CUT, Codec.GZIP, [], NOW, unfinished=Unfinished(1, hour(2))), "a holder can plan"
            assert (await found(store, lease.job)).unfinished == said, promise

    async def test_rows_hold_until_a_round_brings_others(self, store: JobStore) -> None:
        """Law 33."""
        promise = "rows hold until a round of the plan brings others"
        other = replace(ROWS, rights="ward=8")
        await added(store)
        expected = ROWS
        for number, rows in enumerate((None, other, None, ROWS)):
            lease = await claimed(store)
            assert lease.rows == expected, promise
            expected = rows or expected
            assert await store.plan(lease, CUT, Codec.GZIP, [a_slice(number)], NOW, rows=rows, more=True), promise
            lease = await claimed(store)
            assert lease.rows == expected, promise
            await store.checkpoint(lease, [], None, NOW, done=1, finished=True)

    async def test_the_planning_of_a_round_is_leased_like_other_work(self, store: JobStore) -> None:
        """Law 18."""
        await _between(store)
        lease = await claimed(store)
        assert await idle(store, after(NOW, LEASE - 1)), "the planning of a later round is held until its lease runs out"
        assert await store.renew(lease, after(NOW, LEASE - 1), lease_seconds=LEASE, done=0), "a holder can renew its lease"
        assert await idle(store, after(NOW, LEASE + 1)), "the planning of a later round is held until its lease runs out"
        again = await claimed(store, "second", hour(1))
        before = await standing(store, lease.job)
        assert not any(await writes(store, lease)), "a planner that lost its lease writes nothing, in a later round too"
        assert await standing(store, lease.job) == before, "a planner that lost its lease writes nothing, in a later round too"
        assert await store.plan(again, CUT, Codec.GZIP, [a_slice(2)], hour(1)), "the holder of a planning can plan"
        assert not await store.plan(again, CUT, Codec.GZIP, [a_slice(3)], hour(1)), "a round is written once"

    async def test_a_lease_of_an_earlier_round_is_never_current_again(self, store: JobStore) -> None:
        """Law 18: also if the same worker plans the next round."""
        promise = "no lease of an earlier round is ever current again"
        job = await added(store)
        past = [await _planned(store, [], more=True)]
        past.append(await _planned(store, [0], more=True))
        past.append(await claimed(store, "planner"))
        assert await store.checkpoint(past[-1], [], None, NOW, done=1, finished=True), "a holder can finish its slice"
        for held in (False, True):
            if held:
                lease = await claimed(store, "planner")
                assert lease.slice is None, "a finished round makes the planning of the next free work"
            before = await standing(store, job)
            for zombie in past:
                assert not any(await writes(store, zombie)), promise
                await store.release(zombie, "late")
            assert await standing(store, job) == before, promise
        assert await idle(store), promise

    async def test_a_planning_counts_its_own_tries(self, store: JobStore) -> None:
        """A worker that planning kills must not kill all of them, nor does one round use up the tries of the next."""
        await added(store)
        for _ in range(3):
            await store.release(await claimed(store), "broken")
        await _planned(store, [0], more=True)
        await _finished(store, 1)
        for tries in (1, 2):
            lease = await claimed(store)
            assert lease.tries == tries, "the tries of each round's planning begin at 1"
            cause = None if tries == 1 else "disk on fire"
            assert lease.cause == cause, "the cause that a planning has is of its own round"
            await store.release(lease, "disk on fire")
        await store.release(await claimed(store), "stopped", excused=True)
        assert (await claimed(store, "unlucky")).tries == 3, "a stop that was asked for is no try, in a later round too"
        lease = await claimed(store, now=hour(1))
        assert lease.tries == 4, "a planning whose lease ran out is a try, in a later round too"
        assert "unlucky" in (lease.cause or ""), "the cause names the worker that fell silent"

    async def test_between_rounds_all_that_stands_there_stays(self, store: JobStore) -> None:
        """Law 20: a partial manifest grows at its end only."""
        job = await _between(store)
        finished = await standing(store, job)
        assert finished.unfinished is None, "between rounds no slice is unfinished"
        assert [part.slice for part in finished.parts] == [0, 1], "a part is recorded with its slice"
        lease = await claimed(store)
        assert await standing(store, job) == finished, "a claim to plan changes nothing that stands there"
        assert await store.plan(lease, CUT, Codec.GZIP, [a_slice(2), a_slice(3)], NOW, more=True), "a holder can plan"
        now = await standing(store, job)
        assert now.parts == finished.parts, "a later round leaves the parts before it alone"
        assert now.unfinished == 2, "unfinished names the first slice of the round that is not finished"

    @pytest.mark.parametrize("held", [False, True])
    @pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED])
    async def test_a_job_that_ends_between_rounds_is_planned_no_further(
        self, store: JobStore, state: JobState, *, held: bool
    ) -> None:
        """DL-01, law 36."""
        promise = "a job that ended between two rounds is planned no further"
        job = await _between(store)
        lease = await claimed(store) if held else None
        ends = {
            JobState.CANCELLED: job.cancelled(hour(1)),
            JobState.FAILED: job.failed(Failure(Reason.FAULT, "broken"), hour(1)),
            JobState.EXPIRED: job.expired(hour(1)),
        }
        assert await store.replace(ends[state]), "a job between two rounds can be ended"
        before = await standing(store, job)
        assert before.job.state is state, "a job between two rounds can be ended"
        assert lease is None or not any(await writes(store, lease)), promise
        assert await standing(store, job) == before, promise
        assert await idle(store, hour(9)), promise

    async def test_a_later_round_is_planned_for_its_own_adapter_only(self, store: JobStore) -> None:
        """Law 32."""
        promise = "the planning of a later round is its adapter's alone"
        job = await _between(store, "a")
        for adapter in ("", "b"):
            assert await store.claim("stranger", hour(1), lease_seconds=LEASE, adapter=adapter) is None, promise
        lease = await claimed(store, adapter="a")
        assert (lease.job.id, lease.slice) == (job.id, None), promise
