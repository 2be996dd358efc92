from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace

import pytest
from jobs_of import EVERYTHING, MOUNT, OWNER, job
from listed import NOW, Listed, patient

from fhir_bulk_middleware.contract.job import Failure, Job, JobState
from fhir_bulk_middleware.contract.job_store import Due
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.testing.job_values import sealed

HOUR, DAY = 3600.0, 86_400.0
SETTINGS = Settings(retention=7 * DAY, tombstone_retention=30 * DAY, deadline=DAY)


@dataclass
class Archive:
    """Stores, and the time."""

    now: Instant = NOW
    jobs: MemoryJobStore = field(default_factory=MemoryJobStore)
    outputs: MemoryOutputStore = field(default_factory=MemoryOutputStore)

    async def add(self) -> Job:
        made = job("Patient", created_at=self.now)
        assert await self.jobs.add(made, Rows(EVERYTHING), working_at_most=1000)
        return made

    async def completed(self) -> Job:
        made = await self.add()
        work = job_work(Listed({"Patient": [patient("1")]}), self.jobs, self.outputs, SETTINGS, lambda: self.now)
        while await work.step("worker"):
            pass
        assert await self.state(made) is JobState.COMPLETED
        return made

    async def cancel(self, made: Job) -> None:
        found = await self.jobs.find(made.id, MOUNT, OWNER)
        assert found is not None
        assert await self.jobs.replace(found.cancelled(self.now))

    async def state(self, made: Job) -> JobState | None:
        found = await self.jobs.find(made.id, MOUNT, OWNER)
        return None if found is None else found.state

    async def folders(self) -> set[str]:
        return {job_id async for job_id in self.outputs.jobs()}

    async def sweep(self, *, later: float = 0) -> None:
        self.now = after(self.now, later)
        await Retention(self.jobs, self.outputs, SETTINGS, lambda: self.now).sweep()

    async def put(self, job_id: str) -> None:
        async with self.outputs.create(f"{job_id}/0-0.1.ndjson") as sink:
            await sink.seal()


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.mark.anyio
async def test_a_completed_job_keeps_its_files_until_its_retention_is_over(archive: Archive) -> None:
    made = await archive.completed()
    await archive.sweep(later=7 * DAY - 1)
    assert (await archive.state(made), await archive.folders()) == (JobState.COMPLETED, {made.id})
    await archive.sweep(later=1)
    assert (await archive.state(made), await archive.folders()) == (JobState.EXPIRED, set())
    assert await sealed(archive.jobs, made) == []


@pytest.mark.anyio
async def test_a_job_that_takes_too_long_fails(archive: Archive) -> None:
    made = await archive.add()
    await archive.sweep(later=DAY)
    assert await archive.state(made) is JobState.QUEUED
    await archive.sweep(later=1)
    assert await archive.state(made) is JobState.FAILED
    assert await archive.jobs.claim("worker", archive.now, lease_seconds=30) is None


@pytest.mark.anyio
async def test_a_failed_job_expires_too_but_its_files_go_at_once(archive: Archive) -> None:
    made = await archive.add()
    await archive.put(made.id)
    await archive.sweep(later=DAY + 1)
    assert (await archive.state(made), await archive.folders()) == (JobState.FAILED, set())
    await archive.sweep(later=7 * DAY + 1)
    assert await archive.state(made) is JobState.EXPIRED


@pytest.mark.anyio
async def test_the_files_of_a_cancelled_job_go_at_once_and_its_id_is_remembered(archive: Archive) -> None:
    made = await archive.completed()
    await archive.cancel(made)
    await archive.sweep()
    assert (await archive.state(made), await archive.folders()) == (JobState.CANCELLED, set())
    await archive.sweep(later=30 * DAY)
    assert await archive.state(made) is JobState.CANCELLED


@pytest.mark.anyio
async def test_after_its_tombstones_time_an_id_is_as_one_that_never_was(archive: Archive) -> None:
    cancelled, expired = await archive.completed(), await archive.completed()
    await archive.cancel(cancelled)
    await archive.sweep(later=7 * DAY + 1)
    await archive.sweep(later=30 * DAY + 1)
    assert (await archive.state(cancelled), await archive.state(expired)) == (None, None)


