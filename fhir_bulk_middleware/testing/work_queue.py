"""The promises of a `JobStore` to workers, and in spite of them, as tests."""

from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.job import Codec, Failure, JobState
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.query import Compartments, Membership, Rows
from fhir_bulk_middleware.instant import after
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    LEASE,
    NOW,
    ODD,
    OTHER,
    OWNER,
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
    planned,
    sealed,
    standing,
    started,
    together,
    writes,
)
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["WorkQueueSuite"]


class WorkQueueSuite(Suite):
    """How a `JobStore` hands out work."""

    async def test_without_work_there_is_no_lease(self, store: JobStore) -> None:
        """Idle workers ask often."""
        assert await idle(store), "where there is no work nothing is given out"

    async def test_work_is_given_out_for_its_own_adapter_only(self, store: JobStore) -> None:
        """Law 32: for planning and slices, whichever owner's turn it is."""
        promise = "work is given out for its own adapter only"
        jobs = {adapter: await added(store, a_job(adapter=adapter)) for adapter in ("b", "a", "")}
        for adapter in ("a", "b", ""):
            lease = await claimed(store, adapter=adapter)
            assert lease.job.id == jobs[adapter].id, promise
            assert await store.plan(lease, CUT, Codec.PLAIN, [a_slice(0)], NOW), "the holder of a job's planning can plan it"
        assert await store.claim("stranger", hour(1), lease_seconds=LEASE, adapter="c") is None, promise
        for adapter in ("a", "b", ""):
            lease = await claimed(store, adapter=adapter)
            assert (lease.job.id, lease.slice) == (jobs[adapter].id, a_slice(0)), promise
            assert await store.claim("w", NOW, lease_seconds=LEASE, adapter=adapter) is None, promise

    async def test_a_lease_is_judged_by_its_own_length(self, store: JobStore) -> None:
        """A process with shorter leases does not mistake a longer one for the trace of a clock that was set back."""
        await added(store)
        lease = await claimed(store)
        promise = "a lease is judged by its own length, not by that of the claimer"
        assert await store.claim("hasty", NOW, lease_seconds=LEASE / 100) is None, promise
        assert await store.renew(lease, NOW, lease_seconds=LEASE * 10, done=0), "the holder of a lease can renew it"
        assert await store.claim("hasty", NOW, lease_seconds=LEASE / 100) is None, promise

    async def test_a_new_job_is_given_out_to_be_planned(self, store: JobStore) -> None:
        """Law 18: the first attempt is 1."""
        job = await added(store)
        lease = await claimed(store, "worker 'ä'")
        assert (lease.job, lease.slice) == (job, None), "a queued job is given out to be planned"
        assert (lease.attempt, lease.worker) == (1, "worker 'ä'"), "a lease names its holder, and the first attempt is 1"
        assert await idle(store), "work that is held is not given out"

    async def test_a_plan_makes_the_job_run(self, store: JobStore) -> None:
        """Law 5: plan and codec are written once."""
        job = await added(store)
        lease = await claimed(store)
        slices = [a_slice(number, range_=text, estimate=number + 1) for number, text in enumerate(ODD)]
        assert await store.plan(lease, CUT, Codec.PLAIN, slices, hour(1)), "the holder of a job's planning can plan it"
        now = await found(store, job)
        assert (now.state, now.changed_at) == (JobState.RUNNING, hour(1)), "a planned job runs, from the instant of its plan"
        assert (now.cut, now.codec, now.estimate) == (CUT, Codec.PLAIN, 45), "a planned job knows cut, codec and estimate"
        assert now.revision == job.revision + 1, "a change of state adds one to the revision"
        assert not await store.plan(lease, hour(2), Codec.GZIP, [], hour(2)), "a plan is written once"
        assert await found(store, job) == now, "a plan is written once"
        leases = [await claimed(store) for _ in slices]
        assert [lease.slice for lease in leases] == slices, "slices are given out as they were planned, first ones first"
        assert all(lease.job == now for lease in leases), "a lease has the job as it is"
        assert await idle(store), "each slice is given out once"

    @pytest.mark.parametrize("codec", Codec)
    async def test_a_job_keeps_the_codec_of_its_plan(self, store: JobStore, codec: Codec) -> None:
        """Law 5: a job that was planned by one process is finished by another, with the same bytes."""
        job = await added(store)
        assert await store.plan(await claimed(store), CUT, codec, [a_slice(0)], hour(1)), "a queued job can be planned"
        assert (await found(store, job)).codec is codec, "a job keeps the codec of its plan"
        assert (await claimed(store)).job.codec is codec, "a lease has the codec of the plan"

    async def test_a_plan_may_bring_its_own_rows(self, store: JobStore) -> None:
        """Law 33: the members of a group are read when the cut is fixed."""
        principal = Principal(
            owner=OWNER,
            scopes=("system/*.rs", "".join(ODD)),
            expires_at=NOW,
            client_id="client",
            claims={"wards": ["7"]},
        )
        asked = Rows(
            Compartments(frozenset()), "ward=7", membership=Membership("g", principal, frozenset({"Patient/1"}), older=True)
        )
        await added(store, rows=asked)
        await added(store, rows=asked)
        for rows in (ROWS, None):
            lease = await claimed(store)
            assert lease.rows == asked, "rows come back as they were added, and no selection becomes another"
            membership = lease.rows.membership
            assert membership is not None
            assert membership.principal.claims == principal.claims, "rows come back as they were added"
            assert await store.plan(lease, CUT, Codec.PLAIN, [a_slice(0), a_slice(1)], NOW, rows=rows)
            for _ in range(2):
                planned_rows = (await claimed(store)).rows
                assert planned_rows == (rows or asked), "a plan's rows take the place of the job's, for each later lease"

    async def test_a_plan_without_slices_completes_the_job(self, store: JobStore) -> None:
        """An empty export is a result."""
        await added(store)
        job = await planned(store, [])
        assert (job.state, job.cut) == (JobState.COMPLETED, CUT), "a plan without slices completes the job"
        assert await idle(store, hour(9)), "a completed job has no work"

    async def test_each_piece_of_work_is_given_out_once(self, store: JobStore) -> None:
        """However many workers ask."""
        await started(store, 7)
        await started(store, 5, a_job(OTHER))
        await added(store)

        async def claim(number: int) -> Lease | None:
            return await store.claim(f"worker {number}", NOW, lease_seconds=LEASE)

        leases = [lease for lease in await together(40, claim) if lease]
        places = {(lease.job.id, lease.slice.number if lease.slice else None) for lease in leases}
        assert len(leases) == len(places) == 13, "each piece of work is given out once, however many ask at the same time"

    async def test_the_last_of_many_slices_completes_the_job(self, store: JobStore) -> None:
        """Exactly once, also if all end at the same time."""
        job = await started(store, 8)
        leases = [await claimed(store) for _ in range(8)]
        for lease in leases[1:]:
            await store.checkpoint(lease, [], None, NOW, done=3, finished=False)
            assert (await found(store, job)).state is JobState.RUNNING, "a job runs until its last slice is finished"
        done = await together(8, lambda n: store.checkpoint(leases[n], [a_part(job, n, 0)], None, hour(2), done=4, finished=True))
        assert all(done), "a holder can finish its slice"
        assert done.count(Recorded.COMPLETED) == 1, "exactly one checkpoint says that it completed the job"
        ended = await found(store, job)
        assert (ended.state, ended.changed_at) == (JobState.COMPLETED, hour(2)), "the last slice completes the job"
        assert ended.revision == job.revision + 1, "a job completes once"
        assert ended.done == 32, "the slices' resources add up"
        assert len(await sealed(store, job)) == 8, "a completed job has the parts of all its slices"
        assert await idle(store, hour(9)), "a finished slice is not given out again"

    async def test_the_first_unfinished_slice_is_known(self, store: JobStore) -> None:
        """Law 20."""
        promise = "unfinished names the first slice that is not finished"
        job = await started(store, 3)
        assert (await standing(store, job)).unfinished == 0, promise
        leases = [await claimed(store) for _ in range(3)]
        by_number = {lease.slice.number: lease for lease in leases if lease.slice is not None}
        for number, first in ((1, 0), (0, 2), (2, None)):
            await store.checkpoint(by_number[number], (), None, NOW, done=0, finished=True)
            assert (await standing(store, job)).unfinished == first, promise

    async def test_a_slice_goes_on_where_its_checkpoint_was(self, store: JobStore) -> None:
        """A retry does not repeat sealed parts."""
        job = await started(store)
        lease = await claimed(store)
        for number, cursor in enumerate(["first", "".join(ODD)]):
            assert await store.checkpoint(lease, [a_part(job, 0, number)], cursor, NOW, done=5, finished=False)
        await store.release(lease, "stopped")
        again = await claimed(store)
        assert again.slice is not None, "a slice that was given back is given out again"
        assert again.slice.cursor == "".join(ODD), "parts are recorded together with the cursor after them"
        assert again.slice.parts == 2, "a slice knows how many of its parts are sealed"
        assert again.attempt == 2, "each time that work is given out its attempt is one more"

    async def test_a_lease_holds_until_it_runs_out(self, store: JobStore) -> None:
        """And no longer."""
        await started(store)
        lease = await claimed(store)
        assert await idle(store, after(NOW, LEASE - 1)), "a lease that has not run out is nobody else's"
        again = await claimed(store, "second", after(NOW, LEASE))
        assert again.slice == lease.slice, "work whose lease has run out is given out again"
        assert again.attempt == 2, "each time that work is given out its attempt is one more"

    async def test_renewing_keeps_a_lease(self, store: JobStore) -> None:
        """Renewals run beside the work."""
        await started(store)
        lease = await claimed(store)
        for beat in range(1, 6):
            now = after(NOW, beat * LEASE / 2)
            assert await store.renew(lease, now, lease_seconds=LEASE, done=beat), "a holder can renew its lease"
            assert await idle(store, after(now, LEASE - 1)), "a renewed lease holds from then on"

    async def test_a_clock_set_back_does_not_hold_work_for_ever(self, store: JobStore) -> None:
        """A lease that ends too far ahead counts as run out."""
        await started(store)
        lease = await claimed(store, now=hour(24))
        again = await claimed(store, "second", NOW)
        assert again.attempt == 2, "work whose lease ends further ahead than a lease can is given out again"
        assert not await store.renew(lease, NOW, lease_seconds=LEASE, done=1), "the lease that it replaces is lost"

    async def test_clocks_a_little_apart_take_no_work_away(self, store: JobStore) -> None:
        """A claimer reads its clock before it waits for its turn to write."""
        await started(store)
        await claimed(store, now=after(NOW, 2))
        assert await idle(store, NOW), "a lease given by a clock a little ahead is no sign of a clock that was set back"

    @pytest.mark.parametrize("slices", [0, 1])
    async def test_a_lost_lease_publishes_nothing(self, store: JobStore, slices: int) -> None:
        """Law 18: a worker that was paused for an hour writes nothing."""
        job = await (started(store, slices) if slices else added(store))
        zombie = await claimed(store)
        current = await claimed(store, "second", hour(1))
        before = await found(store, job)
        assert not any(await writes(store, zombie)), "a holder whose lease was given on publishes nothing: each write is False"
        await store.release(zombie, "late")
        assert await found(store, job) == before, "a holder whose lease was given on publishes nothing: the job is as it was"
        assert await sealed(store, job) == [], "a holder whose lease was given on publishes nothing: no part"
        assert await store.renew(current, hour(1), lease_seconds=LEASE, done=0), "a lost lease cannot take the current one away"
        await store.release(current, "stopped")
        assert (await claimed(store, now=hour(1))).slice == current.slice, "a lost lease leaves the slice's cursor alone"

    async def test_the_same_worker_is_fenced_from_its_own_past(self, store: JobStore) -> None:
        """Law 18: the attempt counts, not the name."""
        await started(store)
        zombie = await claimed(store)
        await claimed(store, now=hour(1))
        assert not any(await writes(store, zombie)), "the attempt decides whether a lease is current, not the worker's name"
        await store.release(zombie, "late")
        assert await idle(store, hour(1)), "the attempt decides whether a lease can be given back, not the worker's name"

    async def test_a_lease_is_good_for_its_own_work_only(self, store: JobStore) -> None:
        """Law 5: a plan is never changed."""
        job = await added(store)
        planning = await claimed(store)
        assert not await store.checkpoint(planning, [], "c", NOW, done=1, finished=True), "the holder of a planning ends no slice"
        assert await found(store, job) == job, "the holder of a planning ends no slice"
        await store.plan(planning, CUT, Codec.GZIP, [a_slice(0)], NOW)
        exporting = await claimed(store)
        before = await found(store, job)
        assert not await store.plan(exporting, CUT, Codec.PLAIN, [a_slice(1)], NOW), "the holder of a slice plans nothing"
        assert await found(store, job) == before, "the holder of a slice plans nothing"

    async def test_work_given_back_is_free_at_once(self, store: JobStore) -> None:
        """Without waiting for the lease to run out."""
        await started(store)
        lease = await claimed(store)
        await store.release(lease, "stopped")
        assert not any(await writes(store, lease)), "a lease that was given back publishes nothing"
        assert (await claimed(store, "second")).attempt == 2, "work that was given back is given out again at once"

    async def test_what_a_gone_worker_held_is_free_at_once(self, store: JobStore) -> None:
        """Only what it held."""
        await started(store, 3)
        gone = [await claimed(store, "gone") for _ in range(2)]
        other = await claimed(store, "here")
        await store.release("gone", "worker gone is gone")
        assert not any([*await writes(store, gone[0]), *await writes(store, gone[1])]), "a gone worker's leases are lost"
        assert await store.renew(other, NOW, lease_seconds=LEASE, done=0), "the leases of others are not touched"
        again = [(await claimed(store, "third")).slice for _ in range(2)]
        assert again == [lease.slice for lease in gone], "all that a gone worker held is given out again at once"
        assert await idle(store), "only what the gone worker held is given out again"

    @pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
    async def test_after_a_job_has_ended_nobody_writes(self, store: JobStore, state: JobState) -> None:
        """DL-01: no byte can be seen after a cancel was answered."""
        job = await started(store, 3)
        leases = [await claimed(store) for _ in range(2)]
        failed = job.failed(Failure(Reason.FAULT, "broken"), NOW)
        assert await store.replace(job.cancelled(NOW) if state is JobState.CANCELLED else failed), "a running job can be ended"
        before = await found(store, job)
        for lease in leases:
            assert not any(await writes(store, lease)), "after a job has ended no lease on it writes any more"
        assert await found(store, job) == before, "after a job has ended no lease on it writes any more"
        assert await sealed(store, job) == [], "after a job has ended no part is recorded"
        assert await idle(store, hour(9)), "a job that has ended has no work"

    async def test_a_cancel_before_the_plan_stops_it(self, store: JobStore) -> None:
        """DL-01."""
        job = await added(store)
        lease = await claimed(store)
        await store.replace(job.cancelled(NOW))
        assert not any(await writes(store, lease)), "after a job has ended no lease on it writes any more, nor plans it"
        assert (await found(store, job)).state is JobState.CANCELLED, "a cancelled job stays cancelled"

    async def test_cancel_and_last_checkpoint_do_not_both_win(self, store: JobStore) -> None:
        """DL-14: the loser changes nothing."""
        for first in [0, 1] * 4:
            await started(store)
            lease = await claimed(store)

            async def end(number: int, lease: Lease = lease, first: int = first) -> bool:
                if number == first:
                    return await store.replace(lease.job.cancelled(NOW))
                return bool(await store.checkpoint(lease, [], None, NOW, done=1, finished=True))

            won = await together(2, end)
            assert sum(won) == 1, "of a cancel and the last checkpoint exactly one wins"

    async def test_an_estimate_corrects_itself_as_slices_end(self, store: JobStore) -> None:
        """ST-03: progress is honest."""
        job = await started(store, 2)
        guessed = job.estimate
        first, second = [await claimed(store) for _ in range(2)]
        await store.checkpoint(first, [], None, NOW, done=7, finished=True)
        half = guessed - (first.slice.estimate if first.slice else 0) + 7
        assert (await found(store, job)).estimate == half, "an estimate corrects itself as slices end"
        await store.checkpoint(second, [], None, NOW, done=500, finished=True)
        ended = await found(store, job)
        assert ended.estimate == ended.done == 507, "at the end the estimate is what was read"

    async def test_progress_adds_up_and_never_falls(self, store: JobStore) -> None:
        """ST-04: a client sees how far its export is."""
        job = await started(store, 2)
        first, second = await claimed(store), await claimed(store)
        seen = []

        async def done(lease: Lease, count: int) -> None:
            await store.renew(lease, NOW, lease_seconds=LEASE, done=count)
            seen.append((await found(store, job)).done)

        for lease, count in [(first, 10), (second, 5), (first, 20), (second, 5), (first, 15)]:
            await done(lease, count)
        assert seen == [10, 15, 25, 25, 25], "done adds up over the slices and never falls"

    async def test_a_slice_that_starts_over_is_not_counted_twice(self, store: JobStore) -> None:
        """Law 18: each slice counts once."""
        job = await started(store)
        lease = await claimed(store)
        await store.renew(lease, NOW, lease_seconds=LEASE, done=30)
        await store.release(lease, "stopped")
        again = await claimed(store)
        await store.renew(again, NOW, lease_seconds=LEASE, done=10)
        assert (await found(store, job)).done == 30, "done does not fall when a slice starts over, nor counts it twice"
        await store.checkpoint(again, [], "c", NOW, done=40, finished=False)
        assert (await found(store, job)).done == 40, "done counts each resource of a slice once, however often it was read"
        await store.checkpoint(again, [], "d", NOW, done=40, finished=True)
        assert (await found(store, job)).done == 40, "done counts each resource of a slice once, in whichever call it is said"

    @pytest.mark.parametrize("slices", [0, 1])
    async def test_a_lease_says_how_often_its_work_was_tried_and_why_in_vain(self, store: JobStore, slices: int) -> None:
        """A worker fails a job whose work was tried too often, and logs the cause; so every job ends."""
        job = await (started(store, slices) if slices else added(store))
        cause = None
        for attempt in range(1, 6):
            lease = await claimed(store)
            assert lease.attempt == attempt, "each time that work is given out its attempt is one more"
            assert lease.tries == attempt, "each time that work is given out its tries are one more"
            assert lease.cause == cause, "a lease has the cause for which the attempt before it ended"
            cause = f"disk /dev/sda on fire, {attempt}"
            await store.release(lease, cause)
        assert await found(store, job) == job, "a store fails no job"

    async def test_a_stop_that_was_asked_for_is_no_try(self, store: JobStore) -> None:
        """Deployments fail no job."""
        await started(store)
        for attempt in range(1, 5):
            lease = await claimed(store)
            assert (lease.attempt, lease.tries) == (attempt, 1), "a stop that was asked for is no try"
            await store.release(lease, "stopped", excused=True)
        await store.release(await claimed(store), "broken")
        assert (await claimed(store)).tries == 2, "an attempt that was not asked to stop is a try"

    async def test_an_attempt_that_came_further_begins_the_count_anew(self, store: JobStore) -> None:
        """A slice with many parts may fail often; one without progress is given up."""
        job = await started(store)
        for number in range(4):
            lease = await claimed(store)
            assert lease.tries == min(number + 1, 2), "an attempt that recorded a part begins the count anew"
            assert await store.checkpoint(lease, [a_part(job, 0, number)], str(number), NOW, done=number, finished=False)
            await store.release(lease, "broken")
        for tries in (2, 3):
            lease = await claimed(store)
            assert await store.checkpoint(lease, [], "c", NOW, done=9, finished=False), "a holder can record its cursor"
            assert lease.tries == tries, "an attempt that recorded no part is a try"
            await store.release(lease, "broken")

    async def test_silence_is_a_try_too(self, store: JobStore) -> None:
        """Work that kills its workers must not kill all of them."""
        await started(store)
        for attempt in range(4):
            lease = await claimed(store, "unlucky", hour(attempt))
            assert lease.tries == attempt + 1, "an attempt whose lease ran out is a try"
            assert attempt == 0 or "unlucky" in (lease.cause or ""), "the cause names the worker that fell silent"

    async def test_the_end_of_a_worker_is_the_cause_that_is_kept(self, store: JobStore) -> None:
        """Law 43: as the pool saw it."""
        await started(store, 2)
        for tries in (1, 2):
            for _ in range(2):
                assert (await claimed(store, "unlucky")).tries == tries, "the end of a worker is a try"
            await store.release("unlucky", "worker unlucky was ended by SIGSEGV")
        for _ in range(2):
            kept = (await claimed(store)).cause
            assert kept == "worker unlucky was ended by SIGSEGV", "the cause of a worker's end is kept for the operator"

    async def test_owners_take_turns(self, store: JobStore) -> None:
        """Law 10: an owner with many jobs does not keep the others waiting."""
        third = Owner(OWNER.issuer, "client-3")
        for owner in (OWNER, OWNER, OWNER, OTHER, third):
            await added(store, a_job(owner))
        for lease in [await claimed(store) for _ in range(5)]:
            slices = 4 if lease.job.owner == OWNER else 2
            await store.plan(lease, CUT, Codec.GZIP, [a_slice(number) for number in range(slices)], NOW)
        served = [(await claimed(store)).job.owner for _ in range(8)]
        for turn in (served[:3], served[3:6]):
            assert len(set(turn)) == 3, "owners take turns, however many jobs each has"
        assert served[6:] == [OWNER, OWNER], "an owner alone with work need not wait for the others"

    async def test_an_owners_oldest_job_comes_first(self, store: JobStore) -> None:
        """In whichever order they were added."""
        jobs = [await added(store, a_job(at=hour(h))) for h in (2, 0, 1)]
        given = [(await claimed(store)).job for _ in jobs]
        assert given == [jobs[1], jobs[2], jobs[0]], "within an owner the oldest job comes first"
