"""What an audit cannot record does not happen, or the gap is recorded, as the operator says (law 37)."""

import json
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from exporting import polled
from house import BASE, KICK_OFF, House, populate
from listening import Listener
from stopped_lock import locked_by_a_stopped_process
from waiting import PATIENCE

from fhir_bulk_middleware.cli.server_process import server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.contract.events import AuditFailed, Event, FileServed, KickedOff, PartSealed
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.observers.audit_file import AuditFile, Verified, verify
from fhir_bulk_middleware.observers.metrics import Metrics
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

ALL = "system/*.cruds"
REMOVE_ALL = {"X-Conditional-Delete": "remove-all"}


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process can become longer than the audit file is now.

    Of a module that is imported meanwhile no bytecode is written: Python 3.11 would keep the part that fits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before


FAILURES: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "full disk": full_disk,
    "locked by a stopped process": locked_by_a_stopped_process,
}
each_failure = pytest.mark.parametrize("failure", FAILURES)


Policy = Literal["refuse", "go_on"]


@asynccontextmanager
async def audited(
    folder: Path,
    mint: TokenMint,
    policy: Literal["refuse", "go_on"],
    *observers: Any,
    dialect: Dialect = STANDARD,
    **settings: Any,
) -> AsyncIterator[tuple[House, Path]]:
    path = folder / "audit.jsonl"
    pace: dict[str, Any] = {"kick_offs_per_minute": 1_000_000, "refusals_per_minute": 1_000_000}
    limits = Settings(public_base_url=BASE, on_audit_failure=policy, renew_seconds=0.001, lease_seconds=0.01, **pace, **settings)
    house = House(mint, dialect, limits, observers=[AuditFile(path, patience=0.05), *observers])
    async with house.bulk.running(), house.http:
        await populate(house)
        yield house, path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def names(path: Path) -> list[str]:
    return [record["event"] for record in records(path)]


async def live(house: House, *references: str) -> list[str]:
    """Those of the resources that are there still."""
    found = [(reference, await house.resources.current(*reference.split("/"))) for reference in references]
    return [reference for reference, current in found if current is not None and not current.deleted]


async def recovered(house: House, method: str, url: str, **more: Any) -> httpx2.Response:
    """The answer once the audit is tried again, which may take a second after it hung."""
    while (answer := await house.ask(method, url, **more)).status_code == 503:
        pass
    return answer


def refused(answer: httpx2.Response) -> bool:
    said = answer.json()["issue"][0]["diagnostics"]
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1 and "cannot write its audit record" in said


@each_failure
async def test_with_refuse_no_file_is_served(tmp_path: Path, mint: TokenMint, failure: str) -> None:
    async with audited(tmp_path, mint, "refuse") as (house, path):
        url = (await house.export("/$export?_type=Patient"))["output"][0]["url"]
        with FAILURES[failure](path):
            answers = [
                await house.ask("GET", url),
                await house.ask("GET", url, headers={"Range": "bytes=0-9"}),
                await house.ask("GET", url, headers={"Accept-Encoding": "gzip"}),
            ]
        assert all(map(refused, answers))
        assert not any("Patient" in answer.text for answer in answers)

        assert (await recovered(house, "GET", url)).status_code == 200
        found = records(path)
        assert [record["event"] for record in found if record["event"] in {"file-served", "audit-gap"}][-1] == "file-served"
    assert isinstance(verify(path), Verified)


