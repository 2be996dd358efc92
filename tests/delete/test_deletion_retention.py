"""Deletions are kept for a settable time, and an export since an earlier instant says so (laws 3 and 34)."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hosts import HardHost
from house import KICK_OFF, HandClock, House
from pydantic import ValidationError

from fhir_bulk_middleware import (
    Instant,
    MemoryDeletionLog,
    MemoryResourceStore,
    Settings,
    SQLiteDeletionLog,
    SQLiteResourceStore,
)
from fhir_bulk_middleware.instant import Precision, after, render
from fhir_bulk_middleware.stores.sqlite import horizon_table as horizon

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
DAY = 86_400.0
KEPT = 10 * DAY
KINDS = ["memory store", "sqlite store", "memory log", "sqlite log"]

Parts = dict[str, Any]


def parts_of(kind: str, clock: HandClock, folder: Path) -> Parts:
    """A storage that keeps its history, or one that deletes hard with our log before it."""
    match kind:
        case "memory store":
            return {"resources": MemoryResourceStore(clock=clock)}
        case "sqlite store":
            return {"resources": SQLiteResourceStore(folder / "resources.db", clock=clock)}
        case "memory log":
            return {"resources": HardHost(clock), "log": MemoryDeletionLog()}
    return {"resources": HardHost(clock), "log": SQLiteDeletionLog(folder / "log.db")}


def close(parts: Parts) -> None:
    for part in parts.values():
        if isinstance(part, SQLiteResourceStore | SQLiteDeletionLog):
            part.close()


async def write(house: House, id_: str) -> None:
    resources: Any = house.bulk.offer.resources
    text = json.dumps({"resourceType": "Patient", "id": id_})
    if isinstance(resources, HardHost):
        await resources.put(text)
    else:
        await resources.update("Patient", id_, text.encode())
    house.clock.advance(1)


async def delete(house: House, id_: str) -> None:
    house.clock.advance(1)
    assert (await house.ask("DELETE", f"/Patient/{id_}", scope=FULL)).status_code == 200
    house.clock.advance(60)


async def gone(house: House, manifest: dict[str, Any]) -> list[str]:
    bundles = (await house.lines(manifest, "deleted")).get("Bundle", [])
    return [entry["request"]["url"] for bundle in bundles for entry in json.loads(bundle)["entry"]]


def shown(instant: Instant) -> str:
    return render(instant, Precision.MILLISECONDS)


@pytest.fixture
def make(make_house: Any, tmp_path: Path) -> Callable[..., Any]:
    def house(kind: str, **settings: Any) -> Any:
        clock = HandClock()
        parts = parts_of(kind, clock, tmp_path)
        return _House(make_house(parts={**parts, "clock": clock}, deletion_retention=KEPT, **settings), clock, parts)

    return house


class _House:
    """A house on a clock of its own, whose files are closed behind it."""

    def __init__(self, opened: Any, clock: HandClock, parts: Parts) -> None:
        self.opened, self.clock, self.parts = opened, clock, parts

    async def __aenter__(self) -> House:
        house: House = await self.opened.__aenter__()
        house.clock = self.clock
        house.verifier._clock = self.clock
        house.resources = self.parts["resources"]
        return house

    async def __aexit__(self, *error: object) -> None:
        await self.opened.__aexit__(*error)
        close(self.parts)


@pytest.fixture(params=KINDS)
async def house(request: pytest.FixtureRequest, make: Callable[..., Any]) -> AsyncIterator[House]:
    async with make(request.param) as house:
        yield house


async def test_an_export_since_an_instant_before_the_retention_says_so(house: House) -> None:
    await write(house, "p1")
    since = shown(house.clock())
    await delete(house, "p1")
    house.clock.advance(30 * DAY)
    running = await house.kick_off(f"/$export?_since={since}")  # it was told that all is known

    await house.bulk.retention.sweep()
    known = shown(after(house.clock(), -KEPT))
    late = await house.kick_off(f"/$export?_since={since}")
    house.clock.advance(DAY - 1)
    await house.bulk.retention.sweep()
    await house.runner.finish()

    manifest = (await house.ask("GET", running)).json()
    assert await gone(house, manifest) == ["Patient/p1"], "what a job was promised is there as long as it can run"
    assert "deletedCompleteSince" not in manifest.get("extension", {})
    said = (await house.ask("GET", late)).json()["extension"]
    assert (said["deletedComplete"], said["deletedCompleteSince"]) == (False, known)
    assert "deletedCompleteSince" not in (await house.export(f"/$export?_since={known}")).get("extension", {})

    house.clock.advance(62)
    await house.bulk.retention.sweep()
    manifest = await house.export(f"/$export?_since={since}")
    assert await gone(house, manifest) == []
    assert manifest["extension"]["deletedCompleteSince"] == shown(after(house.clock(), -KEPT - 1)), "the next horizon"


async def test_an_export_since_an_instant_before_the_retention_is_refused(make: Callable[..., Any]) -> None:
    for kind in KINDS:
        async with make(kind, refuse_forgotten_deletions=True) as house:
            since = shown(house.clock())
            await write(house, "p1")
            house.clock.advance(11 * DAY)
            await house.bulk.retention.sweep()
            refused = await house.ask("GET", f"/$export?_since={since}", headers=KICK_OFF)
            assert refused.status_code == 400
            assert "is not known any more: export without _since." in refused.text
            assert "output" in await house.export(f"/$export?_since={shown(after(house.clock(), -KEPT))}")


async def test_a_chain_within_the_retention_loses_nothing(house: House) -> None:
    """Law 3, with an export every eight days, sweeps each hour, and a deletion before each export."""
    await write(house, "p0")
    since = (await house.export("/$export"))["transactionTime"]
    for number in range(6):
        await write(house, f"p{number + 1}")
        await delete(house, f"p{number}")
        for _ in range(8 * 24):
            house.clock.advance(3600)
            await house.bulk.retention.sweep()
        manifest = await house.export(f"/$export?_since={since}")
        assert await gone(house, manifest) == [f"Patient/p{number}"]
        assert [json.loads(line)["id"] for line in (await house.lines(manifest))["Patient"]] == [f"p{number + 1}"]
        assert "deletedCompleteSince" not in manifest.get("extension", {})
        since = manifest["transactionTime"]
    again = await house.ask("DELETE", "/Patient/p0", scope=FULL)
    assert again.status_code == 204, "a resource that was forgotten is answered as one that never was"


@pytest.mark.parametrize("kind", ["sqlite store", "sqlite log"])
@pytest.mark.parametrize("dies", ["_announce", "_remove"])
async def test_a_process_that_dies_while_it_forgets_does_no_harm(
    kind: str, dies: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step it dies in, its transaction is undone and the next sweep goes on."""

    def killed(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    async with make(kind) as house:
        await write(house, "p1")
        since = shown(house.clock())
        await delete(house, "p1")
        house.clock.advance(30 * DAY)
        for number in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(horizon, dies, killed)
                try:
                    await house.bulk.retention.sweep()
                except KeyboardInterrupt:
                    pass
                else:
                    assert dies == "_remove", "nothing is removed before a horizon is in force"
            close({"resources": house.bulk.offer.resources})
            manifest = await house.export(f"/$export?_since={since}")
            told = "deletedCompleteSince" in manifest.get("extension", {})
            assert told or await gone(house, manifest) == ["Patient/p1"], "told, or still known"
            await house.bulk.retention.sweep()
            house.clock.advance(timedelta(days=1, minutes=2).total_seconds() * (number + 1))
        await house.bulk.retention.sweep()
        manifest = await house.export(f"/$export?_since={since}")
        assert "deletedCompleteSince" in manifest["extension"]
        assert await gone(house, manifest) == []


async def test_with_our_log_before_a_storage_the_later_horizon_counts(make_house: Any) -> None:
    clock = HandClock()

    class Host(HardHost):
        known: Instant | None = None

        async def deletions_known_since(self) -> Instant | None:
            return self.known

    host, log = Host(clock), MemoryDeletionLog()
    async with make_house(parts={"resources": host, "log": log, "clock": clock}) as house:
        house.clock = house.verifier._clock = clock
        start = clock()
        clock.advance(100)
        await log.forget(after(start, 20), now=clock(), grace=0)
        for known, expected in ((None, 20), (10, 20), (30, 30)):
            host.known = None if known is None else after(start, known)
            manifest = await house.export(f"/$export?_since={shown(start)}")
            assert manifest["extension"]["deletedCompleteSince"] == shown(after(start, expected))


def test_the_retention_of_deletions_is_longer_than_that_of_files() -> None:
    assert Settings().deletion_retention is None
    assert Settings(deletion_retention=8 * DAY).deletion_retention == 8 * DAY
    with pytest.raises(ValidationError, match="deletion_retention must be at least deadline plus retention"):
        Settings(deletion_retention=8 * DAY - 1)
