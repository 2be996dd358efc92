"""Events: each thing that happens is told once, to everybody, and harms nobody."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from house import BASE, KICK_OFF, House, populate
from listening import Deaf, Listener

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.events import (
    Completed,
    Deleted,
    Event,
    Expired,
    Failed,
    FileServed,
    KickedOff,
    PartSealed,
    RemovalKind,
    RequestRefused,
    Started,
    content,
)
from fhir_bulk_middleware.contract.query import Query
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.observers.logs import LogEvents
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Operation, Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

ALICE = Owner("https://auth.example", "alice")


@asynccontextmanager
async def heard(mint: TokenMint, *observers: Any, **settings: Any) -> AsyncIterator[tuple[House, Listener]]:
    listener = Listener()
    house = House(mint, STANDARD, Settings(public_base_url=BASE, **settings), observers=[*observers, listener])
    async with house.bulk.running(), house.http:
        await populate(house)
        yield house, listener


async def test_a_whole_life_is_told_in_order(mint: TokenMint) -> None:
    async with heard(mint) as (house, listener):
        location = await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()
        url = manifest["output"][0]["url"]
        await house.ask("GET", url)
        await house.ask("DELETE", location)
        await house.ask("GET", url)

    assert listener.names == ["KickedOff", "Started", "PartSealed", "Completed", "FileServed", "Cancelled", "RequestRefused"]
    kicked_off, started, sealed, completed, served, _, refused = listener.heard
    assert all(event.owner == ALICE and event.mount == house.bulk.mount for event in listener.heard)
    assert isinstance(kicked_off, KickedOff)
    assert kicked_off.types == ("Patient",)
    assert {getattr(event, "job_id", kicked_off.job_id) for event in listener.heard} == {kicked_off.job_id}
    assert isinstance(started, Started)
    assert started.slices == 1
    assert isinstance(sealed, PartSealed)
    assert (sealed.count, sealed.size) == (3, manifest["output"][0]["extension"]["size"])
    assert isinstance(completed, Completed)
    assert completed.resources == 3
    assert isinstance(served, FileServed)
    assert served.file_id == sealed.file_id
    assert isinstance(refused, RequestRefused)
    assert (refused.operation, refused.reason) == (Operation.FILE, Reason.JOB_CANCELLED)


async def test_an_export_of_nothing_completes_too(mint: TokenMint) -> None:
    async with heard(mint) as (house, listener):
        await house.kick_off("/Group/nobody/$export")
        await house.runner.finish()

    assert listener.names == ["KickedOff", "Started", "Completed"]


async def test_what_nobody_fetched_is_not_told_as_served(mint: TokenMint) -> None:
    async with heard(mint) as (house, listener):
        url = (await house.export("/$export?_type=Patient"))["output"][0]["url"]
        etag = (await house.ask("HEAD", url)).headers["ETag"]
        assert (await house.ask("GET", url, headers={"If-None-Match": etag})).status_code == 304
        assert "FileServed" not in listener.names
        assert (await house.ask("GET", url, headers={"Range": "bytes=0-9"})).status_code == 206

    served = listener.heard[-1]
    assert isinstance(served, FileServed)
    assert served.size == 10


async def test_each_way_to_fail_is_told_once_with_its_cause(mint: TokenMint) -> None:
    async with heard(mint, renew_seconds=0.001, lease_seconds=0.01, attempts=2) as (house, listener):

        def broken(query: Query, after: str | None) -> AsyncIterator[Any]:  # noqa: ARG001
            raise OSError("secret detail")

        house.resources.pages = broken  # type: ignore[method-assign]
        await house.kick_off("/$export?_type=Patient")
        await house.runner.finish()
        await house.kick_off("/$export?_type=Patient")
        house.clock.advance(house.settings.deadline + 1)
        await house.bulk.retention.sweep()
        await house.bulk.retention.sweep()

    failures = [event for event in listener.heard if isinstance(event, Failed)]
    assert [(event.reason, event.cause) for event in failures] == [
        (Reason.FAULT, "OSError"),
        (Reason.FAULT, "not done after 86400 seconds"),
    ]


async def test_an_expiry_is_told_once(mint: TokenMint) -> None:
    async with heard(mint) as (house, listener):
        await house.export("/$export?_type=Patient")
        house.clock.advance(house.settings.retention)
        await house.bulk.retention.sweep()
        await house.bulk.retention.sweep()

    assert [type(event) for event in listener.heard].count(Expired) == 1


@pytest.mark.parametrize(
    ("subject", "path", "owner", "reason"),
    [
        (None, "/$export", None, Reason.TOKEN_MISSING),
        ("alice", "/$export?_since=yesterday", ALICE, Reason.VALUE_MALFORMED),
        ("alice", "/$export?_secret=123-45-6789", ALICE, Reason.PARAMETER_UNKNOWN),
    ],
)
async def test_a_refusal_says_who_and_why_and_repeats_nothing(
    mint: TokenMint, subject: str | None, path: str, owner: Owner | None, reason: Reason
) -> None:
    async with heard(mint) as (house, listener):
        await house.ask("GET", path, subject=subject, headers=KICK_OFF)

    (event,) = listener.heard
    assert isinstance(event, RequestRefused)
    assert (event.owner, event.operation, event.reason) == (owner, Operation.KICK_OFF, reason)
    assert "?" not in json.dumps(content(event))
    assert "123-45" not in json.dumps(content(event))


async def test_an_observer_that_raises_harms_neither_request_nor_job_nor_other_observers(
    mint: TokenMint, caplog: pytest.LogCaptureFixture
) -> None:
    async with heard(mint, Deaf()) as (house, listener):
        manifest = await house.export("/$export?_type=Patient")
        assert (await house.ask("GET", manifest["output"][0]["url"])).status_code == 200

    assert listener.names == ["KickedOff", "Started", "PartSealed", "Completed", "FileServed"]
    assert "Deaf missed the event kicked-off" in caplog.text


async def test_an_observer_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    class Slow:
        async def observe(self, event: Event) -> None:  # noqa: ARG002
            await anyio.sleep_forever()

    listener = Listener()
    event = RequestRefused(at=_now(), mount="m", owner=None, operation=Operation.FILE, reason=Reason.FAULT)
    await Observers([Slow(), listener], patience=0.01).tell(event)

    assert listener.heard == [event]
    assert "Slow missed the event request-refused" in caplog.text


async def test_a_teller_that_is_cancelled_still_tells() -> None:
    listener = Listener()
    event = RequestRefused(at=_now(), mount="m", owner=None, operation=Operation.FILE, reason=Reason.FAULT)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Observers([listener]).tell(event)

    assert listener.heard == [event]


async def test_the_log_has_the_event_as_json_and_as_an_attribute(mint: TokenMint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fhir_bulk_middleware.contract.events")
    async with heard(mint, LogEvents()) as (house, _):
        await house.kick_off("/$export?_type=Patient&_since=2020-01-01T00:00:00Z")

    (record,) = [record for record in caplog.records if record.name == "fhir_bulk_middleware.contract.events"]
    said = json.loads(record.getMessage())
    assert said == record.__dict__["event"]
    assert said["event"] == "kicked-off"
    assert said["owner"] == {"issuer": "https://auth.example", "subject": "alice"}
    assert "_since" not in record.getMessage()


async def test_an_observer_without_its_method_is_refused_by_name(mint: TokenMint) -> None:
    with pytest.raises(TypeError, match="observers: PosixPath is no Observer; it lacks observe"):
        House(mint, STANDARD, Settings(), observers=[Path()])


def _now() -> Any:
    return 0


@pytest.mark.parametrize(
    ("path", "headers", "removal", "count"),
    [
        ("/Patient/p3", {}, RemovalKind.BY_ID, 1),
        ("/Observation?_id=b1", {}, RemovalKind.BY_CRITERIA, 1),
        ("/Observation?status=final", {"X-Conditional-Delete": "remove-all"}, RemovalKind.ALL, 4),
        ("/Observation?status=final", {"X-Conditional-Delete": "remove-all", "Prefer": "respond-async"}, RemovalKind.ALL, 4),
    ],
)
async def test_what_was_deleted_is_told_by_reference(
    mint: TokenMint, path: str, headers: dict[str, str], removal: RemovalKind, count: int
) -> None:
    async with heard(mint) as (house, listener):
        answer = await house.ask("DELETE", path, scope="system/*.cruds", headers=headers)
        assert answer.status_code in {200, 202, 204}, answer.text
        await house.runner.finish()

    (event,) = [event for event in listener.heard if isinstance(event, Deleted)]
    assert (event.owner, event.removal, len(event.references)) == (ALICE, removal, count)
    assert all(reference.startswith(f"{event.type}/") for reference in event.references)
    assert ("Completed" in listener.names) == ("KickedOff" in listener.names) == ("Prefer" in headers)


async def test_a_delete_that_removes_nothing_is_told_as_none(mint: TokenMint) -> None:
    async with heard(mint) as (house, listener):
        await house.ask("DELETE", "/Patient/nobody", scope="system/*.cruds")

    assert "Deleted" not in listener.names
