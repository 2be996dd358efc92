"""What a small FHIR host relies on: versions, conflicts, search, loading; alike in memory and in a file."""

import asyncio
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from house import HandClock
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Query, Selection, Window
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletions,
    SupportsExport,
    SupportsGroups,
    SupportsSlices,
    SupportsSnapshot,
)
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, after, parse
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.stores.versioned import VersionConflict

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore

NOON = parse("2024-05-06T12:00:00.000000Z")
ANYBODY = Principal(owner=Owner("https://issuer.example", "host"), scopes=(), expires_at=after(NOON, 60))
BASE = "https://ehr.example/fhir"


@pytest.fixture
def machine() -> HandClock:
    clock = HandClock()
    clock.now = NOON
    return clock


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, machine: HandClock) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryResourceStore(clock=machine, base_urls=[BASE])
        return
    if request.param == "postgres":
        stores: EmptyStores = request.getfixturevalue("empty_postgres")
        yield stores.store(machine, base_urls=[BASE])
        return
    store = SQLiteResourceStore(tmp_path / "resources.db", clock=machine, base_urls=[BASE])
    yield store
    store.close()


def someone(text: str = "") -> dict[str, object]:
    return {"resourceType": "Patient", "language": text}


async def test_each_write_is_a_version_and_all_are_kept(store: Store) -> None:
    first = await store.create("Patient", someone("one"), "p")
    second = await store.update("Patient", "p", someone("two"))
    removed = await store.delete("Patient", "p")
    fourth = await store.update("Patient", "p", b'{"resourceType":"Patient","id":"another","language":"four"}')

    assert [first.version, second.version, fourth.version] == [1, 2, 4]
    assert removed == second
    assert await store.read("Patient", "p") == fourth
    assert json.loads(fourth.json)["id"] == "p"
    assert [await store.vread("Patient", "p", version) for version in (1, 2, 4)] == [first, second, fourth]
    deletion = await store.vread("Patient", "p", 3)
    assert deletion is not None
    assert (deletion.deleted, deletion.json) == (True, b"")
    instants = [first.last_updated, second.last_updated, deletion.last_updated, fourth.last_updated]
    assert instants == [NOON, NOON + 1, NOON + 2, NOON + 3], "the machine's clock stands; the store's goes on"


async def test_what_never_was_is_none_and_what_was_deleted_says_so(store: Store) -> None:
    assert await store.read("Patient", "p") is None
    assert await store.vread("Patient", "p", 1) is None
    assert await store.delete("Patient", "p") is None
    await store.create("Patient", someone(), "p")
    await store.delete("Patient", "p")
    found = await store.read("Patient", "p")
    assert found is not None
    assert (found.deleted, found.version) == (True, 2)
    assert await store.delete("Patient", "p") is None
    assert [await store.vread("Patient", "p", version) for version in (0, 3, -1)] == [None] * 3
    assert await store.read("Observation", "p") is None


async def test_the_text_names_its_version_and_instant(store: Store) -> None:
    stored = await store.create("Patient", someone("x"))
    start = (
        f'{{"resourceType":"Patient","id":"{stored.id}","meta":{{"versionId":"1","lastUpdated":"2024-05-06T12:00:00.000000Z"}}'
    )
    assert stored.json.decode() == start + ',"language":"x"}'
    assert (await store.create("Patient", someone("x"))).id != stored.id


@pytest.mark.parametrize("if_match", [0, 1, 3, 4])
async def test_a_write_that_names_another_version_writes_nothing(store: Store, if_match: int) -> None:
    await store.create("Patient", someone("one"), "p")
    second = await store.update("Patient", "p", someone("two"))
    with pytest.raises(VersionConflict) as conflict:
        await store.update("Patient", "p", someone("three"), if_match)
    assert conflict.value.current == 2
    with pytest.raises(VersionConflict):
        await store.delete("Patient", "p", if_match)
    assert await store.read("Patient", "p") == second
    assert (await store.update("Patient", "p", someone("three"), 2)).version == 3