@each_failure
@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (("/Patient/p3", {}), ["Patient/p3"]),
        (("/Observation?_id=b1", {}), ["Observation/b1"]),
        (("/Observation?status=final", REMOVE_ALL), ["Observation/b1", "Observation/b2", "Observation/b3", "Observation/b4"]),
    ],
)
async def test_with_refuse_nothing_is_removed(
    tmp_path: Path, mint: TokenMint, failure: str, request_: tuple[str, Mapping[str, str]], gone: list[str]
) -> None:
    url, headers = request_
    async with audited(tmp_path, mint, "refuse") as (house, path):
        await house.ask("DELETE", "/Patient/nobody", scope=ALL)  # so that there is a file
        with FAILURES[failure](path):
            assert refused(await house.ask("DELETE", url, scope=ALL, headers=headers))
            assert await live(house, *gone) == gone

        assert (await recovered(house, "DELETE", url, scope=ALL, headers=headers)).status_code == 200
        assert await live(house, *gone) == []
        *_, intended, deleted = records(path)
    assert [intended["event"], deleted["event"]] == ["delete-intended", "deleted"]
    assert intended["references"] == deleted["references"]
    assert sorted(deleted["references"]) == gone
    assert isinstance(verify(path), Verified)


@each_failure
async def test_with_refuse_a_long_remove_all_waits_for_its_audit(tmp_path: Path, mint: TokenMint, failure: str) -> None:
    gone = ["Observation/b1", "Observation/b2", "Observation/b3", "Observation/b4"]
    async with audited(tmp_path, mint, "refuse") as (house, path):
        headers = {**REMOVE_ALL, "Prefer": "respond-async"}
        answer = await house.ask("DELETE", "/Observation?status=final", scope=ALL, headers=headers)
        assert answer.status_code == 202
        with FAILURES[failure](path):
            for _ in range(10):  # its plan, and more tries at its batch than work that fails may have
                await house.runner.step()
            assert await live(house, *gone) == gone

        while await live(house, *gone):
            await house.runner.step()
        await house.runner.finish()
        deleted = [record for record in records(path) if record["event"] == "deleted"]
        assert [sorted(record["references"]) for record in deleted] == [gone]


@each_failure
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
async def test_with_refuse_a_kick_off_leaves_no_job(tmp_path: Path, mint: TokenMint, failure: str, dialect: Dialect) -> None:
    listener = Listener()
    level = next(level for level in Level if level in dialect.kick_off)
    path_of = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/both/$export"}[level]
    method = dialect.kick_off[level][0]
    async with audited(tmp_path, mint, "refuse", listener, dialect=dialect, jobs_per_owner=1) as (house, path):
        await house.ask("GET", "/$export-status/no-such-job")
        with FAILURES[failure](path):
            answer = await house.ask(method, path_of, headers=KICK_OFF)
            assert answer.status_code == 503
            assert "Content-Location" not in answer.headers
            await house.runner.finish()
        assert not [event for event in listener.heard if isinstance(event, KickedOff | PartSealed)]

        answer = await recovered(house, method, path_of, headers=KICK_OFF)
        assert answer.status_code == 202, "the refused job does not count among those that run"


@each_failure
async def test_with_go_on_the_gap_is_the_first_thing_that_is_recorded(tmp_path: Path, mint: TokenMint, failure: str) -> None:
    listener, metrics = Listener(), Metrics(tmp_path / "metrics")
    async with audited(tmp_path, mint, "go_on", listener, metrics) as (house, path):
        url = (await house.export("/$export?_type=Patient"))["output"][0]["url"]
        before = names(path)
        with FAILURES[failure](path):
            begin = house.clock()
            assert (await house.ask("GET", url)).status_code == 200
            house.clock.advance(7)
            assert (await house.ask("DELETE", "/Patient/p3", scope=ALL)).status_code == 200
        assert [type(event).__name__ for event in listener.heard[-6:]] == [
            "AuditFailed",
            "FileServed",
            "AuditFailed",
            "DeleteIntended",
            "AuditFailed",
            "Deleted",
        ]
        while "audit-gap" not in names(path):
            assert (await house.ask("GET", url)).status_code == 200
        served = sum(isinstance(event, FileServed) for event in listener.heard)
        await house.bulk.retention.sweep()  # a removal is no gap: its report waits in the storage until it can be recorded

    found = records(path)[len(before) :]
    (gap,) = [record for record in found if record["event"] == "audit-gap"]
    assert found[0] == gap
    assert [record["references"] for record in found if record["event"] == "deleted"] == [["Patient/p3"]]
    assert gap["missed"] == {"file-served": served - names(path).count("file-served"), "delete-intended": 1}
    assert gap["count"] == sum(gap["missed"].values())
    assert gap["first"] == "2026-03-01T12:00:02.000000Z"
    assert gap["last"] == "2026-03-01T12:00:09.000000Z"
    assert house.clock() - begin == 7_000_000
    failed = sum(isinstance(event, AuditFailed) for event in listener.heard)
    said = metrics.text()[0].decode()
    assert 'fhir_bulk_audit_failures_total{audit="AuditFile",event="deleted",mount="standard"} 1.0' in said
    assert failed == gap["count"] + 1, "and once for the removal, which waits"
    assert isinstance(verify(path), Verified)


