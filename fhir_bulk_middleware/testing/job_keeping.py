"""The promises of a `JobStore` to requests, as tests: jobs are kept, found, replaced and limited."""

from dataclasses import replace

import anyio

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Failure, FileKind, Idempotency, Job, JobKind, JobState, Request, Standing
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Level, Rows, Window
from fhir_bulk_middleware.contract.registration import Registration
from fhir_bulk_middleware.identifiers import file_id, new_job_id
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    LEASE,
    MOUNT,
    NOW,
    ODD,
    OTHER,
    OWNER,
    ROWS,
    Suite,
    a_job,
    a_part,
    a_registration,
    a_slice,
    added,
    claimed,
    found,
    hour,
    planned,
    sealed,
    started,
    together,
)
from fhir_bulk_middleware.testing.needed import pytest

__all__ = ["JobKeepingSuite"]

_SELECTIONS = (
    Everything(),
    EveryPatient(),
    Compartments(frozenset()),
    Compartments(frozenset(ODD)),
    Compartments(frozenset(f"Patient/{number}" for number in range(5_000))),
)


def _filled(text: str) -> Job:
    """A job with `text` in each field of free text, and no field left at its default."""
    request = Request(
        url=f"https://ehr.example/{text}",
        level=Level.PATIENT,
        types=(text, "Patient"),
        window=Window(Instant(1), Instant(2**53 + 1)),
        retention=0.25,
        precision=Precision.MICROSECONDS,
    )
    owner = Owner(f"{text}issuer", f"subject{text}")
    return Job(
        id=new_job_id(), mount=text, adapter=f"{text}adapter", owner=owner, request=request, created_at=NOW, changed_at=hour(1)
    )


async def _standing(store: JobStore, job: Job) -> Standing:
    standing = await store.standing(job.id, job.mount, job.owner)
    assert standing is not None, "a job is found as it stands"
    return standing


class _RefusedError(Exception):
    """Raised by `admit` in `register`."""