@pytest.mark.anyio
async def test_leftovers_of_jobs_that_nobody_knows_go_and_those_of_others_stay(archive: Archive) -> None:
    completed, queued, stranger = await archive.completed(), await archive.add(), new_job_id()
    for job_id in (queued.id, completed.id, stranger):
        await archive.put(job_id)
    await archive.sweep()
    assert await archive.folders() == {queued.id, completed.id}


@pytest.mark.anyio
async def test_what_a_late_worker_puts_down_after_the_files_were_given_back_goes_too(archive: Archive) -> None:
    made = await archive.completed()
    await archive.cancel(made)
    await archive.sweep()
    await archive.put(made.id)
    await archive.sweep()
    assert await archive.folders() == set()


@pytest.mark.anyio
async def test_any_number_of_jobs_is_swept(archive: Archive) -> None:
    made = [await archive.add() for _ in range(250)]
    for one in made:
        await archive.put(one.id)
    await archive.sweep(later=DAY + 1)
    assert {await archive.state(one) for one in made} == {JobState.FAILED}
    assert await archive.folders() == set()
    await archive.sweep(later=40 * DAY)
    await archive.sweep(later=40 * DAY)
    assert {await archive.state(one) for one in made} == {None}


@pytest.mark.anyio
async def test_a_sweep_that_was_cut_short_is_made_up_for_by_the_next(archive: Archive) -> None:
    made = await archive.completed()
    await archive.cancel(made)
    await archive.outputs.discard(made.id)  # and there it was killed
    assert [job.id for job in await archive.jobs.due(Due.RECLAIM, after(archive.now, 1), 10)] == [made.id]
    await archive.sweep()
    assert await archive.jobs.due(Due.RECLAIM, after(archive.now, 1), 10) == []
    await archive.sweep()


@pytest.mark.anyio
async def test_files_that_cannot_be_removed_hold_up_nothing_else(archive: Archive) -> None:
    stuck, other = await archive.completed(), await archive.completed()
    await archive.cancel(stuck)
    await archive.cancel(other)

    class Stuck(MemoryOutputStore):
        broken = True

        async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
            if self.broken and job_id == stuck.id:
                raise PermissionError(job_id)
            await super().discard(job_id, keep=keep)

        async def jobs(self) -> AsyncIterator[str]:
            yield stuck.id

    broken = Stuck()
    archive.outputs = broken
    await archive.sweep(later=31 * DAY)
    assert (await archive.state(stuck), await archive.state(other)) == (JobState.CANCELLED, None)
    broken.broken = False
    await archive.sweep()
    assert await archive.state(stuck) is None


@pytest.mark.anyio
async def test_a_job_that_somebody_changes_during_the_sweep_is_left_to_them(archive: Archive) -> None:
    made = await archive.completed()

    class Racing(MemoryJobStore):
        async def replace(self, job: Job) -> bool:  # noqa: ARG002 - somebody was quicker
            return False

    racing = Racing()
    racing._entries = archive.jobs._entries
    archive.jobs = racing
    await archive.sweep(later=8 * DAY)
    assert (await archive.state(made), await archive.folders()) == (JobState.COMPLETED, {made.id})


@pytest.mark.anyio
async def test_each_job_is_kept_as_long_as_its_mount_promised(archive: Archive) -> None:
    others = [await archive.completed() for _ in range(120)]
    made = job("Patient", created_at=archive.now)
    own = replace(made, mount="own", request=replace(made.request, retention=DAY))
    assert await archive.jobs.add(own, Rows(EVERYTHING), working_at_most=1000)
    assert await archive.jobs.replace(own.failed(Failure(Reason.FAULT, ""), after(archive.now, 1)))
    archive.now = after(archive.now, 2 * DAY)
    await archive.sweep()
    found = await archive.jobs.find(own.id, "own", OWNER)
    assert found is not None
    assert found.state is JobState.EXPIRED
    assert {await archive.state(other) for other in others} == {JobState.COMPLETED}
    archive.now = after(archive.now, 6 * DAY)
    await archive.sweep()
    assert {await archive.state(other) for other in others} == {JobState.EXPIRED}
