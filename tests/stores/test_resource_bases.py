"""A resource store that learns later under which URLs its resources are known finds what names them so (KO-85)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, ProvenanceTarget, Query, Selection, Window
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

Store = SQLiteResourceStore | PostgresResourceStore
Opened = Callable[..., Store]

OLD, NEW = "https://old.example/fhir", "https://ehr.example/fhir"
RESOURCES: list[dict[str, Any]] = [
    {"resourceType": "Patient", "id": "p"},
    {"resourceType": "Observation", "id": "relative", "subject": {"reference": "Patient/p"}},
    {"resourceType": "Observation", "id": "old", "subject": {"reference": f"{OLD}/Patient/p"}},
    {"resourceType": "Observation", "id": "new", "subject": {"reference": f"{NEW}/Patient/p/_history/1"}},
    {"resourceType": "Observation", "id": "other", "subject": {"reference": "https://other.example/fhir/Patient/p"}},
    {"resourceType": "Observation", "id": "longer", "subject": {"reference": f"{NEW}2/Patient/p"}},
    {"resourceType": "Observation", "id": "nobody", "note": [{"text": f"see {NEW}/Patient/p"}]},
    {"resourceType": "Provenance", "id": "v", "target": [{"reference": f"{NEW}/Observation/new"}]},
]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same resources again, with these base URLs."""
    if request.param == "sqlite":
        return lambda **options: SQLiteResourceStore(tmp_path / "resources.db", **options)
    stores: EmptyStores = request.getfixturevalue("empty_postgres")
    stores.store()
    return stores.another


async def ids(store: Store, selection: Selection, since: Instant | None = None) -> list[str]:
    query = Query(
        type="Observation",
        selection=selection,
        window=Window(since),
        as_of=await store.cut(Precision.MICROSECONDS),
    )
    whole = [json.loads(line)["id"] async for page in store.pages(query, None) for line in page.lines.splitlines()]
    estimate = sum(found.estimate for found in await store.slices(query, 10**6))
    assert estimate == len(whole), "an estimate follows"
    return sorted(whole)


async def about(store: Store) -> list[str]:
    as_of = await store.cut(Precision.MICROSECONDS)
    query = Query(type="Provenance", selection=EveryPatient(), window=Window(), as_of=as_of)
    target = Query(type="Observation", selection=EveryPatient(), window=Window(), as_of=as_of)
    pages = store.provenance(query, [ProvenanceTarget(target)], None, latest=False)
    return [json.loads(line)["id"] async for page in pages for line in page.lines.splitlines()]


async def naming(store: Store, as_of: Instant) -> list[str]:
    query = Query(type="Observation", selection=EveryPatient(), window=Window(), as_of=as_of)
    pages = store.naming([query], "Organization/x")
    return [json.loads(line)["id"] async for page in pages for line in page.lines.splitlines()]


async def left(store: Store, since: Instant, as_of: Instant) -> list[str]:
    mine = Compartments(frozenset({"Patient/p"}))
    query = Query(type="Observation", selection=mine, window=Window(since), as_of=as_of)
    return [reference async for page in store.left(query, None) for reference in page.references]


async def test_a_new_base_url_finds_what_is_named_and_what_left(opened: Opened) -> None:
    store = opened()
    cuts = []
    for patient in ("p", "q", "q"):
        subject, performer = f"{NEW}/Patient/{patient}", f"{NEW}/Organization/x/_history/1"
        content = {"resourceType": "Observation", "subject": {"reference": subject}, "performer": [{"reference": performer}]}
        await store.update("Observation", "o", content)
        cuts.append(await store.cut(Precision.MICROSECONDS))
    assert await naming(store, cuts[1]) == await left(store, cuts[0], cuts[1]) == []
    store.close()
    store = opened(base_urls=[NEW])
    store.open()
    assert await naming(store, cuts[0]) == await naming(store, cuts[1]) == ["o"]
    assert await left(store, cuts[0], cuts[1]) == await left(store, cuts[0], cuts[2]) == ["Observation/o"]
    assert await left(store, cuts[1], cuts[2]) == []
    store.close()


async def test_a_new_base_url_is_indexed_and_an_old_one_is_kept(opened: Opened) -> None:
    mine = Compartments(frozenset({"Patient/p"}))
    store = opened()
    store.load(json.dumps(resource).encode() for resource in RESOURCES)
    assert await ids(store, mine) == await ids(store, EveryPatient()) == ["relative"]
    store.close()
    expected = ["relative"]
    for urls, found, provenance in [([f"{OLD}/"], "old", []), ([NEW], "new", ["v"]), ([], None, ["v"])]:
        store = opened(base_urls=urls)
        store.open()
        expected = sorted([*expected, *([found] if found else [])])
        assert await ids(store, mine) == await ids(store, EveryPatient()) == expected
        assert await about(store) == provenance
        store.close()
    store = opened()
    since = await store.cut(Precision.MICROSECONDS)
    await store.update("Observation", "late", {"resourceType": "Observation", "subject": {"reference": f"{OLD}/Patient/p"}})
    assert await ids(store, mine, since) == ["late"], "also of what is written by a process that was not told"
    store.close()
