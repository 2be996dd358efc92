"""Histories in which an export must not lose anything: moves before a deletion, a clock that is set back (laws 34 and 45)."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from house import KICK_OFF, HandClock, House

from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

Store = MemoryResourceStore | SQLiteResourceStore


@pytest.fixture(params=["memory", "sqlite"])
async def kept(request: pytest.FixtureRequest, make_house: Any, tmp_path: Path) -> AsyncIterator[tuple[House, Store]]:
    """A house on each of our stores."""
    clock = HandClock()
    store = MemoryResourceStore(clock=clock) if request.param == "memory" else SQLiteResourceStore(tmp_path / "s.db", clock=clock)
    async with make_house(parts={"resources": store, "clock": clock}) as house:
        house.clock = clock
        yield house, store
    if isinstance(store, SQLiteResourceStore):
        store.close()


async def put(house: House, store: Store, type_: str, id_: str, **content: Any) -> None:
    await store.update(type_, id_, {"resourceType": type_, "id": id_, **content})
    house.clock.advance(1)


async def gone(house: House, manifest: dict[str, Any]) -> list[str]:
    bundles = (await house.lines(manifest, "deleted")).get("Bundle", [])
    return [entry["request"]["url"] for bundle in bundles for entry in json.loads(bundle)["entry"]]


def member(*references: str) -> dict[str, Any]:
    return {"type": "person", "actual": True, "member": [{"entity": {"reference": reference}} for reference in references]}


async def test_a_deletion_reaches_the_cohort_that_the_resource_had_left(kept: tuple[House, Store]) -> None:
    """Law 34: both cohorts mirror it, so both learn of it; a third one does not."""
    house, store = kept
    for patient in ("p1", "p2", "p3"):
        await put(house, store, "Patient", patient)
        await put(house, store, "Group", f"of-{patient}", **member(f"Patient/{patient}"))
    await put(house, store, "Observation", "o", subject={"reference": "Patient/p1"})
    since = (await house.export("/$export"))["transactionTime"]
    await put(house, store, "Observation", "o", subject={"reference": "Patient/p2"})
    await store.delete("Observation", "o")
    found = {}
    for patient in ("p1", "p2", "p3"):
        manifest = await house.export(f"/Group/of-{patient}/$export?_since={since}")
        found[patient] = await gone(house, manifest)
    assert found == {"p1": ["Observation/o"], "p2": ["Observation/o"], "p3": []}
    assert await gone(house, await house.export(f"/Patient/$export?_since={since}")) == ["Observation/o"]


class Forgetting(MemoryResourceStore):
    """Knows what was deleted since an instant."""

    since = parse("2026-03-01T12:00:00.500Z")

    async def deletions_known_since(self) -> Instant | None:
        return self.since


@pytest.mark.parametrize("refuse", [False, True])
async def test_deletions_that_were_forgotten_are_not_lost_in_silence(make_house: Any, refuse: bool) -> None:
    """The manifest says since when `deleted` is complete, or the kick-off is refused and says what to do."""
    async with make_house(store=Forgetting, refuse_forgotten_deletions=refuse) as house:
        house.clock.advance(60)
        for since in (None, "2026-03-01T12:00:00.500Z"):
            path = "/$export" if since is None else f"/$export?_since={since}"
            assert "extension" not in await house.export(path), "nothing was forgotten of what was asked"
        path = "/$export?_since=2026-03-01T12:00:00.499Z"
        if not refuse:
            manifest = await house.export(path)
            assert manifest["extension"] == {"deletedComplete": False, "deletedCompleteSince": "2026-03-01T12:00:00.500Z"}
        else:
            refused = await house.ask("GET", path, headers=KICK_OFF)
            assert refused.status_code == 400
            assert "before 2026-03-01T12:00:00.500Z is not known any more: export without _since." in refused.text


async def test_a_clock_that_is_set_back_hides_nothing_that_was_answered(kept: tuple[House, Store]) -> None:
    """Law 45: the machine takes 100 s to catch up, and each export until then has what was answered before it."""
    house, store = kept
    await put(house, store, "Patient", "p0")
    since = (await house.export("/$export"))["transactionTime"]
    house.clock.advance(-100)
    for number in range(1, 4):
        await store.update("Patient", f"p{number}", {"resourceType": "Patient", "id": f"p{number}"})
        manifest = await house.export(f"/$export?_since={since}")
        lines = await house.lines(manifest)
        assert [json.loads(line)["id"] for line in lines["Patient"]] == [f"p{number}"], "once, in the first export after it"
        since = manifest["transactionTime"]
