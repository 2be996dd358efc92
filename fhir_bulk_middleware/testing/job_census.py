"""The promises of a `SupportsCensus` about its counts, as tests; for job stores that have it, beside `JobStoreSuite`."""

from dataclasses import replace

from fhir_bulk_middleware.contract.figures import Census, SupportsCensus
from fhir_bulk_middleware.contract.job import Job, Part
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.testing.job_values import (
    NOW,
    OTHER,
    Suite,
    a_job,
    a_part,
    a_slice,
    added,
    claimed,
    found,
    hour,
    planned,
    started,
)

__all__ = ["JobCensusSuite"]


async def _census(store: JobStore, adapter: str = "") -> Census:
    assert isinstance(store, SupportsCensus), "the store has census"
    return await store.census(adapter=adapter)


class JobCensusSuite(Suite):
    """The counts of a job store that implements `SupportsCensus`."""

    async def test_an_empty_store_has_no_jobs(self, store: JobStore) -> None:
        """And no oldest one."""
        nothing = Census(queued=0, running=0, oldest_queued=None, kept_bytes=0)
        assert await _census(store) == nothing, "an empty store counts no jobs and no bytes"

    async def test_jobs_are_counted_by_state_for_all_owners_and_mounts(self, store: JobStore) -> None:
        """The oldest is the one that was created first, not the one that was added first."""
        await added(store, a_job(at=hour(2)))
        oldest = await added(store, a_job(OTHER, at=hour(1)))
        await added(store, a_job(at=hour(3), mount="/other"))
        counted = await _census(store)
        assert (counted.queued, counted.running) == (3, 0), "a census counts the queued jobs of all owners and mounts"
        assert counted.oldest_queued == oldest.created_at, "oldest_queued is when the oldest queued job was created"
        assert await store.replace(oldest.cancelled(NOW))
        await planned(store, [a_slice(0)])
        counted = await _census(store)
        assert (counted.queued, counted.running) == (1, 1), "a census counts a planned job as running and an ended one not at all"
        assert counted.oldest_queued is not None
        assert counted.oldest_queued > oldest.created_at, "oldest_queued is of a job that is still queued"

    async def test_jobs_of_another_adapter_are_not_counted(self, store: JobStore) -> None:
        """Law 32."""
        job = await started(store)
        await store.checkpoint(await claimed(store), [a_part(job, 0, 0)], "c", NOW, done=1, finished=False)
        counted, of_other = await _census(store), await _census(store, "other")
        assert (counted.running, counted.kept_bytes > 0) == (1, True), job.id
        assert of_other == Census(queued=0, running=0, oldest_queued=None, kept_bytes=0), "a census is of one adapter"

    async def test_bytes_that_several_jobs_share_are_counted_once(self, store: JobStore) -> None:
        """As long as one of the jobs has them."""
        jobs: list[Job] = []
        parts: list[Part] = []
        for _ in range(3):
            jobs.append(await started(store))
            part = a_part(jobs[-1], 0, 0)
            parts.append(replace(part, source=parts[0].key) if parts else part)
            await store.checkpoint(await claimed(store), parts[-1:], "c", NOW, done=1, finished=False)
        promise = "bytes that several jobs share are counted once, until the last of them is reclaimed"
        for left, job in zip((1, 1, 0), jobs, strict=True):
            assert (await _census(store)).kept_bytes == parts[0].stored_size, promise
            assert await store.replace((await found(store, job)).cancelled(NOW)), "a running job can be ended"
            await store.reclaimed(job.id)
            assert (await _census(store)).kept_bytes == left * parts[0].stored_size, promise

    async def test_bytes_are_kept_until_they_are_reclaimed(self, store: JobStore) -> None:
        """A job that ended keeps its files until a sweep discards them."""
        job = await started(store)
        lease = await claimed(store)
        parts = [a_part(job, 0, 0), a_part(job, 0, 1)]
        size = sum(part.stored_size for part in parts)
        await store.checkpoint(lease, parts, "c", NOW, done=1, finished=False)
        assert (await _census(store)).kept_bytes == size, "kept_bytes are the stored sizes of all sealed parts"
        assert await store.replace((await found(store, job)).cancelled(NOW))
        assert (await _census(store)).kept_bytes == size, "the bytes of an ended job count until they are reclaimed"
        await store.reclaimed(job.id)
        assert (await _census(store)).kept_bytes == 0, "reclaimed bytes are not counted"
