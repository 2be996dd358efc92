"""A job whose plan comes in rounds, through `JobWork`: whoever dies when, each slice of each round is in the result once."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.lowlevel
import in_rounds
import pytest
from in_rounds import SIZES, InRounds, line, slices_of, work_in_rounds
from jobs_of import EVERYTHING, job
from listed import NOW
from waiting import PATIENCE

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.events import Completed, Event, Started
from fhir_bulk_middleware.contract.job import Failure, Job, JobState, Part, Standing
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.export.manifest import published
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.instant import Instant, after, system_clock
from fhir_bulk_middleware.jobs.kind import TaskFailed
from fhir_bulk_middleware.jobs.work import EXHAUSTED, JobWork
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import standing

pytestmark = pytest.mark.anyio

SETTINGS = Settings(renew_seconds=0.001, lease_seconds=10, attempts=3)


@dataclass
class Bench:
    """Stores, the time, and what observers were told."""

    jobs: JobStore = field(default_factory=MemoryJobStore)
    outputs: OutputStore = field(default_factory=MemoryOutputStore)
    sizes: tuple[int, ...] = SIZES
    now: Instant = NOW
    told: list[Event] = field(default_factory=list)

    async def observe(self, event: Event) -> None:
        self.told.append(event)

    def work(self, task: type[InRounds] = InRounds) -> JobWork:
        return work_in_rounds(self.jobs, self.outputs, SETTINGS, lambda: self.now, sizes=self.sizes, task=task, observers=[self])

    async def add(self) -> Job:
        made = job("Patient", created_at=self.now)
        options = replace(made.request.options, partial_manifests=True)
        made = replace(made, request=replace(made.request, options=options))
        assert await self.jobs.add(made, Rows(EVERYTHING), working_at_most=1)
        return made

    async def finish(self, work: JobWork | None = None) -> None:
        work = work or self.work()
        while await work.step("worker"):
            pass

    async def found(self, made: Job) -> Job:
        return (await standing(self.jobs, made)).job

    async def is_whole(self, made: Job) -> None:
        """Each slice of each round has one file, which is there, and no other file is."""
        found = await standing(self.jobs, made)
        assert (found.job.state, found.job.failure) == (JobState.COMPLETED, None)
        assert [part.slice for part in found.parts] == slices_of(self.sizes)
        for part in found.parts:
            content = b"".join([chunk async for chunk in PartReader(self.outputs, part).read(0, part.size)])
            assert content == line(part.slice)
        assert found.job.done == found.job.estimate == len(found.parts)
        assert found.job.cut == 1_000_000, "the cut is that of the first round"


@pytest.mark.parametrize("sizes", [SIZES, (1,), (0,), (0, 0, 2), (2, 0, 0), (2, 0, 1), (0, 0)])
async def test_each_slice_of_each_round_is_in_the_result_once(sizes: tuple[int, ...]) -> None:
    bench = Bench(sizes=sizes)
    made = await bench.add()
    await bench.finish()
    await bench.is_whole(made)
    kinds = [type(event) for event in bench.told]
    assert kinds == [Started, Completed], "a job is told to have started once, and to be complete once"
    (completed,) = (event for event in bench.told if isinstance(event, Completed))
    assert completed.resources == sum(sizes)


@pytest.mark.parametrize("sizes", [(0,), (0, 0)])
async def test_a_lease_keeper_that_finds_no_lease_after_a_plan_keeps_no_observer_from_hearing_of_it(
    sizes: tuple[int, ...],
) -> None:
    """Law 37."""

    class Noticed(MemoryJobStore):
        """Knows when a lease keeper was told that there is no lease."""

        def __init__(self) -> None:
            super().__init__()
            self.noticed = anyio.Event()

        async def renew(self, lease: Lease, now: Instant, *, lease_seconds: float, done: int) -> bool:
            renewed = await super().renew(lease, now, lease_seconds=lease_seconds, done=done)
            if not renewed:
                self.noticed.set()
            return renewed

        async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
            for _ in range(10):  # as a store does whose storage takes a moment
                await anyio.lowlevel.checkpoint()
            return await super().standing(job_id, mount, owner, file_id=file_id)

    jobs = Noticed()

    class Slow(Bench):
        async def observe(self, event: Event) -> None:
            with anyio.fail_after(PATIENCE):
                await jobs.noticed.wait()
            jobs.noticed = anyio.Event() if isinstance(event, Started) and len(sizes) > 1 else jobs.noticed
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            await super().observe(event)

    bench = Slow(jobs, sizes=sizes)
    await bench.add()
    await bench.finish()
    assert [type(event) for event in bench.told] == [Started, Completed]


async def test_what_was_published_stays_as_the_rounds_follow() -> None:
    """Law 20: the files that partial manifests may list grow at their end only."""
    bench = Bench()
    made = await bench.add()
    seen: list[Part] = []
    between = 0
    while await bench.work().step("worker"):
        now = await standing(bench.jobs, made)
        listed = list(published(now))
        assert listed[: len(seen)] == seen, "a file that was published stays where it was"
        seen = listed
        between += now.job.state is JobState.RUNNING and now.unfinished is None
    assert between == len(SIZES) - 1, "it was looked at between the rounds"
    assert len(seen) == sum(SIZES)


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_round_whose_planning_keeps_failing_ends_the_job(number: int) -> None:
    """Law 43: a job always ends. The tries of one round do not count in the next."""

    class Failing(InRounds):
        failures: ClassVar[dict[str, int]] = {"planning 0": 2, "planning 1": 2, "planning 2": 2} | {f"planning {number}": 99}

        async def reach(self, point: str) -> None:
            left = self.failures.get(point, 0)
            if left:
                self.failures[point] = left - 1
                raise ConnectionError

    bench = Bench()
    made = await bench.add()
    await bench.finish(bench.work(Failing))
    ended = await bench.found(made)
    assert (ended.state, ended.failure) == (JobState.FAILED, EXHAUSTED)
    assert Failing.failures[f"planning {number}"] == 99 - SETTINGS.attempts
    assert [Failing.failures[f"planning {each}"] for each in range(number)] == [0] * number


@pytest.mark.parametrize("number", [1, 2])
async def test_a_round_that_cannot_be_planned_fails_the_job_at_once(number: int) -> None:
    class Hopeless(TaskFailed):
        failure = Failure(Reason.FAULT, "It cannot be planned.")

    class Failing(InRounds):
        async def reach(self, point: str) -> None:
            if point == f"planning {number}":
                raise Hopeless("it cannot be planned")

    bench = Bench()
    made = await bench.add()
    await bench.finish(bench.work(Failing))
    ended = await bench.found(made)
    assert (ended.state, ended.failure) == (JobState.FAILED, Hopeless.failure)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_planner_that_is_overtaken_in_a_later_round_publishes_nothing(number: int) -> None:
    """Law 18."""
    bench = Bench()
    made = await bench.add()

    class Overtaken(InRounds):
        async def reach(self, point: str) -> None:
            if point == f"planning {number}":
                bench.now = after(bench.now, 60)  # the lease runs out, and another worker does all the rest
                await bench.finish()
                await bench.is_whole(made)

    await bench.finish(bench.work(Overtaken))
    await bench.is_whole(made)
    assert [type(event) for event in bench.told] == [Started, Completed]


@pytest.mark.parametrize("point", ["planning 1", "writing 10", "planning 2"])
async def test_a_cancel_between_or_within_rounds_is_the_end(point: str) -> None:
    """Law 36."""
    bench = Bench()
    made = await bench.add()
    reached: list[str] = []

    class Cancelling(InRounds):
        async def reach(self, point_: str) -> None:
            reached.append(point_)
            if point_ == point:
                assert await bench.jobs.replace((await bench.found(made)).cancelled(bench.now))

    await bench.finish(bench.work(Cancelling))
    assert reached[-1] == point, "nothing is planned or written after a cancel"
    assert (await bench.found(made)).state is JobState.CANCELLED


DEATHS = [
    *(f"{what} {number}" for number in range(len(SIZES)) for what in ("planning", "planned")),
    *(f"{what} {number}" for number in (1, 10, 21) for what in ("writing", "recorded")),
]


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[Bench]:
    jobs = SQLiteJobStore(tmp_path / "jobs.db")
    yield Bench(jobs, FileOutputStore(tmp_path / "exports"), now=system_clock())
    jobs.close()


@pytest.mark.parametrize("death", DEATHS)
async def test_a_worker_process_that_is_killed_between_or_within_rounds_loses_nothing(
    on_disk: Bench, tmp_path: Path, death: str
) -> None:
    made = await on_disk.add()
    command = [sys.executable, in_rounds.__file__, str(tmp_path), death]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = await anyio.to_thread.run_sync(lambda: subprocess.run(command, env=environment, check=False, timeout=PATIENCE))
    assert killed.returncode == -signal.SIGKILL
    assert (await on_disk.found(made)).state.working

    on_disk.now = after(system_clock(), 3600)  # its lease has run out
    await on_disk.finish()

    await on_disk.is_whole(made)
    rows = {part.key.partition("/")[2] for part in (await standing(on_disk.jobs, made)).parts}
    assert {path.name for path in (tmp_path / "exports" / made.id).iterdir()} == rows, "what the dead left was discarded"
