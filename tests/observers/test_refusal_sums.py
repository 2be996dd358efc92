"""Refusals that anybody can cause cost an audit one record in an interval, and never get in the way of a disclosure (law 37)."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from house import BASE, ISSUER, House, populate
from listening import Listener

from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.events import Event, RefusalsSummed, RequestRefused
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.observers.audit_file import AuditFile, Verified, verify
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Operation, Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

FLOOD = 5_000
CLIENTS = 100
FETCHES = 20


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Durable:
    """How often this process has asked for something to be durable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        fsync = os.fsync

        def counted(descriptor: int) -> None:
            self.writes += 1
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", counted)


async def test_a_flood_of_anonymous_requests_is_one_record_and_disclosures_go_on(
    tmp_path: Path, mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    house = House(mint, STANDARD, Settings(public_base_url=BASE, on_audit_failure="refuse"), observers=[AuditFile(path)])
    crowd = [
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(house.bulk.app, client=(f"192.0.2.{number}", 1)), base_url="https://ehr.example"
        )
        for number in range(CLIENTS)
    ]
    served: list[int] = []

    async def flood(client: httpx2.AsyncClient) -> None:
        for number in range(FLOOD // CLIENTS):
            headers = {"Authorization": "Bearer x"} if number % 2 else {}
            assert (await client.get("/$export", headers=headers)).status_code == 401

    async def fetch(url: str) -> None:
        served.extend([(await house.ask("GET", url)).status_code for _ in range(FETCHES)])

    async with house.bulk.running(), house.http:
        await populate(house)
        url = (await house.export("/$export?_type=Patient"))["output"][0]["url"]
        before = len(records(path))
        durable = Durable(monkeypatch)
        async with anyio.create_task_group() as tasks:
            for client in crowd:
                tasks.start_soon(flood, client)
            tasks.start_soon(fetch, url)
    for client in crowd:
        await client.aclose()

    found = Counter(record["event"] for record in records(path)[before:])
    assert served == [200] * FETCHES
    assert found == {"file-served": FETCHES, "refusals-summed": 1}, "the sum comes when the server stops, at the latest"
    assert durable.writes <= 3 * (FETCHES + 1), "line, head and folder for each"
    [summed] = [record for record in records(path)[before:] if record["event"] == "refusals-summed"]
    assert summed["count"] == FLOOD
    assert summed["owner"] is None
    assert summed["reasons"] == {"kick-off: token-missing": FLOOD // 2, "kick-off: token-invalid": FLOOD // 2}
    assert len(summed["addresses"]) == 17, "sixteen, and the others"
    assert sum(summed["addresses"].values()) == FLOOD
    assert isinstance(verify(path), Verified)


class Keeps(Listener):
    """An audit that keeps what it hears."""

    essential = True


class Moved:
    def __init__(self) -> None:
        self.now = Instant(1_700_000_000_000_000)

    def __call__(self) -> Instant:
        return self.now


def refusal(clock: Moved, owner: Owner | None, address: str = "192.0.2.1", reason: Reason = Reason.VALUE_MALFORMED) -> Event:
    caller = Caller(address=address, request_id="r")
    return RequestRefused(at=clock(), mount="m", owner=owner, caller=caller, operation=Operation.KICK_OFF, reason=reason)


async def test_an_owner_is_recorded_one_by_one_up_to_twenty_in_an_interval() -> None:
    clock, audit = Moved(), Keeps()
    observers = Observers([audit], clock=clock)
    alice = Owner(ISSUER, "alice")
    for _ in range(3):
        for _ in range(50):
            await observers.tell(refusal(clock, alice))
        clock.now = after(clock.now, 60)
    await observers.close()

    single = [event for event in audit.heard if isinstance(event, RequestRefused)]
    summed = [event for event in audit.heard if isinstance(event, RefusalsSummed)]
    assert len(single) == 3 * 20
    assert [(event.owner, event.count) for event in summed] == [(alice, 30)] * 3
    assert [event.first for event in summed] == sorted({event.at for event in single})


async def test_any_number_of_owners_and_addresses_makes_a_bounded_number_of_records() -> None:
    clock, audit, log = Moved(), Keeps(), Listener()
    observers = Observers([audit, log], clock=clock)
    for number in range(5_000):
        await observers.tell(refusal(clock, Owner(ISSUER, f"{number}"), address=f"2001:db8::{number:x}"))
    await observers.close()

    single = sum(isinstance(event, RequestRefused) for event in audit.heard)
    summed = [event for event in audit.heard if isinstance(event, RefusalsSummed)]
    assert single == 1_000
    assert len(summed) <= 1_001
    assert single + sum(event.count for event in summed) == 5_000
    assert max(len(event.addresses) for event in summed) == 17
    assert len(log.heard) == 5_000, "who is no audit hears of each"


async def test_a_poll_that_came_too_soon_is_no_record_at_all() -> None:
    clock, audit = Moved(), Keeps()
    observers = Observers([audit], clock=clock)
    for _ in range(100):
        await observers.tell(refusal(clock, Owner(ISSUER, "alice"), reason=Reason.POLLED_TOO_OFTEN))
    await observers.close()

    assert audit.heard == []


async def test_a_running_server_tells_the_sum_of_each_interval_though_nothing_else_happens() -> None:
    heard = anyio.Event()

    class Waits(Keeps):
        async def observe(self, event: Event) -> None:
            await super().observe(event)
            heard.set()

    observers = Observers([audit := Waits()], interval=0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(observers.keep_summing)
        clock = Moved()
        await observers.tell(refusal(clock, None))
        await heard.wait()
        tasks.cancel_scope.cancel()

    assert [type(event) for event in audit.heard] == [RefusalsSummed]
