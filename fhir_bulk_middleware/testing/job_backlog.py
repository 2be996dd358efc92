"""The promises of a `SupportsBacklog`, as tests; for job stores that have it, beside `JobStoreSuite`."""

from fhir_bulk_middleware.contract.job_store import JobStore, SupportsBacklog
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.testing.job_values import LEASE, NOW, OTHER, Suite, a_job, added, claimed, found, hour, started

__all__ = ["JobBacklogSuite"]


async def _backlog(store: JobStore, now: Instant = NOW, at_most: int = 100, adapter: str = "") -> int:
    assert isinstance(store, SupportsBacklog), "the store has backlog"
    return await store.backlog(now, at_most, adapter=adapter)


class JobBacklogSuite(Suite):
    """The count of free work, of a job store that implements `SupportsBacklog`."""

    async def test_each_piece_that_a_worker_could_claim_is_counted(self, store: JobStore) -> None:
        """Jobs to plan and slices, of all owners, up to the limit."""
        assert await _backlog(store) == 0, "an empty store has no backlog"
        await started(store, 3)
        await added(store, a_job(OTHER, at=hour(1)))
        assert await _backlog(store) == 4, "a backlog is each slice and each job to plan"
        assert await _backlog(store, at_most=2) == 2, "a backlog is counted up to the limit"
        assert await _backlog(store, adapter="other") == 0, "a backlog is of one adapter"

    async def test_work_that_is_held_counts_when_its_lease_has_run_out(self, store: JobStore) -> None:
        """So that the work of a worker that was lost is given to another one."""
        job = await started(store, 2)
        lease = await claimed(store)
        assert await _backlog(store) == 1, "work that somebody holds is not in the backlog"
        assert await _backlog(store, Instant(NOW + round(LEASE * 1_000_000))) == 2, "work whose lease ran out is in the backlog"
        await store.release(lease, "given back")
        assert await _backlog(store) == 2, "work that was given back is in the backlog"
        assert await store.replace((await found(store, job)).cancelled(NOW))
        assert await _backlog(store) == 0, "a job that has ended has no backlog"
