"""A resource store forgets what was superseded or deleted long ago, and says since when it knows all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import HandClock
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.query import Compartments, Everything, Query, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletionHorizon, SupportsForgetting
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

DAY = 86_400.0
Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryResourceStore(clock=clock)
        return
    if request.param == "postgres":
        stores: EmptyStores = request.getfixturevalue("empty_postgres")
        yield stores.store(clock)
        return
    store = SQLiteResourceStore(tmp_path / "resources.db", clock=clock)
    yield store
    store.close()


async def export(
    store: Store,
    cut: Instant,
    since: Instant | None = None,
    selection: Selection = Everything(),  # noqa: B008 - frozen
) -> tuple[list[str], list[str]]:
    """What lives as of a cut, and what was deleted since."""
    query = Query(type="Observation", selection=selection, window=Window(since), as_of=cut)
    lines = [json.loads(line)["id"] async for page in store.pages(query, None) for line in page.lines.splitlines()]
    return lines, [reference async for page in store.deletions(query, None) for reference in page.references]


async def put(store: Store, id_: str, patient: int = 1) -> None:
    await store.update("Observation", id_, {"resourceType": "Observation", "subject": {"reference": f"Patient/{patient}"}})


async def test_what_jobs_may_need_stays_until_none_of_them_can_run(store: Store, clock: HandClock) -> None:
    """Law 3 holds within the horizon, and law 5 for jobs that began before it was set."""
    assert isinstance(store, SupportsDeletionHorizon)
    assert isinstance(store, SupportsForgetting)
    assert await store.deletions_known_since() is None
    for id_ in ("kept", "changes", "moves", "goes"):
        await put(store, id_)
    clock.advance(60)
    since = await store.cut(Precision.SECONDS)
    await put(store, "changes")
    await put(store, "moves", 2)
    for id_ in ("moves", "goes"):
        await store.delete("Observation", id_)
    clock.advance(60)
    cut = await store.cut(Precision.SECONDS)
    mine = Compartments(frozenset({"Patient/1"}))
    before = [await export(store, cut, since), await export(store, cut, since, mine)]
    assert before == [(["changes"], ["Observation/moves", "Observation/goes"])] * 2

    clock.advance(30 * DAY)
    horizon = after(clock(), -30 * DAY)
    assert await store.forget(horizon, now=clock(), grace=DAY) == 0, "nothing is older by a day"
    assert await store.deletions_known_since() == horizon
    assert [await export(store, cut, since), await export(store, cut, since, mine)] == before, "a job that runs reads on"
    assert await store.forget(since, now=clock(), grace=DAY) == 0
    assert await store.deletions_known_since() == horizon, "a horizon does not go back"

    clock.advance(DAY)
    await put(store, "new")
    assert await store.forget(after(clock(), -30 * DAY), now=clock(), grace=DAY) == 6, (
        "four versions that were replaced, and two deletions"
    )
    now = await store.cut(Precision.MICROSECONDS)
    assert await export(store, now) == await export(store, now, None, mine) == (["kept", "changes", "new"], [])
    assert await store.read("Observation", "goes") is None
    kept = await store.read("Observation", "changes")
    assert kept is not None
    assert kept.version == 2
    await put(store, "goes")
    await store.delete("Observation", "goes")
    assert await export(store, await store.cut(Precision.MICROSECONDS), now) == ([], ["Observation/goes"])


async def test_versions_keep_their_numbers_and_pages_their_places(store: Store, clock: HandClock) -> None:
    for _ in range(3):
        await put(store, "changes")
    await put(store, "kept")
    clock.advance(DAY)
    await store.forget(clock(), now=clock(), grace=0)
    assert await store.forget(clock(), now=clock(), grace=0) == 2
    assert await store.vread("Observation", "changes", 1) is None
    last = await store.vread("Observation", "changes", 3)
    assert last is not None
    await put(store, "changes")
    newest = await store.read("Observation", "changes")
    assert newest is not None
    assert newest.version == 4
    cut = await store.cut(Precision.MICROSECONDS)
    query = Query(type="Observation", selection=Everything(), window=Window(), as_of=cut, page_bytes=1)
    pages = [page async for page in store.pages(query, None)]
    for done, page in enumerate(pages, 1):
        assert [rest async for rest in store.pages(query, page.cursor)] == pages[done:]
    (whole,) = await store.slices(query, 1_000_000)
    assert whole.estimate == len(pages) == 2


async def test_a_clock_that_was_set_back_makes_a_horizon_wait_anew(store: Store, clock: HandClock) -> None:
    await put(store, "o")
    await store.delete("Observation", "o")
    clock.advance(DAY)
    horizon = clock()
    await store.forget(horizon, now=horizon, grace=60)
    early = after(horizon, -1000)
    for _ in range(2):
        assert await store.forget(horizon, now=early, grace=60) == 0
    assert await store.deletions_known_since() == horizon
    assert await store.forget(horizon, now=after(early, 60), grace=60) == 2
