"""An export asks once which types changed, and holds the same as if it had asked for each (`SupportsChangedTypes`)."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hosts import HardHost
from house import House, populate

from fhir_bulk_middleware.contract.query import Deletions, Query, Range, Window
from fhir_bulk_middleware.instant import Clock, Instant, system_clock
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.samples import observation, organization, patient, provenance

pytestmark = pytest.mark.anyio


class Counting(MemoryResourceStore):
    """Counts by type what it is asked for; `changed types` are counted as questions."""

    def __init__(self, *, clock: Clock = system_clock) -> None:
        super().__init__(clock=clock)
        self.asked: Counter[str] = Counter()

    async def changed_types(self, types: frozenset[str], window: Window, *, as_of: Instant | None, rights: str) -> frozenset[str]:
        self.asked["changed types"] += 1
        return await super().changed_types(types, window, as_of=as_of, rights=rights)

    async def slices(self, query: Query, target_bytes: int) -> list[Range]:
        self.asked[f"slices of {query.type}"] += 1
        return [*await super().slices(query, target_bytes)]

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        self.asked[f"deletions of {query.type}"] += 1
        return super().deletions(query, after)

    def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        self.asked[f"left of {query.type}"] += 1
        return super().left(query, after)


class Silent(MemoryResourceStore):
    """Cannot tell which types changed."""

    changed_types = None  # type: ignore[assignment]


class Telling(HardHost):
    """A host without deletions of its own, which tells what changed by the rows that it has."""

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002
        rights: str,  # noqa: ARG002
    ) -> frozenset[str]:
        return types & {row.type for row in self.rows.values() if row.last_updated > (window.since or 0)}


async def test_an_export_of_one_change_asks_for_its_type_alone(make_house: Any) -> None:
    """Law 44: one question for the whole plan, whatever number of types there is."""
    async with make_house(store=Counting) as house:
        await populate(house)
        since = (await house.export())["transactionTime"]
        await house.resources.update("Patient", "p3", {"resourceType": "Patient", "id": "p3", "active": True})
        house.resources.asked.clear()
        manifest = await house.export(f"/$export?_since={since}")
        assert [(item["type"], item["count"]) for item in manifest["output"]] == [("Patient", 1)]
        assert set(house.resources.asked) == {"changed types", "slices of Patient", "deletions of Patient"}
        assert house.resources.asked["changed types"] == 1


async def test_an_export_of_a_group_asks_for_the_types_that_changed_alone(make_house: Any) -> None:
    """Also for what left, and what became of context. Provenance comes by its targets, so it is asked for."""
    async with make_house(store=Counting) as house:
        await populate(house)
        since = (await house.export("/Group/both/$export"))["transactionTime"]
        await house.resources.update("Observation", "b1", json.loads(observation("b1", "Patient/p3")))
        house.resources.asked.clear()
        manifest = await house.export(f"/Group/both/$export?_since={since}")
        assert manifest["output"] == []
        assert [item["count"] for item in manifest["extension"]["left"]] == [1]
        assert {asked.rpartition(" ")[2] for asked in house.resources.asked} == {"types", "Observation", "Provenance"}
        assert house.resources.asked["changed types"] == 3


async def _history(house: House) -> list[str]:
    """Several changes of each kind; the cuts between them."""
    await populate(house)
    for text in (organization("ward"), observation("w", "Patient/p1", performer=[{"reference": "Organization/ward"}])):
        content = json.loads(text)
        await house.resources.create(content["resourceType"], content, content["id"])
    cuts = [(await house.export())["transactionTime"]]
    for texts, deleted in (
        ([patient("p1", "later"), organization("ward")], []),
        ([observation("b1", "Patient/p3"), provenance("of-b2", "Observation/b2")], ["Observation/b4"]),
        ([], ["Patient/p2", "Organization/o1"]),
        ([observation("b4", "Patient/p1"), provenance("of-ward", "Organization/ward")], ["Organization/ward"]),
    ):
        for content in map(json.loads, texts):
            await house.resources.update(content["resourceType"], content["id"], content)
        for reference in deleted:
            type_, _, id_ = reference.partition("/")
            await house.resources.delete(type_, id_)
        if deleted:
            group = {"resourceType": "Group", "id": "first", "type": "person", "actual": True}
            members = [{"entity": {"reference": f"Patient/{id_}"}} for id_ in ("p1", "p3")]
            await house.resources.update("Group", "first", {**group, "member": members})
        cuts.append((await house.export())["transactionTime"])
    return cuts


@pytest.mark.parametrize(
    "path",
    [
        "/$export?",
        "/$export?includeAssociatedData=LatestProvenanceResources&",
        "/$export?_typeFilter=Observation%3Fstatus%3Dfinal&",
        "/Patient/$export?",
        "/Patient/$export?organizeOutputBy=Patient&",
        "/Group/both/$export?",
        "/Group/first/$export?",
    ],
)
async def test_it_holds_the_same_as_if_it_had_asked_for_each_type(make_house: Any, path: str) -> None:
    found = []
    for store in (MemoryResourceStore, Silent):
        async with make_house(store=store, older_data_of_new_members=True) as house:
            cuts = await _history(house)
            windows = ["", *(f"_since={since}" for since in cuts), *(f"_since={cuts[0]}&_until={until}" for until in cuts[1:3])]
            exports = []
            for window in windows:
                manifest = await house.export(path + window)
                left = manifest.get("extension", {}).get("left", [])
                lists = (manifest["output"], manifest.get("deleted", []), manifest.get("error", []), left)
                found_in = [[{"type": "", **item} for item in listed] for listed in lists]  # organised files have no type
                exports.append([await house.lines({"": listed}, "") for listed in found_in])
            found.append(exports)
    assert any(exports[1][1] for exports in found), "something was deleted"
    assert found[0] == found[1]


async def test_deletions_of_our_own_log_are_told_of_types_that_did_not_change(make_house: Any) -> None:
    """The storage knows nothing of them: no row is left."""
    host = Telling()
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog()}) as house:
        host.clock = house.clock
        await host.put(patient("p1"), observation("o", "Patient/p1"))
        house.clock.advance(60)
        for path in ("/$export", "/Patient/$export"):
            since = (await house.export(path))["transactionTime"]
            house.clock.advance(60)
            await host.put(observation("o", "Patient/p1"))
            assert (await house.ask("DELETE", "/Observation/o", scope="system/*.cruds")).status_code == 200
            house.clock.advance(60)
            deleted = await house.lines(await house.export(f"{path}?_since={since}"), "deleted")
            assert [json.loads(line)["entry"][0]["request"]["url"] for line in deleted["Bundle"]] == ["Observation/o"]


class Inventing(MemoryResourceStore):
    """Returns a list."""

    async def changed_types(self, types: frozenset[str], window: Window, *, as_of: Instant | None, rights: str) -> Any:
        return sorted(await super().changed_types(types, window, as_of=as_of, rights=rights))


async def test_another_answer_than_a_set_fails_the_job_by_name(make_house: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with make_house(store=Inventing, attempts=1) as house:
        await populate(house)
        location = await house.kick_off()
        await house.runner.finish()
        assert (await house.ask("GET", location)).status_code == 500
        assert "the adapter's changed_types returned a list and must return frozenset" in caplog.text
