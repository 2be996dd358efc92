"""A conditional delete beside a writer that never rests: found and removed under one lock, where the storage has one."""

from collections.abc import Mapping
from typing import Any

import pytest
from hosts import HardHost
from house import House, populate

from fhir_bulk_middleware.contract.removal import Matches, Target
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
ALL = {"x-conditional-delete": "remove-all"}


def restless(store: type[Any]) -> type[Any]:
    """The store, in which a match is written anew, and another one created, after each look."""

    class Restless(store):  # type: ignore[misc]
        looks = 0
        creates = False

        async def find(self, target: Target, *, at_most: int) -> Matches:
            found: Matches = await super().find(target, at_most=at_most)
            type(self).looks += 1
            resource = {"resourceType": "Observation", "status": "final", "code": {"text": "y"}}
            await self.update("Observation", "b2", resource)
            if type(self).creates:
                await self.create("Observation", resource)
            return found

    return Restless


@pytest.fixture(params=[MemoryResourceStore, SQLiteResourceStore])
async def busy(request: Any, tmp_path: Any, make_house: Any) -> Any:
    kind = restless(request.param)
    store = kind() if request.param is MemoryResourceStore else kind(tmp_path / "resources.db")
    async with make_house(parts={"resources": store}) as house:
        house.resources = store
        await populate(house)
        yield house
    if isinstance(store, SQLiteResourceStore):
        store.close()


async def living(house: House) -> set[str]:
    return {stored.id for stored in (await house.resources.search("Observation", ids=None, count=999, after=None)).resources}


@pytest.mark.parametrize(
    ("url", "scope", "headers", "creates"),
    [
        ("/Observation?code:text=y", FULL, {}, False),
        ("/Observation/b2", "system/Observation.cruds?code:text=y", {}, False),
        ("/Observation?code:text=y", FULL, {"If-Match": "*"}, False),
        ("/Observation?code:text=y", FULL, ALL, True),
    ],
)
async def test_it_is_settled_at_last(busy: House, url: str, scope: str, headers: Mapping[str, str], creates: bool) -> None:
    type(busy.resources).creates = creates  # type: ignore[attr-defined]
    answer = await busy.ask("DELETE", url, scope=scope, headers=headers)

    assert answer.status_code == 200, answer.text
    assert await living(busy) == {"b1", "b3", "b4"}


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        ("/Observation?code:text=y", {}, 412),  # by the time of the lock there are several
        ("/Observation?code:text=y", {"If-Match": 'W/"1"'}, 412),
    ],
)
async def test_under_the_lock_the_same_conditions_hold(
    busy: House, url: str, headers: Mapping[str, str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(busy.resources), "creates", not headers)
    answer = await busy.ask("DELETE", url, scope=FULL, headers=headers)

    assert answer.status_code == status, answer.text
    assert "b2" in await living(busy)


async def test_a_storage_without_the_lock_is_asked_to_come_again(make_house: Any) -> None:
    class Restless(HardHost):
        async def find(self, target: Target, *, at_most: int) -> Matches:
            found = await super().find(target, at_most=at_most)
            await self.put('{"resourceType":"Observation","id":"o","code":{"text":"y"}}')
            return found

    host = Restless()
    await host.put('{"resourceType":"Observation","id":"o","code":{"text":"y"}}')
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog()}) as house:
        answer = await house.ask("DELETE", "/Observation?code:text=y", scope=FULL)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert ("Observation", "o") in host.rows
