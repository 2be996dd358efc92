"""Owners take turns: a hundred exports of one do not starve another's single one."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
from jobs_of import EVERYTHING, MOUNT, job
from listed import Complete, observation

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore

FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a hundred jobs that nobody keeps
GREEDY, MODEST = Owner("https://issuer.example", "greedy"), Owner("https://issuer.example", "modest")
SLICES = 4


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("begun", [0, 1, 37])
async def test_one_export_is_served_every_second_slice_though_a_hundred_wait_before_it(kind: str, begun: int) -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        jobs = MemoryJobStore() if kind == "memory" else SQLiteJobStore(Path(folder) / "jobs.db")
        adapter = Complete({"Observation": [observation(number) for number in range(3 * SLICES)]})
        work = job_work(adapter, jobs, MemoryOutputStore(), Settings())
        for _ in range(100):
            greedy = dataclasses.replace(job("Observation", created_at=system_clock()), owner=GREEDY)
            assert await jobs.add(greedy, Rows(EVERYTHING), working_at_most=1_000)
        for _ in range(begun):
            await work.step("worker")
        modest = dataclasses.replace(job("Observation", created_at=system_clock()), owner=MODEST)
        assert await jobs.add(modest, Rows(EVERYTHING), working_at_most=1)

        steps = 0
        while True:
            steps += 1
            await work.step("worker")
            found = await jobs.find(modest.id, MOUNT, MODEST)
            assert found is not None
            if found.state is JobState.COMPLETED:
                break

        own = 1 + SLICES
        assert steps <= 2 * own, f"between two of its {own} pieces others had more than one: {steps - own} in all"
        if isinstance(jobs, SQLiteJobStore):
            jobs.close()
