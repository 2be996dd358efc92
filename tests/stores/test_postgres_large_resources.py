"""Among many small resources in PostgreSQL there may be large ones; what reads them holds a few in memory at a time."""

import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    Page,
    ProvenanceTarget,
    Query,
    Selection,
    Window,
)
from fhir_bulk_middleware.contract.removal import Target
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.stores.postgres import PostgresResourceStore

pytestmark = [pytest.mark.anyio, pytest.mark.long]
pytest_plugins = ["postgres_fixtures"]

SMALL, LARGE = 1_500, 40
MEGABYTE = 1_000_000
AT_MOST = 12 * MEGABYTE
"""A step has 2 MB, for which there are at most three copies for an instant; all large ones have 40 MB."""

MINE = Compartments(frozenset(["Patient/mine"]))
ALL = [f"o{number:04}" for number in range(SMALL + LARGE)]


def observations() -> Iterator[bytes]:
    """All of a patient and about a location: first small ones, by which a reader may judge, then large ones and small ones."""
    for number in range(SMALL + LARGE):
        large = number >= SMALL // 2 and number % 20 == 0
        subject, status = {"reference": "Patient/mine"}, "final" if number % 3 else "amended"
        focus = [{"reference": "Location/here"}]
        note = [{"text": "?" * (MEGABYTE if large else 100)}]
        content = {"resourceType": "Observation", "id": ALL[number], "status": status, "subject": subject, "focus": focus}
        yield json.dumps(content | {"note": note}).encode()


@pytest.fixture
async def store(empty_postgres: EmptyStores) -> PostgresResourceStore:
    """The store as another process than the one that loaded it has it: nothing of the load is in its memory."""
    store = empty_postgres.store()
    store.load(observations())
    return empty_postgres.another()


@contextmanager
def in_constant_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < AT_MOST, "what is read takes the memory of a few large resources, not of all"


async def query(store: PostgresResourceStore, selection: Selection, since: Instant | None = None) -> Query:
    as_of = await store.cut(Precision.MICROSECONDS)
    return Query(type="Observation", selection=selection, window=Window(since), as_of=as_of)


Read = Callable[[PostgresResourceStore], Awaitable[AsyncIterator[Page]]]


async def everything(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.pages(await query(store, Everything()), None)


async def in_a_window(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.pages(await query(store, Everything(), Instant(1)), None)


async def of_members(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.pages(await query(store, MINE), None)


async def by_their_ids(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.named(await query(store, Everything()), ALL)


async def by_what_they_name(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.naming([await query(store, Everything())], "Location/here")


async def of_members_by_what_they_name(store: PostgresResourceStore) -> AsyncIterator[Page]:
    return store.naming([await query(store, MINE)], "Location/here")


@pytest.mark.parametrize(
    "read", [everything, in_a_window, of_members, by_their_ids, by_what_they_name, of_members_by_what_they_name]
)
async def test_large_resources_are_read_a_few_at_a_time(store: PostgresResourceStore, read: Read) -> None:
    with in_constant_memory():
        found = [json.loads(line)["id"] async for page in await read(store) for line in page.lines.splitlines()]
    assert found == ALL


async def test_organised_output_reads_large_resources_a_few_at_a_time(store: PostgresResourceStore) -> None:
    queries = [await query(store, EveryPatient())]
    with in_constant_memory():
        found = [json.loads(line)["id"] async for block in store.blocks(queries, None) for line in block.page.lines.splitlines()]
    assert found == ALL


async def test_targets_of_provenance_pass_a_filter_a_few_at_a_time(store: PostgresResourceStore) -> None:
    store.load(
        json.dumps({"resourceType": "Provenance", "id": id_, "target": [{"reference": f"Observation/{id_}"}]}).encode()
        for id_ in ALL
    )
    whole = await query(store, Everything())
    amended = Filter("Observation", (Criteria.of(FhirVersion.R4, "Observation", [("status", "amended")]),))
    target = ProvenanceTarget(whole, filters=(amended,))
    provenance = Query(type="Provenance", selection=Everything(), window=Window(), as_of=whole.as_of)
    with in_constant_memory():
        counts = [page.count async for page in store.provenance(provenance, [target], None, latest=False)]
    assert sum(counts) == len(range(0, len(ALL), 3))


@pytest.mark.parametrize(("criterion", "every"), [(("status", "amended"), 3), (("status:not", "none"), 1)])
async def test_a_conditional_delete_looks_at_large_resources_a_few_at_a_time(
    store: PostgresResourceStore, criterion: tuple[str, str], every: int
) -> None:
    """With the index, and without it, which reads the whole type."""
    target = Target(criteria=Criteria.of(FhirVersion.R4, "Observation", [criterion]))
    with in_constant_memory():
        found = await store.find(target, at_most=10)
    assert found.count == len(range(0, len(ALL), every))


async def test_superseded_large_versions_are_forgotten_a_few_at_a_time(store: PostgresResourceStore) -> None:
    for id_ in ALL[SMALL // 2 :]:
        await store.update("Observation", id_, json.dumps({"resourceType": "Observation", "id": id_}).encode())
    horizon = await store.cut(Precision.MICROSECONDS)
    await store.forget(horizon, now=await store.now(), grace=0)
    with in_constant_memory():
        assert await store.forget(horizon, now=await store.now(), grace=0) == len(ALL[SMALL // 2 :])


async def test_a_base_is_adopted_a_few_large_resources_at_a_time(empty_postgres: EmptyStores) -> None:
    store = empty_postgres.store()
    store.load(line.replace(b"Patient/", b"https://other.example/fhir/Patient/") for line in observations())
    adopting = empty_postgres.another(base_urls=["https://other.example/fhir"])
    with in_constant_memory():
        adopting.open()
    found = adopting.pages(await query(adopting, MINE), None)
    assert sum([page.count async for page in found]) == len(ALL)
