"""Polls that are held open until their job ends (law 19): for whom, for how long, and what ends them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from house import KICK_OFF, House, populate
from waiting import until

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.jobs import held_polls
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore

pytestmark = pytest.mark.anyio

LONG = {"Prefer": "wait=30"}
SOON = 20
"""Seconds in which even a busy machine answers, and less than a poll is held here."""


class Counting(MemoryJobStore):
    """A job store that counts the reads of polls."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """What happens after the next read, before the poll learns what was read."""

    async def find(self, job_id: str, mount: str, owner: Owner) -> Job | None:
        self.reads += 1
        found = await super().find(job_id, mount, owner)
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            await meanwhile()
        return found


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The job store of the house. Polls look at it only when they are woken, so that a lost wake-up is seen."""
    monkeypatch.setattr(held_polls, "LOOK_SECONDS", 3600)
    return Counting()


@pytest.fixture
def make(make_house: Any, jobs: Counting) -> Any:
    """Makes houses on that store, whose first polls are held for as long as is possible."""

    @asynccontextmanager
    async def made(dialect: Dialect = STANDARD, **settings: Any) -> AsyncIterator[House]:
        async with make_house(dialect, parts={"jobs": jobs}, **{"first_poll_wait": 30, **settings}) as house:
            house.jobs = jobs
            await populate(house)
            with anyio.fail_after(SOON):
                yield house

    return made


async def held(house: House, jobs: Counting, location: str, **more: Any) -> "asyncio.Task[Any]":
    """A poll that has read its job and was not answered."""
    (poll,) = await all_held(house, jobs, [location], **more)
    return poll


async def all_held(house: House, jobs: Counting, locations: list[str], **more: Any) -> "list[asyncio.Task[Any]]":
    """Polls at the same time that have read their jobs and were not answered."""
    expected = jobs.reads + len(locations)
    polls = [asyncio.ensure_future(house.ask("GET", location, **more)) for location in locations]
    await until(lambda: jobs.reads >= expected)
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert not any(poll.done() for poll in polls), "a poll was answered at once"
    return polls


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=str)
async def test_the_first_poll_of_a_job_brings_the_manifest_when_it_is_complete(
    make: Any, jobs: Counting, dialect: Dialect
) -> None:
    """Law 19. In every dialect: none of their documents says that polls must be answered at once."""
    async with make(dialect) as house:
        location = await house.kick_off()
        poll = await held(house, jobs, location)
        await house.runner.finish()
        answer = await poll

        assert answer.status_code == dialect.completed
        assert answer.json()["output"]
        assert "Preference-Applied" not in answer.headers, "the client preferred nothing"


async def test_a_held_poll_reads_once_for_each_end_of_its_own_job(make: Any, jobs: Counting) -> None:
    """Law 19."""
    async with make() as house:
        other = await house.kick_off()
        location = await house.kick_off()
        poll = await held(house, jobs, location)
        reads = jobs.reads
        await house.ask("DELETE", other)
        await until(lambda: jobs.reads > reads)
        reads = jobs.reads
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert jobs.reads == reads, "another job's end does not concern it"
        await house.runner.finish()
        assert (await poll).status_code == 200
        assert jobs.reads == reads + 1


async def test_an_end_between_the_read_and_the_wait_is_not_missed(make: Any, jobs: Counting) -> None:
    async with make() as house:
        location = await house.kick_off()
        jobs.meanwhile = house.runner.finish

        assert (await house.ask("GET", location)).status_code == 200


async def test_only_the_first_poll_is_held_by_default(make: Any) -> None:
    async with make() as house:
        location = await house.kick_off()
        first = await house.ask("GET", location, headers={"Prefer": "wait=0"})
        second = await house.ask("GET", location)

        assert (first.status_code, first.headers["Preference-Applied"]) == (202, "wait=0")
        assert (second.status_code, second.headers.get("Preference-Applied")) == (202, None)


async def test_a_setting_says_how_long_the_first_poll_is_held(make: Any) -> None:
    async with make(first_poll_wait=0.01) as house:
        answer = await house.ask("GET", await house.kick_off())

        assert answer.status_code == 202
        assert answer.headers["Retry-After"] == "1"