async def test_a_condition_on_what_is_gone(store: Store) -> None:
    """Law 25: the version that was removed may be removed again, no other; a resource that never was has none."""
    await store.create("Patient", someone(), "p")
    await store.delete("Patient", "p", 1)
    assert await store.delete("Patient", "p", 1) is None
    for wrong in (2, 3):
        with pytest.raises(VersionConflict):
            await store.delete("Patient", "p", wrong)
    for gone in (1, 2):
        with pytest.raises(VersionConflict):
            await store.update("Patient", "p", someone(), gone)
    with pytest.raises(VersionConflict) as conflict:
        await store.delete("Patient", "never", 1)
    assert conflict.value.current is None


async def test_a_resource_is_created_once_and_again_after_its_deletion(store: Store) -> None:
    await store.create("Patient", someone(), "p")
    with pytest.raises(VersionConflict):
        await store.create("Patient", someone(), "p")
    await store.delete("Patient", "p")
    assert (await store.create("Patient", someone(), "p")).version == 3


async def test_a_resource_of_another_type_or_without_sound_json_is_refused(store: Store) -> None:
    for resource in (b"{", b'{"resourceType":"Observation"}', b"[]"):
        with pytest.raises(ValueError, match=r"JSON|resourceType"):
            await store.update("Patient", "p", resource)
    with pytest.raises(ValueError, match="id"):
        await store.update("Patient", "no id", someone())
    assert await store.types() == frozenset()


