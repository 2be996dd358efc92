"""Cancel is final, whatever it races with: after its 202 nobody sees the job or a byte of its files (DL-05, DL-10, law 18)."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from house import BASE, ISSUER, KICK_OFF, HandRunner, job_of
from listed import Listed, patient

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import sealed

ALICE = Owner(ISSUER, "alice")
MANY: dict[str, Any] = {"jobs_per_owner": 10_000, "kick_offs_per_minute": 1_000_000, "refusals_per_minute": 1_000_000}
SETTINGS = Settings(public_base_url=BASE, renew_seconds=0.001, lease_seconds=5, retention=3_600, settle=0, **MANY)
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a race is about order, not about disks


class Trusting:
    async def verify(self, token: str) -> Principal:
        return Principal(owner=Owner(ISSUER, token), scopes=("system/*.rs",), expires_at=Instant(2**62))


class Flaky(Listed):
    """Fails as often as it is told to."""

    failures = 0

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        if self.failures:
            self.failures -= 1
            raise OSError("not just now")
        async for page in super().pages(query, after):
            yield page


class Arena:
    """Two server processes' applications, as far as they know of each other, and a worker in a thread with a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.ahead = 0
        self.jobs = SQLiteJobStore(folder / "jobs.db")
        self.outputs = FileOutputStore(folder / "exports", blocking=True)
        self.resources = Flaky({"Patient": [patient(str(number)) for number in range(20)]})
        self.work = job_work(self.resources, self.jobs, self.outputs, SETTINGS, self.clock, adapter="arena")
        self.clients = [self._client(), self._client()]
        self.random = Random(5)  # noqa: S311 - to be repeated

    def clock(self) -> Instant:
        return Instant(system_clock() + self.ahead)

    def _client(self) -> httpx2.AsyncClient:
        bulk = BulkData(
            resources=self.resources,
            verifier=Trusting(),
            jobs=self.jobs,
            outputs=self.outputs,
            runner=HandRunner(),
            adapter="arena",
            mount="standard",
            settings=SETTINGS,
            clock=self.clock,
        )
        transport = httpx2.ASGITransport(bulk.app)
        return httpx2.AsyncClient(transport=transport, base_url="https://ehr.example", headers={"Authorization": "Bearer alice"})

    async def finish(self) -> None:
        while await self.work.step("worker"):
            pass

    async def sweep(self) -> None:
        await Retention(self.jobs, self.outputs, SETTINGS, self.clock, adapter="arena").sweep()

    async def job(self, location: str) -> Job:
        job = await self.jobs.find(job_of(location), "standard", ALICE)
        assert job is not None
        return job

    async def state(self, location: str) -> JobState:
        return (await self.job(location)).state


@asynccontextmanager
async def arena() -> AsyncIterator[Arena]:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        arena = Arena(Path(folder))
        try:
            yield arena
        finally:
            for client in arena.clients:
                await client.aclose()
            arena.jobs.close()


@pytest.fixture
def opponent() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def _step(arena: Arena) -> None:
    await arena.work.step("worker")


async def _steps(arena: Arena) -> None:
    """A retry: it fails, is given back, and is begun again."""
    await arena.work.step("worker")
    await arena.work.step("another")


async def _expire(arena: Arena) -> None:
    arena.ahead += round(SETTINGS.retention * 1_000_000)
    await arena.sweep()


def _run(act: Callable[[Arena], Coroutine[None, None, None]], arena: Arena, pause: float) -> None:
    time.sleep(pause)
    asyncio.run(act(arena))


RACES: dict[str, tuple[int, bool, Callable[[Arena], Coroutine[None, None, None]]]] = {
    # how often, whether the job is complete before, against what
    "planning": (100, False, _step),
    "completion": (200, False, _step),
    "completion, often": (1_000, False, _step),
    "retry": (100, False, _steps),
    "expiry": (100, True, _expire),
}


@pytest.mark.anyio
@pytest.mark.timeout(900)
@pytest.mark.parametrize("race", [pytest.param(race, marks=pytest.mark.long if "often" in race else ()) for race in RACES])
async def test_after_a_cancel_was_answered_nothing_is_seen_again(race: str, opponent: ThreadPoolExecutor) -> None:
    times, complete, act = RACES[race]
    won: Counter[tuple[int, JobState]] = Counter()
    written = 0
    async with arena() as house:
        client, other = house.clients
        for _ in range(times):
            kicked_off = await client.get("/$export?_type=Patient", headers=KICK_OFF)
            location = urlsplit(kicked_off.headers["Content-Location"]).path.removeprefix("/fhir")
            seen = [location, f"/$export-file/{file_id(job_of(location), 0, 0)}"]
            if race != "planning":
                await house.work.step("planner")
            if race == "retry":
                house.resources.failures = 1
            if complete:
                await house.finish()
            against = opponent.submit(_run, act, house, house.random.uniform(0, 0.002))
            await asyncio.sleep(house.random.uniform(0, 0.006))

            answer = await client.delete(location)
            after = [(await other.get(path)).status_code for path in seen]
            while not against.done():
                after += [(await other.get(path)).status_code for path in seen]
                await asyncio.sleep(0)
            against.result()

            await house.finish()
            after += [(await one.get(path)).status_code for one in house.clients for path in seen]
            assert set(after) == {404}, f"a request after the cancel was answered {sorted(set(after))}"
            assert answer.status_code == 202 or race == "expiry"
            won[answer.status_code, await house.state(location)] += 1
            written += bool(await sealed(house.jobs, await house.job(location)))
        await house.sweep()
        assert [job_id async for job_id in house.outputs.jobs()] == [], "all space is given back"
    assert {state for _, state in won} <= {JobState.CANCELLED, JobState.EXPIRED}
    if race.startswith("completion"):
        assert times * 0.02 < written < times * 0.98, "each of the two comes first often enough"
    assert won[202, JobState.CANCELLED] + won[404, JobState.EXPIRED] == times


@pytest.mark.anyio
@pytest.mark.parametrize("complete", [True, False])
async def test_of_many_cancels_through_two_servers_one_is_answered_202(complete: bool) -> None:
    async with arena() as house:
        for _ in range(100):
            kicked_off = await house.clients[0].get("/$export?_type=Patient", headers=KICK_OFF)
            location = urlsplit(kicked_off.headers["Content-Location"]).path.removeprefix("/fhir")
            await house.work.step("worker")
            if complete:
                await house.finish()

            answers = await asyncio.gather(*[client.delete(location) for client in house.clients * 2])

            assert sorted(answer.status_code for answer in answers) == [202, 404, 404, 404]
