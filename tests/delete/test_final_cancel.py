"""Dying between the steps of a cancel or a deadline: nothing is removed after an answer, and all tell one tally (law 36)."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from house import House, job_of, populate

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.contract.removal import Tally
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
JOB = {"x-conditional-delete": "remove-all", "Prefer": "respond-async", "Accept": "application/fhir+json"}
MANY = 8


class Died(BaseException):
    """The process ended here; nothing catches that."""


class Dying:
    """Dies once, before or after a step that ends a job."""

    at: ClassVar[str] = ""

    @classmethod
    def perhaps(cls, step: str) -> None:
        if cls.at == step:
            cls.at = ""
            raise Died(step)


class DyingJobs(MemoryJobStore):
    async def replace(self, job: Job) -> bool:
        Dying.perhaps("before the state")
        done = await super().replace(job)
        Dying.perhaps("after the state")
        return done


class DyingJournal(MemoryResourceStore):
    async def end_run(self, run: str, **more: Any) -> Tally:
        Dying.perhaps("before the end of the run")
        tally = await super().end_run(run, **more)
        Dying.perhaps("after the end of the run")
        return tally


STEPS = ["before the state", "after the state", "before the end of the run", "after the end of the run"]


@asynccontextmanager
async def half_way(make_house: Any, dialect: Any = DIALECTS["standard"]) -> AsyncIterator[tuple[House, DyingJournal, str]]:
    """A house, and a remove-all of eight that has removed two."""
    journal, jobs = DyingJournal(), DyingJobs()
    async with make_house(dialect, parts={"resources": journal, "jobs": jobs}, removal_batch=2) as house:
        house.resources, house.jobs = journal, jobs
        await populate(house)
        for number in range(MANY - 4):
            await journal.create("Observation", {"resourceType": "Observation", "status": "final"}, f"x{number}")
        accepted = await house.ask("DELETE", "/Observation?status=final", scope=FULL, headers=JOB)
        assert accepted.status_code == 202, accepted.text
        await house.runner.step()
        await house.runner.step()
        yield house, journal, accepted.headers["Content-Location"]


async def gone(journal: MemoryResourceStore) -> int:
    return MANY - len((await journal.search("Observation", ids=None, count=99, after=None)).resources)


def tally(text: str) -> int:
    found = re.search(r"(\d+) resources were deleted, 0 were left alone\.", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("retried", ["at once", "after the workers"])
async def test_a_cancel_whose_server_dies_is_finished_and_tells_one_tally(make_house: Any, step: str, retried: str) -> None:
    async with half_way(make_house) as (house, journal, location):
        Dying.at = step
        with pytest.raises(Died):
            await house.ask("DELETE", location, scope=FULL)
        assert not Dying.at
        if retried == "after the workers":
            looked = await house.ask("GET", location, scope=FULL)
            then = await gone(journal)
            await house.runner.finish()
            if looked.status_code == 404:
                assert await gone(journal) == then, "once it looks cancelled nothing is removed"

        answer = await house.ask("DELETE", location, scope=FULL)
        then = await gone(journal)
        await house.runner.finish()

        assert answer.status_code in {202, 404}
        assert tally(answer.text) == then == await gone(journal), "what was told to be gone is gone, and no more"
        assert (await house.ask("GET", location, scope=FULL)).status_code == 404
        for _ in range(2):
            again = await house.ask("DELETE", location, scope=FULL)
            assert (again.status_code, tally(again.text)) == (404, then), "a cancel that is sent again tells the same"


async def test_a_worker_finishes_a_cancel_whose_server_died_after_its_first_step(make_house: Any) -> None:
    async with half_way(make_house) as (house, journal, location):
        Dying.at = "after the end of the run"
        with pytest.raises(Died):
            await house.ask("DELETE", location, scope=FULL)
        await house.runner.step()

        assert (await house.ask("GET", location, scope=FULL)).status_code == 404
        assert await gone(journal) == 2


@pytest.mark.parametrize("step", STEPS)
async def test_a_deadline_whose_sweep_dies_is_finished_by_the_next(make_house: Any, step: str) -> None:
    async with half_way(make_house) as (house, journal, location):
        house.clock.advance(house.settings.deadline + 1)
        Dying.at = step
        with pytest.raises(Died):
            await house.bulk.retention.sweep()
        late = await gone(journal)
        failed = await house.ask("GET", location, scope=FULL)
        if failed.status_code == 500:
            assert tally(failed.text) == late
        await house.bulk.retention.sweep()
        then = await gone(journal)
        await house.runner.finish()

        answer = await house.ask("GET", location, scope=FULL)
        assert answer.status_code == 500
        assert tally(answer.text) == then == await gone(journal)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_a_cancel_that_is_sent_again_tells_its_owner_the_tally_and_a_stranger_nothing(
    make_house: Any, dialect: Any
) -> None:
    async with half_way(make_house, dialect) as (house, _, location):
        headers = {"Accept": "application/fhir+json"}
        first = await house.ask("DELETE", location, scope=FULL, headers=headers)
        again = await house.ask("DELETE", location, scope=FULL, headers=headers)

        assert (tally(first.text), tally(again.text)) == (2, 2)
        assert again.status_code == 404
        unknown = location.replace(job_of(location), "00000000-0000-4000-8000-000000000000")
        theirs = await house.ask("DELETE", location, subject="mallory", headers=headers)
        nothing = await house.ask("DELETE", unknown, subject="mallory", headers=headers)
        assert (theirs.status_code, _text(theirs.content)) == (nothing.status_code, _text(nothing.content))


def _text(content: bytes) -> Any:
    """Without the id that some dialects give an outcome."""
    document = json.loads(content)
    document.pop("id", None)
    return document


async def test_a_stalled_batch_that_wakes_up_between_the_two_steps_removes_nothing(make_house: Any) -> None:
    """A lease cannot stop a worker; the journal does, before the state of the job has changed."""
    async with half_way(make_house) as (house, journal, location):
        Dying.at = "before the state"
        with pytest.raises(Died):
            await house.ask("DELETE", location, scope=FULL)
        job = house.jobs._entries[job_of(location)].job
        assert job.state is JobState.RUNNING
        await house.runner.finish()
        assert await gone(journal) == 2