def test_no_setting_holds_a_poll_longer_than_a_client_can() -> None:
    with pytest.raises(ValueError, match="first_poll_wait"):
        Settings(first_poll_wait=caps.HOLD_SECONDS + 1)
    assert Settings(first_poll_wait=caps.HOLD_SECONDS).first_poll_wait == caps.HOLD_SECONDS


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=30", "wait=30"),
        ("respond-async, WAIT = 20", "wait=20"),
        ('wait="7"', "wait=7"),
        ("wait=86400", "wait=30"),
        ("handling=lenient; x=1, wait=5, wait=0", "wait=5"),
    ],
)
async def test_any_poll_is_held_as_long_as_its_client_prefers(make: Any, jobs: Counting, prefer: str, applied: str) -> None:
    """Law 19, ST-09, KO-48."""
    async with make(first_poll_wait=0) as house:
        location = await house.kick_off()
        assert (await house.ask("GET", location)).status_code == 202
        poll = await held(house, jobs, location, headers={"Prefer": prefer})
        await house.runner.finish()
        answer = await poll

        assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, applied)
        after = await house.ask("GET", location, headers={"Prefer": prefer})
        assert (after.status_code, after.headers["Preference-Applied"]) == (200, applied), "a complete job is answered in time"


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=" + "9" * 900, "handling=odd, wait=9"]
)
async def test_a_wait_that_says_nothing_is_ignored(make: Any, prefer: str) -> None:
    """KO-48, DL-12: a poll needs no `Prefer`, so none makes it invalid."""
    async with make(first_poll_wait=0) as house:
        answer = await house.ask("GET", await house.kick_off(), headers={"Prefer": prefer})

        assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, None)


async def test_at_a_kick_off_wait_changes_nothing(make: Any) -> None:
    """KO-49, KO-110."""
    async with make() as house:
        answer = await house.ask("GET", "/$export", headers={**KICK_OFF, "Prefer": "respond-async, wait=30"})

        assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, None)
        assert answer.headers["Content-Location"]


@pytest.mark.parametrize("prefer", [{}, LONG])
async def test_a_stranger_is_answered_at_once_like_an_unknown_id(make: Any, prefer: dict[str, str]) -> None:
    """Law 7: nothing is held for whoever does not own the job."""
    async with make() as house:
        location = await house.kick_off()
        unknown = location.rpartition("/")[0] + "/00000000-0000-4000-8000-000000000000"
        theirs = await house.ask("GET", location, subject="mallory", headers=prefer)
        nobodys = await house.ask("GET", unknown, subject="mallory", headers=prefer)

        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.content == nobodys.content
        ids = {"x-request-id", "x-correlation-id"}
        shown = [[item for item in answer.headers.items() if item[0] not in ids] for answer in (theirs, nobodys)]
        assert shown[0] == shown[1]
        assert "Preference-Applied" not in theirs.headers


async def test_a_cancel_answers_a_held_poll_as_it_answers_later_ones(make: Any, jobs: Counting) -> None:
    """DL-05."""
    async with make() as house:
        location = await house.kick_off()
        poll = await held(house, jobs, location, headers=LONG)
        assert (await house.ask("DELETE", location)).status_code == 202
        answer, later = await poll, await house.ask("GET", location)

        assert answer.status_code == later.status_code == 404
        assert answer.content == later.content
        assert "Preference-Applied" not in answer.headers


async def test_a_failure_answers_a_held_poll(make: Any, jobs: Counting) -> None:
    """ST-10."""
    async with make(deadline=100) as house:
        location = await house.kick_off()
        poll = await held(house, jobs, location, headers=LONG)
        house.clock.advance(101)
        await house.bulk.retention.sweep()

        assert (await poll).status_code == 500