class JobKeepingSuite(Suite):
    """How a `JobStore` keeps jobs and registrations."""

    @pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
    async def test_a_job_is_found_as_it_was_added(self, store: JobStore, text: str) -> None:
        """Law 8: the request is frozen."""
        job = await added(store, _filled(text))
        assert await store.find(job.id, job.mount, job.owner) == job, "a job comes back as it was added, character by character"

    @pytest.mark.parametrize("level", Level)
    @pytest.mark.parametrize("precision", Precision)
    async def test_a_request_keeps_its_level_and_precision(self, store: JobStore, level: Level, precision: Precision) -> None:
        """Law 1: the cut is taken at the precision that was frozen."""
        job = a_job()
        job = replace(job, request=replace(job.request, level=level, precision=precision, window=Window()))
        await added(store, job)
        assert await found(store, job) == job, "a job comes back as it was added: level, precision and an open window too"

    @pytest.mark.parametrize("selection", _SELECTIONS, ids=range(len(_SELECTIONS)))
    async def test_rows_reach_the_worker_as_they_were_added(
        self, store: JobStore, selection: Everything | EveryPatient | Compartments
    ) -> None:
        """Law 8; an empty selection stays empty."""
        rows = Rows(selection, "".join(ODD))
        await added(store, rows=rows)
        assert (await claimed(store)).rows == rows, "rows come back as they were added, and no selection becomes another"

    async def test_a_remove_all_keeps_its_kind_and_what_it_froze(self, store: JobStore) -> None:
        """Law 26: ids and versions are fixed at kick-off, in order."""
        job = a_job()
        job = replace(job, request=replace(job.request, kind=JobKind.REMOVE_ALL))
        versions = tuple((f"o-{number}", f"v.{number}") for number in range(3_000, 0, -1))
        await added(store, job, replace(ROWS, versions=versions))
        assert await found(store, job) == job, "a job keeps its kind"
        assert (await claimed(store)).rows.versions == versions, "a job keeps the versions that it froze, in order"

    @pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
    async def test_parts_come_back_as_they_were_recorded(self, store: JobStore, text: str) -> None:
        """Law 5: a manifest describes a file as it was sealed."""
        job = await started(store)
        gzip = a_part(job, 0, 0, text=text)
        plain = replace(
            a_part(job, 0, 1, text=text), codec=Codec.PLAIN, flush_points=(), kind=FileKind.ERROR, count=0, continued_in=None
        )
        await store.checkpoint(await claimed(store), [gzip, plain], None, NOW, done=1, finished=True)
        assert await sealed(store, job) == [gzip, plain], "parts come back as they were recorded"
        one = await store.standing(job.id, job.mount, job.owner, file_id=plain.file_id)
        assert one == replace(await _standing(store, job), parts=(plain,), slices=0), "a part comes back as it was recorded"

    async def test_parts_stand_by_slice_and_number(self, store: JobStore) -> None:
        """In whichever order they were sealed."""
        job = await started(store, 12)
        for lease in reversed([await claimed(store) for _ in range(12)]):
            assert lease.slice is not None, "a planned job has slices to export"
            parts = [a_part(job, lease.slice.number, number) for number in range(11)]
            await store.checkpoint(lease, parts, None, NOW, done=1, finished=True)
        places = [(part.slice, part.number) for part in await sealed(store, job)]
        assert places == [(s, n) for s in range(12) for n in range(11)], "parts stand by slice and number, as numbers"

    async def test_a_job_stands_as_of_one_instant(self, store: JobStore) -> None:
        """Law 35: job, parts and progress of its plan together."""
        job = await started(store, 2)
        await store.checkpoint(await claimed(store), [a_part(job, 0, 0)], None, NOW, done=1, finished=True)
        standing = await _standing(store, job)
        expected = Standing(await found(store, job), (a_part(job, 0, 0),), 1, 2)
        assert standing == expected, "a standing is the job, its parts and how far its plan is done"
        assert await store.standing(job.id, job.mount, OTHER) is None, "a standing is its owner's alone"
        assert await store.standing(job.id, "/other", job.owner) is None, "a standing answers through its mount only"
        assert await store.standing(new_job_id(), job.mount, job.owner) is None, "an unknown id has no standing"
        assert await store.replace((await found(store, job)).cancelled(NOW)), "a job can be cancelled"
        await store.reclaimed(job.id)
        again = await store.standing(job.id, job.mount, job.owner)
        assert again is not None, "a cancelled job still stands"
        assert (again.job.state, again.parts) == (JobState.CANCELLED, ()), "a standing is that of now"

    async def test_a_standing_never_lists_less_than_its_state_says(self, store: JobStore) -> None:
        """Law 35: also if a cancel and a sweep come between its reads."""
        for _ in range(20):
            job = await started(store)
            await store.checkpoint(await claimed(store), [a_part(job, 0, 0)], None, NOW, done=1, finished=True)
            whole = await found(store, job)
            seen: list[Standing | None] = []

            async def end(whole: Job = whole) -> None:
                await store.replace(whole.cancelled(NOW))
                await store.reclaimed(whole.id)

            async def look(job: Job = job, seen: list[Standing | None] = seen) -> None:
                seen.extend([await store.standing(job.id, job.mount, job.owner) for _ in range(10)])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
                tasks.start_soon(end)
            for standing in seen:
                assert standing is not None, "a cancelled job still stands"
                assert standing.parts or standing.job.state is JobState.CANCELLED, "a completed job stands with all its parts"

    async def test_a_part_is_found_in_its_own_job_only(self, store: JobStore) -> None:
        """Law 7: an id of one job opens nothing in another."""
        job = await started(store)
        await store.checkpoint(await claimed(store), [a_part(job, 0, 0)], None, NOW, done=1, finished=True)
        other = await added(store, a_job(OTHER))
        for asked, promise in (
            (replace(job, id=other.id, owner=other.owner), "a file id is good in its own job only"),
            (job, "a file id that was never given is unknown"),
        ):
            unknown = file_id(job.id, 0, 0 if asked is not job else 1)
            one = await store.standing(asked.id, asked.mount, asked.owner, file_id=unknown)
            assert one is not None, "a job stands whether it has the file or not"
            assert one.parts == (), promise
        mine = file_id(job.id, 0, 0)
        assert await store.standing(job.id, job.mount, OTHER, file_id=mine) is None, "a standing is its owner's alone"
        assert await sealed(store, other) == [], "a job without sealed parts has none"

    @pytest.mark.parametrize(
        "stranger",
        [
            OTHER,
            Owner("https://other.example", OWNER.subject),
            Owner(OWNER.subject, OWNER.issuer),
            Owner(OWNER.issuer.upper(), OWNER.subject),
            Owner(OWNER.issuer, OWNER.subject + " "),
            Owner(OWNER.issuer, OWNER.subject + "\x00"),
            Owner(OWNER.issuer, OWNER.subject, "another client of the same subject"),
            Owner("%", "%"),
            Owner("", ""),
        ],
        ids=str,
    )
    async def test_a_job_is_its_owners_alone(self, store: JobStore, stranger: Owner) -> None:
        """Law 7."""
        job = await added(store)
        assert await store.find(job.id, MOUNT, stranger) is None, "find gives a job only to its owner, issuer and subject"

    async def test_a_job_of_one_client_is_not_that_of_another(self, store: JobStore) -> None:
        """Law 7, where the client is a part of ownership; limits and keys count by the same owner."""
        mine, theirs = (replace(OWNER, client=client) for client in ("app-1", "app-2"))
        job = await added(store, a_job(mine))
        assert await store.find(job.id, MOUNT, mine) == job, "a job comes back as it was added, its owner's client too"
        for stranger in (theirs, OWNER, replace(OWNER, client="APP-1")):
            assert await store.find(job.id, MOUNT, stranger) is None, "find gives a job only to its owner, the client included"
        other = a_job(theirs)
        assert await store.add(other, ROWS, working_at_most=1) == other, "each owner has its own limit of jobs"
        assert await store.add(a_job(theirs), ROWS, working_at_most=1) is None, "each owner has its own limit of jobs"

    async def test_a_job_answers_through_its_mount_only(self, store: JobStore) -> None:
        """Law 10."""
        job = await added(store)
        assert await store.find(job.id, "/other", OWNER) is None, "find gives a job only through the mount that made it"

    async def test_an_id_that_never_was_is_unknown(self, store: JobStore) -> None:
        """Law 11."""
        await added(store)
        unknown = new_job_id()
        assert await store.find(unknown, MOUNT, OWNER) is None, "an unknown id finds nothing"
        assert await store.standing(unknown, MOUNT, OWNER) is None, "an unknown id has no standing"

    async def test_an_owner_has_so_many_jobs_at_once(self, store: JobStore) -> None:
        """KO-113; mounts share limits (law 10)."""
        first = a_job()
        assert await store.add(first, Rows(Everything()), working_at_most=2), "the first job is below the limit"
        assert await store.add(a_job(mount="/other"), Rows(Everything()), working_at_most=2), "the second reaches the limit"
        third = a_job()
        assert not await store.add(third, Rows(Everything()), working_at_most=2), "an owner's queued jobs count to the limit"
        assert await store.find(third.id, MOUNT, OWNER) is None, "a job above the limit is not kept"
        assert await store.add(a_job(OTHER), Rows(Everything()), working_at_most=2), "jobs of others do not count to the limit"
        await planned(store, [a_slice(0)])
        assert not await store.add(third, Rows(Everything()), working_at_most=2), "an owner's running jobs count to the limit"
        assert await store.replace((await found(store, first)).cancelled(NOW)), "a job can be cancelled"
        assert await store.add(third, Rows(Everything()), working_at_most=2), "jobs that ended do not count to the limit"

    async def test_the_limit_is_an_adapters_own(self, store: JobStore) -> None:
        """Law 32: jobs of one adapter do not limit those of another."""
        assert await store.add(a_job(adapter="a"), ROWS, working_at_most=1), "the first job is below the limit"
        assert await store.add(a_job(adapter="b"), ROWS, working_at_most=1), "jobs of another adapter do not count to the limit"
        assert not await store.add(a_job(adapter="a"), ROWS, working_at_most=1), "an owner's queued jobs count to the limit"

    async def test_a_store_keeps_its_id(self, store: JobStore) -> None:
        """Law 32: output stores are bound to it."""
        first = (await store.registry()).store_id
        assert len(first) >= 16, "a store's id is long enough to be its own"
        assert (await store.registry()).store_id == first, "a store keeps its id"

    async def test_registrations_stand_there_by_mount(self, store: JobStore) -> None:
        """Law 32; a restart registers again."""
        untold = replace(a_registration("a", adapter="".join(ODD)), audiences=None, named=False, settings={})
        seen: list[list[Registration]] = []
        for registration in (a_registration("b"), untold, a_registration("b", adapter="other")):
            await store.register(registration, lambda standing: seen.append(list(standing)))
        promise = "registrations stand there as they were given, by mount, the last of each"
        assert (await store.registry()).registrations == (untold, a_registration("b", adapter="other")), promise
        assert seen == [[], [a_registration("b")], [untold, a_registration("b")]], "who registers is shown what stands there"

    async def test_a_registration_that_is_not_admitted_is_not_kept(self, store: JobStore) -> None:
        """Law 32."""
        promise = "what the look at a store's registrations raises passes, and nothing is kept"

        def refuse(_: object) -> None:
            raise _RefusedError

        await store.register(a_registration("a"), lambda _: None)
        try:
            await store.register(a_registration("b"), refuse)
        except _RefusedError:
            pass
        else:
            raise AssertionError(promise)
        assert (await store.registry()).registrations == (a_registration("a"),), promise

    async def test_of_several_who_register_at_once_each_sees_those_before_it(self, store: JobStore) -> None:
        """Law 32: two owners that start together must not both be the first."""
        seen: list[int] = []
        names = [a_registration(str(number)) for number in range(8)]
        await together(8, lambda number: store.register(names[number], lambda standing: seen.append(len(standing))))
        assert sorted(seen) == list(range(8)), "a look and its registration are one step"

    async def test_the_limit_holds_for_requests_at_the_same_time(self, store: JobStore) -> None:
        """KO-113."""
        kept = await together(20, lambda _: store.add(a_job(), Rows(Everything()), working_at_most=5))
        assert sum(job is not None for job in kept) == 5, "the limit holds also for kick-offs at the same time"

    async def test_the_same_idempotency_key_comes_to_the_same_job_while_it_lives(self, store: JobStore) -> None:
        """Law 12."""
        promise = "the same key comes to the same job"
        keyed = replace(a_job(), idempotency=Idempotency("key", "a"))
        again = replace(a_job(), idempotency=Idempotency("key", "b"))
        rows = Rows(Everything())
        assert await store.add(keyed, rows, working_at_most=1) == keyed, promise
        assert await store.add(again, rows, working_at_most=1) == keyed, promise
        assert await store.find(again.id, MOUNT, OWNER) is None, f"{promise}, and keeps no other"
        for other in (
            replace(a_job(OTHER), idempotency=keyed.idempotency),
            replace(a_job(mount="/other"), idempotency=keyed.idempotency),
            replace(a_job(), idempotency=Idempotency("another key", "a")),
        ):
            assert await store.add(other, rows, working_at_most=9) == other, "a key belongs to an owner and a mount"
        assert await store.replace((await found(store, keyed)).cancelled(NOW)), "a job can be cancelled"
        assert await store.add(again, rows, working_at_most=9) == again, "a key dies with its job"

    async def test_replace_writes_what_it_is_given(self, store: JobStore) -> None:
        """ST-10."""
        job = await added(store)
        failed = job.failed(Failure(Reason.SERVICE_INACTIVE, "".join(ODD)), hour(1))
        failed = replace(failed, cut=CUT, codec=Codec.PLAIN, estimate=2**40, done=2**41)
        assert await store.replace(failed), "replace writes a job whose revision is the stored one"
        assert await found(store, job) == replace(failed, revision=job.revision + 1), (
            "replace writes state, times, counts and failure as given, and adds one to the revision"
        )

    async def test_replace_compares_the_revision(self, store: JobStore) -> None:
        """DL-14: a writer overwrites only the state that it has read."""
        job = await added(store)
        assert await store.replace(job.cancelled(NOW)), "replace writes a job whose revision is the stored one"
        before = await found(store, job)
        assert not await store.replace(job.expired(NOW)), "replace refuses a revision that is not the stored one"
        assert await found(store, job) == before, "a replace that is refused changes nothing"
        assert not await store.replace(a_job()), "replace refuses a job that is not there"

    async def test_one_of_many_writers_wins(self, store: JobStore) -> None:
        """DL-14."""
        job = await added(store)
        won = await together(10, lambda number: store.replace(job.cancelled(hour(number))))
        assert sum(won) == 1, "of writers that read the same revision one wins: replace compares and sets in one step"

    async def test_progress_does_not_get_in_a_cancels_way(self, store: JobStore) -> None:
        """DL-01."""
        job = await started(store)
        lease = await claimed(store)
        await store.renew(lease, NOW, lease_seconds=LEASE, done=10)
        await store.checkpoint(lease, [a_part(job, 0, 0)], "c", NOW, done=20, finished=False)
        assert await store.replace(job.cancelled(NOW)), (
            "progress does not change the revision, so a cancel does not lose against it"
        )
        ended = await found(store, job)
        assert (ended.state, ended.done) == (JobState.CANCELLED, 20), "a write of the job does not take progress back"