async def test_a_gap_that_is_open_is_recorded_when_the_server_stops(tmp_path: Path, mint: TokenMint) -> None:
    async with audited(tmp_path, mint, "go_on") as (house, path):
        await house.ask("DELETE", "/Patient/nobody", scope=ALL)
        with full_disk(path):
            await house.ask("DELETE", "/Patient/p3", scope=ALL)

    assert records(path)[-1]["missed"] == {"delete-intended": 1}


async def test_each_of_fifty_deletes_is_recorded_or_refused(tmp_path: Path, mint: TokenMint) -> None:
    """The disk fills up and is cleared while deletes come in: what was answered 200 is in the audit."""
    async with audited(tmp_path, mint, "refuse") as (house, path):
        for number in range(50):
            await house.resources.create("Patient", {"resourceType": "Patient", "id": f"x{number}"}, f"x{number}")
        await house.ask("DELETE", "/Patient/nobody", scope=ALL)
        answered = {}
        for number in range(50):
            with full_disk(path) if number % 10 < 3 else open_disk():
                answered[f"Patient/x{number}"] = (await house.ask("DELETE", f"/Patient/x{number}", scope=ALL)).status_code
        left = await live(house, *answered)

    assert sorted(set(answered.values())) == [200, 503]
    deleted = [reference for record in records(path) if record["event"] == "deleted" for reference in record["references"]]
    assert deleted == [reference for reference, status in answered.items() if status == 200]
    assert left == [reference for reference, status in answered.items() if status == 503]


@contextmanager
def open_disk() -> Iterator[None]:
    yield


async def test_what_is_delivered_from_an_outbox_stays_there_until_it_is_recorded(tmp_path: Path, mint: TokenMint) -> None:
    listener = Listener()
    async with audited(tmp_path, mint, "go_on", listener) as (house, path):
        await house.ask("DELETE", "/Patient/p3", scope=ALL)
        event: Event = listener.heard[-1]
        observers = Observers([AuditFile(path), listener])
        with full_disk(path):
            assert not await observers.deliver(event)
        assert await observers.deliver(event)

    assert names(path) == ["delete-intended", "deleted", "deleted"], "at least once, and no gap"


def test_a_real_server_refuses_while_a_stopped_process_holds_its_audit(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.load("a population of 1 patients", population(patients=1), lambda _: None)
    headers = {"authorization": f"Bearer {state.mint().token('me', 'system/*.cruds')}", "prefer": "respond-async"}
    with server_process(state, 0, ["--workers", "0"]) as server, httpx2.Client(headers=headers, timeout=PATIENCE) as http:
        location = http.get(f"{server.url}/$export?_type=Patient").headers["content-location"]
        answer = polled(http.get, location)
        url = answer.json()["output"][0]["url"]
        patient = http.get(url).json()["id"]
        with locked_by_a_stopped_process(state.audit):
            for method, target in (
                ("GET", f"{server.url}/$export"),
                ("GET", url),
                ("DELETE", f"{server.url}/Patient/{patient}"),
            ):
                assert http.request(method, target).status_code == 503
        while (answer := http.get(f"{server.url}/Patient/{patient}")).status_code == 503:
            pass
        assert answer.status_code == 200, "it is there still"

    assert isinstance(verify(state.audit), Verified)
