"""A thousand races over HTTP on one SQLite file: one winner each, a sound history, and nothing removed that did not match."""

import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from house import House

from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.stores.versioned import Stored, VersionConflict

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
ALL = {"x-conditional-delete": "remove-all"}
ROUNDS = 250  # of each of the four races


@pytest.fixture
async def racing(tmp_path: Path, make_house: Any) -> AsyncIterator[tuple[House, SQLiteResourceStore]]:
    """A house on a SQLite file. Power cuts are not what is tested, so the disk is not waited for."""
    store = SQLiteResourceStore(tmp_path / "resources.db")
    store._database._synchronous = "NORMAL"
    async with make_house(parts={"resources": store}) as house:
        yield house, store
    store.close()


async def together(*racers: Any) -> list[Any]:
    """Run them at once, in an order that differs from round to round."""
    results: list[Any] = [None] * len(racers)

    async def run(place: int) -> None:
        results[place] = await racers[place]()

    order = list(range(len(racers)))
    random.shuffle(order)
    async with anyio.create_task_group() as group:
        for place in order:
            group.start_soon(run, place)
    return results


async def tarry() -> None:
    """Take as long as some hops between threads, so that now the one and now the other comes first."""
    for _ in range(random.randrange(12)):  # noqa: S311 - order, not secrecy
        await anyio.to_thread.run_sync(int)


async def history(store: SQLiteResourceStore, type_: str, id_: str) -> list[Stored]:
    """All versions; they are numbered without a gap and their instants rise."""
    newest = await store.read(type_, id_)
    assert newest is not None
    versions = [await store.vread(type_, id_, number) for number in range(1, newest.version + 1)]
    found = [version for version in versions if version is not None]
    assert len(found) == newest.version
    assert all(a.last_updated < b.last_updated for a, b in pairwise(found))
    assert not any(a.deleted and b.deleted for a, b in pairwise(found)), "nothing is deleted twice"
    return found


async def test_of_two_deletes_one_gets_the_resource(racing: tuple[House, SQLiteResourceStore]) -> None:
    house, store = racing
    for number in range(ROUNDS):
        await store.create("Patient", {"resourceType": "Patient"}, f"p{number}")
        headers = {"If-Match": 'W/"1"'} if number % 2 else {}

        async def delete(url: str = f"/Patient/p{number}", headers: dict[str, str] = headers) -> httpx2.Response:
            return await house.ask("DELETE", url, scope=FULL, headers=headers)

        answers = await together(delete, delete, delete)

        assert sorted(answer.status_code for answer in answers) == [200, 204, 204]
        assert [version.deleted for version in await history(store, "Patient", f"p{number}")] == [False, True]


async def test_of_a_delete_and_an_update_of_the_same_version_one_wins(racing: tuple[House, SQLiteResourceStore]) -> None:
    house, store = racing
    won = {"delete": 0, "update": 0}
    for number in range(ROUNDS):
        id_ = f"p{number}"
        await store.create("Patient", {"resourceType": "Patient"}, id_)

        async def delete(id_: str = id_) -> int:
            return (await house.ask("DELETE", f"/Patient/{id_}", scope=FULL, headers={"If-Match": 'W/"1"'})).status_code

        async def update(id_: str = id_) -> bool:
            await tarry()
            try:
                await store.update("Patient", id_, {"resourceType": "Patient", "active": True}, if_match=1)
            except VersionConflict:
                return False
            return True

        status, updated = await together(delete, update)

        versions = await history(store, "Patient", id_)
        assert len(versions) == 2, "one of the two was written, and only one"
        assert versions[1].deleted is not updated
        assert status == (412 if updated else 200)
        won["update" if updated else "delete"] += 1
    assert min(won.values()) > 0, won


async def test_a_remove_all_and_a_create_stand_in_some_order(racing: tuple[House, SQLiteResourceStore]) -> None:
    house, store = racing
    sizes = set()
    for number in range(ROUNDS):
        tag = f"t{number}"
        observation = {"resourceType": "Observation", "code": {"text": tag}}
        old = [(await store.create("Observation", observation)).id for _ in range(3)]
        bystander = await store.create("Observation", {"resourceType": "Observation", "code": {"text": "other"}})

        async def remove_all(tag: str = tag) -> httpx2.Response:
            return await house.ask("DELETE", f"/Observation?code:text={tag}", scope=FULL, headers=ALL)

        async def create(observation: dict[str, Any] = observation) -> str:
            await tarry()
            return (await store.create("Observation", observation)).id

        answer, new = await together(remove_all, create)

        assert answer.status_code == 200
        removed = {entry["resource"]["id"] for entry in answer.json()["entry"]}
        assert removed in ({*old}, {*old, new}), "all matches of one moment"
        for id_ in (*old, new, bystander.id):
            newest = await store.read("Observation", id_)
            assert newest is not None
            assert newest.deleted is (id_ in removed), "what was told to be removed is gone, and nothing else is"
        sizes.add(len(removed))
    assert sizes == {3, 4}


async def test_a_conditional_delete_removes_what_matches_when_it_is_removed(racing: tuple[House, SQLiteResourceStore]) -> None:
    house, store = racing
    statuses = set()
    for number in range(ROUNDS):
        id_ = f"p{number}"
        await store.create("Patient", {"resourceType": "Patient", "gender": "male"}, id_)

        async def delete(id_: str = id_) -> httpx2.Response:
            return await house.ask("DELETE", f"/Patient?_id={id_}&gender=male", scope=FULL)

        async def change(id_: str = id_) -> None:
            await tarry()
            await store.update("Patient", id_, {"resourceType": "Patient", "gender": "female"})

        answer, _ = await together(delete, change)

        versions = await history(store, "Patient", id_)
        assert not any(before.json and b"female" in before.json and after.deleted for before, after in pairwise(versions))
        assert answer.status_code == (200 if any(version.deleted for version in versions) else 404)
        statuses.add(answer.status_code)
    assert statuses == {200, 404}