async def test_of_two_writers_with_the_same_version_one_wins(store: Store) -> None:
    await store.create("Patient", someone(), "p")
    results = await asyncio.gather(*(store.update("Patient", "p", someone(), 1) for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Stored", *["VersionConflict"] * 4]


@pytest.mark.parametrize("count", [1, 2, 7, 50])
async def test_a_search_pages_through_what_is_current(store: Store, count: int) -> None:
    for number in range(7):
        await store.create("Patient", someone(), f"p{number}")
    await store.create("Observation", {"resourceType": "Observation"}, "p1")
    await store.update("Patient", "p0", someone("again"))
    await store.delete("Patient", "p3")
    found: list[str] = []
    page_from = None
    while True:
        page = await store.search("Patient", ids=None, count=count, after=page_from)
        assert len(page.resources) <= count
        found += [stored.id for stored in page.resources]
        page_from = page.next
        if page_from is None:
            break
    assert found == ["p1", "p2", "p4", "p5", "p6", "p0"]
    some = await store.search("Patient", ids=["p4", "p3", "p0", "unknown"], count=50, after=None)
    assert [stored.id for stored in some.resources] == ["p4", "p0"]
    assert (await store.search("Patient", ids=[], count=50, after=None)).resources == ()
    assert (await store.search("Device", ids=None, count=50, after=None)).resources == ()
    assert await store.types() == {"Patient", "Observation"}


async def test_loading_keeps_lines_in_batches_and_says_how_far_it_is(store: Store) -> None:
    told: list[int] = []
    lines = [json.dumps({**someone(), "id": f"p{number}"}).encode() + b"\n" for number in range(25)]
    assert store.load([*lines, b"\n"], batch=10, progress=told.append) == 25
    assert told == [10, 20, 25]
    found = [await store.read("Patient", f"p{number}") for number in range(25)]
    assert [stored and stored.last_updated - NOON for stored in found] == [0] * 10 + [1] * 10 + [2] * 5

    with pytest.raises(ValueError, match=r"^line 12: id"):
        store.load([*lines[:11], b'{"resourceType":"Patient"}'], batch=10)
    again, not_again = await store.read("Patient", "p9"), await store.read("Patient", "p10")
    assert again is not None
    assert not_again is not None
    assert (again.version, not_again.version) == (2, 1), "the batch before the error stays, the one with it does not"


async def test_a_group_s_members_are_those_who_are_in_it_now(store: Store) -> None:
    def member(reference: str, **more: object) -> dict[str, object]:
        return {"entity": {"reference": reference}, **more}

    group = {
        "resourceType": "Group",
        "member": [
            member("Patient/1"),
            member("Patient/1"),
            member(f"{BASE}/Practitioner/2"),
            member("Device/3/_history/4"),
            member("Patient/in", inactive=False, period={"start": "2024", "end": "2024-05-06"}),
            member("Patient/left", period={"end": "2024-05-05"}),
            member("Patient/left-long-ago", period={"end": "2023"}),
            member("Patient/to-come", period={"start": "2024-05-07T00:00:00Z"}),
            member("Patient/inactive", inactive=True),
            member("Patient/excluded", exclude=True),
            member("https://elsewhere.example/fhir/Patient/9"),
            member("Group/10"),
            member("#contained"),
            {"entity": {"display": "nobody"}},
            {"entity": "broken"},
            "broken",
        ],
    }
    await store.create("Group", group, "g")
    assert await store.members("g", ANYBODY) == frozenset({"Patient/1", "Practitioner/2", "Device/3", "Patient/in"})
    await store.update("Group", "g", {"resourceType": "Group"})
    assert await store.members("g", ANYBODY) == frozenset()
    await store.delete("Group", "g")
    assert await store.members("g", ANYBODY) is None


async def test_practitioners_and_devices_have_compartments_too(store: Store) -> None:
    await store.update("Practitioner", "d", {"resourceType": "Practitioner"})
    seen = {
        "resourceType": "Observation",
        "performer": [{"reference": f"{BASE}/Practitioner/d"}],
        "device": {"reference": "Device/m"},
    }
    await store.update("Observation", "o", seen)
    for reference, type_, count in [
        ("Practitioner/d", "Practitioner", 1),
        ("Practitioner/d", "Observation", 1),
        ("Device/m", "Observation", 1),
    ]:
        selection = Compartments(frozenset({reference}))
        query = Query(type=type_, selection=selection, window=Window(), as_of=await store.cut(Precision.MICROSECONDS))
        assert sum([page.count async for page in store.pages(query, None)]) == count


async def test_any_type_of_the_release_may_be_exported_held_or_not(store: Store) -> None:
    """A type that comes between the kick-off and the cut would else be missing from every export (law 3)."""
    allowed = await store.authorise(ANYBODY)
    assert {"Patient", "Observation", "Group"} <= allowed.types
    assert allowed.rights == ""
    query = Query(type="Device", selection=Everything(), window=Window(), as_of=await store.cut(Precision.SECONDS))
    assert list(await store.slices(query, 1)) == []


async def test_the_clock_is_remembered_when_the_machine_s_is_set_back(tmp_path: Path, machine: HandClock) -> None:
    path = tmp_path / "resources.db"
    store = SQLiteResourceStore(path, clock=machine)
    stored = await store.create("Patient", someone(), "p")
    machine.now = after(machine.now, 3600)
    cut = await store.cut(Precision.SECONDS)
    store.close()

    machine.now = NOON
    store = SQLiteResourceStore(path, clock=machine)
    assert stored.last_updated < cut == NOON + 3600 * 1_000_000
    assert (await store.update("Patient", "p", someone())).last_updated == cut + 1
    assert await store.now() == cut + 1
    store.close()


@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
async def test_a_cut_does_not_go_back_with_a_clock_that_is_set_back_by_less_than_its_unit(
    in_file: bool, tmp_path: Path, machine: HandClock
) -> None:
    """Law 4."""
    store = SQLiteResourceStore(tmp_path / "resources.db", clock=machine) if in_file else MemoryResourceStore(clock=machine)
    machine.now = after(NOON, 0.000_100)
    earlier = await store.cut(Precision.MILLISECONDS)
    machine.now = after(NOON, -0.000_100)

    assert earlier == NOON
    assert await store.cut(Precision.MILLISECONDS) >= earlier


def test_each_store_has_the_capabilities_that_it_says() -> None:
    everywhere = (SupportsExport, SupportsSnapshot, SupportsSlices, SupportsDeletions, SupportsGroups)
    for store, protocol in itertools.product((MemoryResourceStore, SQLiteResourceStore, PostgresResourceStore), everywhere):
        assert issubclass(store, protocol)
    assert issubclass(SQLiteResourceStore, SupportsWorkerProcess)
    assert issubclass(PostgresResourceStore, SupportsWorkerProcess)
    assert not issubclass(MemoryResourceStore, SupportsWorkerProcess)


async def test_a_store_is_made_again_from_its_recipe(tmp_path: Path) -> None:
    store = SQLiteResourceStore(tmp_path / "resources.db", version=FhirVersion.R5, base_urls=[BASE])
    await store.update("Observation", "o", {"resourceType": "Observation", "subject": {"reference": f"{BASE}/Patient/1"}})
    recipe = store.recipe()
    module, _, name = recipe.factory.partition(":")
    again = getattr(import_module(module), name)(**json.loads(json.dumps(recipe.arguments)))
    assert await again.read("Observation", "o") == await store.read("Observation", "o")
    assert again.recipe() == recipe
    again.close()
    store.close()


def _write(path: Path, name: str, times: int) -> None:
    store = SQLiteResourceStore(path)
    for number in range(times):
        store.load([json.dumps({**someone(), "id": f"{name}-{number}"}).encode()])
    store.close()


async def test_no_write_of_another_process_slips_behind_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "resources.db"
    store = SQLiteResourceStore(path)
    await store.create("Patient", someone(), "first")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, name, 40)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    seen: dict[Instant, list[bytes]] = {}
    while any(writer.is_alive() for writer in writers):
        cut = await store.cut(Precision.MILLISECONDS)
        query = Query(type="Patient", selection=Everything(), window=Window(), as_of=cut, page_bytes=2_000)
        seen[cut] = [page.lines async for page in store.pages(query, None)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for cut, lines in seen.items():
        query = Query(type="Patient", selection=Everything(), window=Window(), as_of=cut, page_bytes=2_000)
        assert [page.lines async for page in store.pages(query, None)] == lines
    query = Query(type="Patient", selection=Everything(), window=Window(), as_of=await store.cut(Precision.MICROSECONDS))
    assert sum([page.count async for page in store.pages(query, None)]) == 81
    store.close()


@pytest.mark.parametrize("target_bytes", [10_000, 10_000_000])
async def test_slices_say_how_much_they_hold(store: Store, target_bytes: int) -> None:
    """Of what lives: updates and deletions leave nothing behind in the estimates."""
    for _ in range(3):
        store.load(
            json.dumps(
                {"resourceType": "Observation", "id": f"o{number}", "subject": {"reference": f"Patient/{number % 10}"}}
            ).encode()
            for number in range(600)
        )
    for number in range(0, 600, 4):
        await store.delete("Observation", f"o{number}")
    cut = await store.cut(Precision.MICROSECONDS)
    two = Compartments(frozenset({"Patient/1", "Patient/2"}))
    selections: list[tuple[Selection, int]] = [(Everything(), 450), (EveryPatient(), 450), (two, 90)]
    for selection, count in selections:
        query = Query(type="Observation", selection=selection, window=Window(), as_of=cut)
        ranges = await store.slices(query, target_bytes)
        assert sum(found.estimate for found in ranges) == pytest.approx(count, rel=0.1)
        sizes = [sum([page.count async for page in store.pages(replace(query, range=found.range), None)]) for found in ranges]
        assert sum(sizes) == count
        assert max(sizes) <= 1.5 * target_bytes / 130


async def test_slices_of_a_large_group_are_alike_although_its_members_lie_at_equal_distances(tmp_path: Path) -> None:
    """A plan looks at a sample of the keys, which has neither all of them nor none."""
    store = SQLiteResourceStore(tmp_path / "large.db")
    store.load(
        json.dumps(
            {"resourceType": "Observation", "id": f"o{number}", "subject": {"reference": f"Patient/{number % 2}"}}
        ).encode()
        for number in range(4_400)
    )
    cut = await store.cut(Precision.MICROSECONDS)
    for patient in ("Patient/0", "Patient/1"):
        query = Query(type="Observation", selection=Compartments(frozenset({patient})), window=Window(), as_of=cut)
        ranges = await store.slices(query, 30_000)
        sizes = [sum([page.count async for page in store.pages(replace(query, range=found.range), None)]) for found in ranges]
        assert sum(sizes) == 2_200
        assert len(sizes) > 5
        assert max(sizes) < 1.3 * 2_200 / len(sizes)
        assert sum(found.estimate for found in ranges) == pytest.approx(2_200, rel=0.1)
    store.close()