async def test_an_end_that_nobody_announced_is_noticed_too(make: Any, jobs: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a worker on another machine."""
    monkeypatch.setattr(held_polls, "LOOK_SECONDS", 0.01)
    async with make() as house:
        location = await house.kick_off()
        poll = await held(house, jobs, location, headers=LONG)
        await house.fail(location)

        assert (await poll).status_code == 500


async def test_a_poll_that_nothing_woke_looks_once_more_at_its_end(make: Any, jobs: Counting) -> None:
    async with make(first_poll_wait=0.5) as house:
        location = await house.kick_off()
        poll = asyncio.ensure_future(house.ask("GET", location))
        await until(lambda: jobs.reads > 0)
        await house.fail(location)

        assert (await poll).status_code == 500


async def test_a_held_poll_counts_as_one_poll(make: Any, jobs: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 19, ST-05."""
    monkeypatch.setattr(held_polls, "LOOK_SECONDS", 0.001)
    async with make(poll_burst=3) as house:
        location = await house.kick_off()
        for _ in range(3):
            before = jobs.reads
            assert (await house.ask("GET", location, headers={"Prefer": "wait=1"})).status_code == 202
            assert jobs.reads > before + 5, "it was read again and again"
        assert (await house.ask("GET", location, headers=LONG)).status_code == 429


async def test_a_token_is_not_honoured_longer_than_it_is_valid(make: Any) -> None:
    async with make() as house:
        location = await house.kick_off()
        token = house.token(expires_in=1)
        answer = await house.ask("GET", location, token=token, headers=LONG)

        assert answer.status_code == 202


async def test_an_owner_and_a_server_hold_so_many_polls_and_answer_further_ones_at_once(
    make: Any, jobs: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 38, with a fifth of the server's polls, so that a busy machine has made the last before the first must be answered."""
    server_polls = caps.HELD_POLLS // 5
    monkeypatch.setattr(held_polls, "HELD_POLLS", server_polls)
    owners = ["alice", *(f"owner{number}" for number in range(server_polls // caps.HELD_POLLS_OF_OWNER))]
    async with make(jobs_per_owner=2, requests_per_owner=1000) as house:
        locations = {owner: await house.kick_off(subject=owner) for owner in owners}
        polls: list[asyncio.Task[Any]] = []
        for owner in owners[:-1]:
            own = [locations[owner]] * caps.HELD_POLLS_OF_OWNER
            polls += await all_held(house, jobs, own, subject=owner, headers=LONG)
            if owner == "alice":
                answer = await house.ask("GET", locations[owner], subject=owner, headers=LONG)
                assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, None)
        assert len(polls) == server_polls
        last = owners[-1]
        answer = await house.ask("GET", locations[last], subject=last, headers=LONG)
        assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, None), "the server holds no more"

        await house.ask("DELETE", locations["alice"])
        assert {(await poll).status_code for poll in polls[: caps.HELD_POLLS_OF_OWNER]} == {404}
        polls.append(await held(house, jobs, locations[last], subject=last, headers=LONG))
        for owner in owners[1:]:
            await house.ask("DELETE", locations[owner], subject=owner)
        assert {(await poll).status_code for poll in polls} == {404}, "an answered poll leaves its place to another"


async def test_a_partial_manifest_is_waited_for_until_there_is_a_file(make: Any, jobs: Counting) -> None:
    """KO-95: from then on the client decides how often it looks for new pages."""
    async with make() as house:
        location = await house.kick_off("/$export?allowPartialManifests=true")
        poll = await held(house, jobs, location, headers=LONG)
        while not await house.parts(location):
            assert await house.runner.step()
        answer = await house.ask("GET", location, headers=LONG)
        assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=30")
        await house.runner.finish()
        assert (await poll).status_code == 200


async def asked(house: House, location: str, left: asyncio.Event, *, endless: bool = False) -> list[dict[str, Any]]:
    """What the application sends to a client that leaves when the event is set; one server repeats the end of the body."""
    sent: list[dict[str, Any]] = []
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        if received > 1 and not endless:
            await left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    path = location.removeprefix("https://ehr.example/fhir")
    headers = [(b"authorization", f"Bearer {house.token()}".encode()), (b"prefer", b"wait=30"), (b"host", b"ehr.example")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await house.bulk.app(scope, receive, send)
    return sent


async def test_a_client_that_leaves_is_not_waited_for(make: Any, jobs: Counting) -> None:
    async with make() as house:
        location = await house.kick_off()
        left = asyncio.Event()
        poll = asyncio.ensure_future(asked(house, location, left))
        await until(lambda: jobs.reads > 0)
        left.set()
        await poll

        assert jobs.reads == 1, "nobody reads the job for it any more"
        again = await held(house, jobs, location, headers=LONG)
        await house.runner.finish()
        assert (await again).status_code == 200


async def test_a_server_that_repeats_the_end_of_a_body_does_not_keep_the_loop_busy(make: Any, jobs: Counting) -> None:
    async with make() as house:
        location = await house.kick_off()
        poll = asyncio.ensure_future(asked(house, location, asyncio.Event(), endless=True))
        await until(lambda: jobs.reads > 0)
        await house.runner.finish()

        assert (await poll)[0]["status"] == 200


async def test_a_server_that_stops_answers_the_polls_that_it_holds(make: Any, jobs: Counting) -> None:
    async with make() as house:
        location = await house.kick_off()
        poll = await held(house, jobs, location, headers=LONG)
        await house.bulk.engine.stop()
        assert (await poll).status_code == 202
        async with house.bulk.running():
            again = await held(house, jobs, location, headers=LONG)
            await house.ask("DELETE", location)
            assert (await again).status_code == 404, "after another start it holds polls again"
