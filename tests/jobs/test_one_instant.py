"""What an answer shows of a job is of one instant: a cancel or a sweep between two reads never shortens it (law 35)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from house import KICK_OFF, House, populate

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, Standing
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
REMOVE = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}


class Interrupted(MemoryJobStore):
    """Lets something else happen after its n-th read, as if another process had come between."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.happens: Callable[[], Awaitable[None]] | None = None

    async def _read(self) -> None:
        if self.happens is None:
            return
        self.reads -= 1
        if not self.reads:
            happens, self.happens = self.happens, None
            await happens()

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        found = await super().find(job_id, mount, owner)
        await self._read()
        return found

    async def standing(self, job_id: str, mount: str, owner: Owner, *, file_id: str | None = None) -> Standing | None:
        found = await super().standing(job_id, mount, owner, file_id=file_id)
        await self._read()
        return found


@asynccontextmanager
async def interrupted(make_house: Any) -> AsyncIterator[tuple[House, Interrupted]]:
    jobs = Interrupted()
    async with make_house(parts={"jobs": jobs}, manifest_files=1) as house:
        house.jobs = jobs
        await populate(house)
        yield house, jobs


async def cancel(house: House, location: str) -> None:
    """Another process cancels, and a sweep gives everything back."""
    assert (await house.ask("DELETE", location, scope=FULL)).status_code == 202
    await house.bulk.retention.sweep()


async def expire(house: House, location: str) -> None:  # noqa: ARG001 - every job of the house
    house.clock.advance(house.settings.retention + 1)
    await house.bulk.retention.sweep()


@pytest.mark.parametrize("end", [cancel, expire])
@pytest.mark.parametrize("read", [1, 2, 3])
@pytest.mark.parametrize("kind", ["manifest", "page", "file", "removal"])
async def test_an_answer_is_whole_or_a_refusal(make_house: Any, kind: str, read: int, end: Any) -> None:
    async with interrupted(make_house) as (house, jobs):
        if kind == "removal":
            accepted = await house.ask("DELETE", "/Observation?status=final", scope=FULL, headers=REMOVE)
            location = accepted.headers["Content-Location"]
        else:
            path = "/$export?_type=Patient,Observation" + ("&allowPartialManifests=true" if kind == "page" else "")
            location = (await house.ask("GET", path, headers=KICK_OFF)).headers["Content-Location"]
        await house.runner.finish()
        whole = await house.ask("GET", location, scope=FULL)
        assert whole.status_code == 200
        url = {"page": f"{location}/1", "file": ""}.get(kind, location)
        if kind == "file":
            url = whole.json()["output"][0]["url"]
        if kind == "page":
            url = next(link["url"] for link in whole.json()["link"] if link["relation"] == "next")
        expected = (await house.ask("GET", url, scope=FULL)).content

        jobs.reads, jobs.happens = read, lambda: end(house, location)
        try:
            answer = await house.ask("GET", url, scope=FULL)
        except FileNotFoundError:
            assert kind == "removal", "a Bundle that is being sent breaks off, as a connection does; it does not end early"
            return

        assert answer.status_code in {200, 404}
        if answer.status_code == 200:
            assert answer.content == expected, "what is shown is what there was"
        if jobs.reads <= 0:  # it came between
            after = await house.ask("GET", url, scope=FULL)
            assert after.status_code == 404
            bytes_gone = kind == "file"  # its rows are one read; then the file itself was not there
            if answer.status_code == 404 and not bytes_gone:
                assert answer.content == after.content, "the refusal says what became of the job"


async def test_a_poll_of_a_job_at_work_is_one_read(make_house: Any) -> None:
    """Law 19."""
    async with interrupted(make_house) as (house, jobs):
        location = await house.kick_off()
        happened: list[str] = []

        async def note() -> None:
            happened.append("a second read")

        jobs.reads, jobs.happens = 2, note
        assert (await house.ask("GET", location)).status_code == 202
        assert not happened
