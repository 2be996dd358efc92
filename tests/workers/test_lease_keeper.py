import time

import anyio
import anyio.lowlevel
import pytest
from jobs_of import EVERYTHING, MOUNT, OWNER, job
from listed import NOW, Listed, observation
from waiting import PATIENCE

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.workers.lease_keeper import LeaseKeeper, ThreadLeaseKeeper, keep_in_task

SETTINGS = Settings(page_bytes=1024, part_bytes=1024 * 1024, renew_seconds=0.005, lease_seconds=10)
LINES = {"Observation": [observation(number) for number in range(30)]}
BOTH = pytest.mark.parametrize("keep_lease", [keep_in_task, ThreadLeaseKeeper()])


class Bench:
    """One job, exported by an adapter that misbehaves, with a heart of the kind that is tested."""

    def __init__(self, keep_lease: LeaseKeeper) -> None:
        self.now = NOW
        self.jobs = MemoryJobStore()
        self.outputs = MemoryOutputStore()
        self.job = job("Observation", created_at=NOW)
        self._keep_lease = keep_lease

    async def run(self, resources: Listed, jobs: MemoryJobStore | None = None) -> None:
        assert await self.jobs.add(self.job, Rows(EVERYTHING), working_at_most=1)
        clock = lambda: self.now  # noqa: E731 - read when it is called
        work = job_work(resources, jobs or self.jobs, self.outputs, SETTINGS, clock, keep_lease=self._keep_lease)
        with anyio.fail_after(PATIENCE):
            while await work.step("worker"):
                pass

    async def found(self) -> Job:
        found = await self.jobs.find(self.job.id, MOUNT, OWNER)
        assert found is not None
        return found


@pytest.mark.anyio
async def test_a_thread_beats_on_while_an_adapter_blocks_the_loop() -> None:
    bench = Bench(ThreadLeaseKeeper())

    class Blocking(Listed):
        async def before_page(self, number: int) -> None:
            deadline = time.monotonic() + PATIENCE
            while number >= 20 and bench.jobs._entries[bench.job.id].job.done < 10:
                assert time.monotonic() < deadline, "nobody told of the progress"

    await bench.run(Blocking(LINES))
    assert (await bench.found()).state is JobState.COMPLETED


@pytest.mark.anyio
@BOTH
async def test_an_adapter_that_waits_is_interrupted_when_the_lease_is_lost(keep_lease: LeaseKeeper) -> None:
    bench = Bench(keep_lease)

    class Waiting(Listed):
        async def before_page(self, number: int) -> None:  # noqa: ARG002
            assert await bench.jobs.replace((await bench.found()).cancelled(bench.now))
            await anyio.sleep_forever()

    await bench.run(Waiting(LINES))
    assert (await bench.found()).state is JobState.CANCELLED


@pytest.mark.anyio
@BOTH
async def test_an_adapter_that_hangs_is_given_up_at_the_jobs_deadline(keep_lease: LeaseKeeper) -> None:
    bench = Bench(keep_lease)

    class Hanging(Listed):
        async def before_page(self, number: int) -> None:  # noqa: ARG002
            bench.now = after(NOW, SETTINGS.deadline)
            await anyio.sleep_forever()

    await bench.run(Hanging(LINES))
    assert not (await bench.found()).state.live or (await bench.found()).state.working


@pytest.mark.anyio
@BOTH
async def test_a_store_that_is_away_for_a_moment_does_not_end_the_work(keep_lease: LeaseKeeper) -> None:
    bench = Bench(keep_lease)

    class Shaky(MemoryJobStore):
        missed = 0

        async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
            if self.missed < 3:
                self.missed += 1
                raise ConnectionError
            return await super().renew(lease, now, lease_seconds=lease_seconds, done=done)

    bench.jobs = shaky = Shaky()

    class Slow(Listed):
        async def before_page(self, number: int) -> None:
            while number == 20 and (await bench.found()).done < 10:
                await anyio.lowlevel.checkpoint()

    await bench.run(Slow(LINES))
    assert ((await bench.found()).state, shaky.missed) == (JobState.COMPLETED, 3)
