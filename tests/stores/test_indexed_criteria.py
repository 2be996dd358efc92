"""What a store finds by its indexes is what a walk over all resources finds, for exports and for deletes.

The memory store is the model: it has no index.
"""

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from house import HandClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_resources import EmptyStores, writing_on
from waiting import PATIENCE

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    NoPatient,
    Query,
    Selection,
    Window,
)
from fhir_bulk_middleware.contract.removal import Target
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex, decoded, indexed
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.stores.drafts import draft
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres import resource_removal
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore

EXAMPLES = int(os.environ.get("FHIR_BULK_INDEXED", "40"))
EXAMPLES_IN_POSTGRES = int(os.environ.get("FHIR_BULK_POSTGRES_INDEXED", "12"))
BASE = "https://ehr.example/fhir"
FILLING = 250
"""Observations that are there before, so that most versions are no candidates and keys lie in two blocks."""

SELECTIONS: tuple[Selection, ...] = (
    Everything(),
    EveryPatient(),
    NoPatient(),
    Compartments(frozenset({"Patient/0", "Patient/2"})),
    Compartments(frozenset()),
)
QUERIES = (
    ("status=final",),
    ("status=final,amended&code=http://loinc.org|a",),
    ("code=a", "code=b&date=2020"),
    ("code=http://loinc.org|a,|b",),
    ("code:not=a&identifier=urn:n|1",),
    ("code=http://loinc.org|",),
    ("date=ge2020-01-15",),
    ("date=lt2020-01-15&status=final",),
    ("date=sa2020-01-15", "date=eb2019-02"),
    ("date=ap2020-01",),
    ("identifier=1,2",),
    ("patient=0",),
    ("patient=Patient/1&code=a",),
    ("performer=Practitioner/0",),
    ("_id=0,1",),
    ("status:missing=true",),
    ("code=a", "code:not=b"),
)
"""Each is a filter: its queries are alternatives."""


@dataclass(frozen=True)
class Put:
    id: str
    content: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Delete:
    id: str


@dataclass(frozen=True)
class Cut:
    pass


def coded(code: str, system: str | None) -> dict[str, Any]:
    return {"coding": [{"code": code} if system is None else {"code": code, "system": system}]}


SUBJECTS = st.sampled_from(["Patient/0", "Patient/1", f"{BASE}/Patient/2", "Location/0", "https://other.example/Patient/0"])
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["final", "amended"]),
        "code": st.builds(coded, st.sampled_from("abc"), st.sampled_from(["http://loinc.org", "urn:x", None])),
        "identifier": st.lists(st.fixed_dictionaries({"value": st.sampled_from("123")}, optional={"system": st.just("urn:n")})),
        "subject": st.builds(lambda text: {"reference": text}, SUBJECTS),
        "performer": st.just([{"reference": "Practitioner/0"}]),
        "effectivePeriod": st.fixed_dictionaries(
            {}, optional={"start": st.sampled_from(["2018", "2020-01-01"]), "end": st.sampled_from(["2019-01-01", "2020-01-16"])}
        ),
        "effectiveDateTime": st.sampled_from(["2020-01-15T00:30:00+14:00", "2020-01-14", "2020-01", "2020"]),
    },
)
IDS = st.sampled_from("0123456")
PUTS = st.builds(Put, IDS, CONTENT.map(lambda content: tuple(sorted(content.items()))))
HISTORIES = st.lists(PUTS | PUTS | st.builds(Delete, IDS) | st.builds(Cut), min_size=1, max_size=25)


def filler(number: int) -> bytes:
    return json.dumps({"resourceType": "Observation", "id": f"filler-{number}", "status": "registered"}).encode()


def filters(*queries: str) -> tuple[Filter, ...]:
    return (Filter("Observation", tuple(Criteria.parse(FhirVersion.R4, "Observation", query) for query in queries)),)


async def exported(
    store: Store, asked: tuple[Filter, ...], selection: Selection, since: Instant | None, as_of: Instant
) -> list[tuple[str, str]]:
    """Ids and versions of what an export has, slice by slice; each slice is begun again behind its first page."""
    query = Query(type="Observation", selection=selection, window=Window(since), as_of=as_of, filters=asked, page_bytes=400)
    ours = Filters(asked, "Observation", [BASE])
    found = []
    for piece in await store.slices(query, 2_000):
        whole = replace(query, range=piece.range)
        pages = [page async for page in store.pages(whole, None)]
        if pages:
            assert [page async for page in store.pages(whole, pages[0].cursor)] == pages[1:]
        lines = [line for page in pages for line in page.lines.splitlines() if ours.passes(line)]
        found += [(content["id"], content["meta"]["versionId"]) for content in map(json.loads, lines)]
    return found


async def matched(store: Store, asked: tuple[Filter, ...]) -> list[str]:
    """What a conditional delete would remove, query by query."""
    found = []
    for criteria in asked[0].alternatives:
        matches = await store.find(Target(criteria=criteria), at_most=1_000)
        found += sorted(match.id for match in matches.versions)
    return found


async def live(changes: Sequence[Put | Delete | Cut], store: Store, clock: HandClock) -> list[Instant]:
    store.load(map(filler, range(FILLING)))
    cuts = [await store.cut(Precision.MICROSECONDS)]
    for change in [*changes, Cut()]:
        clock.now = after(clock.now, 0.001)
        match change:
            case Put(id_, content):
                await store.update("Observation", id_, {"resourceType": "Observation", **dict(content)})
            case Delete(id_):
                await store.delete("Observation", id_)
            case Cut():
                cuts.append(await store.cut(Precision.MICROSECONDS))
    return cuts


def windows(cuts: Sequence[Instant]) -> list[tuple[Instant | None, Instant]]:
    return [(None, instant) for instant in cuts] + list(pairwise(cuts))


async def agree(
    changes: Sequence[Put | Delete | Cut],
    asked: Sequence[tuple[str, ...]],
    selection: Selection,
    store: SQLiteResourceStore | PostgresResourceStore,
    clock: HandClock,
) -> None:
    of_model = HandClock()
    model = MemoryResourceStore(clock=of_model, base_urls=[BASE])
    cuts, own = await live(changes, model, of_model), await live(changes, store, clock)
    for filter_ in (filters(*queries) for queries in asked):
        for window, same in zip(windows(cuts), windows(own), strict=True):
            expected = await exported(model, filter_, selection, *window)
            assert sorted(await exported(store, filter_, selection, *same)) == sorted(expected)
        assert await matched(store, filter_) == await matched(model, filter_)
    store.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES, st.lists(st.sampled_from(QUERIES), min_size=1, max_size=4, unique=True), st.sampled_from(SELECTIONS))
def test_an_index_finds_what_a_walk_finds(
    changes: list[Put | Delete | Cut], asked: list[tuple[str, ...]], selection: Selection
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = HandClock()
        store = SQLiteResourceStore(Path(folder, "resources.db"), clock=clock, base_urls=[BASE])
        asyncio.run(agree(changes, asked, selection, store, clock))


@settings(
    max_examples=EXAMPLES_IN_POSTGRES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(HISTORIES, st.lists(st.sampled_from(QUERIES), min_size=1, max_size=4, unique=True), st.sampled_from(SELECTIONS))
def test_an_index_in_postgresql_finds_what_a_walk_finds(
    empty_postgres: EmptyStores, changes: list[Put | Delete | Cut], asked: list[tuple[str, ...]], selection: Selection
) -> None:
    clock = HandClock()
    store = empty_postgres.store(clock, base_urls=[BASE], blocking=True)
    asyncio.run(agree(changes, asked, selection, store, clock))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES)
def test_the_index_has_the_versions_that_are_there_and_no_others(changes: list[Put | Delete | Cut]) -> None:
    """Also when old versions were forgotten, and a base URL was added."""
    with tempfile.TemporaryDirectory() as folder:
        clock, file = HandClock(), Path(folder, "resources.db")
        store = SQLiteResourceStore(file, clock=clock)
        asyncio.run(live(changes, store, clock))
        assert postings(file) == keys_of_versions(file)
        for _ in range(2):  # announced, then done
            clock.now = after(clock.now, 1)
            asyncio.run(store.forget(clock.now, now=clock.now, grace=0))
        store.close()
        SQLiteResourceStore(file, clock=clock, base_urls=[BASE]).open()
        assert postings(file) == keys_of_versions(file)


def postings(file: Path) -> list[tuple[int, str, int]]:
    """The keys of each version, by the file's index."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT block, places, name, value FROM posting JOIN posting_parameter ON number = parameter")
        return sorted(((block << 8) + place, name, value) for block, places, name, value in rows for place in places)


def keys_of_versions(file: Path) -> list[tuple[int, str, int]]:
    """The keys of each version, by its text."""
    index = ParameterIndex(FhirVersion.R4)
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT seq, json FROM resource WHERE deleted = 0").fetchall()
    keys = [(seq, *decoded(key)) for seq, text in rows for key in index.keys(json.loads(text))]
    return sorted((seq, indexed("Observation")[place], number) for seq, place, number in keys)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_the_index_in_postgresql_has_the_versions_that_are_there_and_no_others(
    empty_postgres: EmptyStores, changes: list[Put | Delete | Cut]
) -> None:
    """Also when old versions were forgotten."""
    clock = HandClock()
    store = empty_postgres.store(clock, blocking=True)
    asyncio.run(live(changes, store, clock))
    assert postings_in_postgresql(empty_postgres) == keys_in_postgresql(empty_postgres)
    for _ in range(2):  # announced, then done
        clock.now = after(clock.now, 1)
        asyncio.run(store.forget(clock.now, now=clock.now, grace=0))
    assert postings_in_postgresql(empty_postgres) == keys_in_postgresql(empty_postgres)
    store.close()


def postings_in_postgresql(stores: EmptyStores) -> list[tuple[int, str, int]]:
    rows = stores.rows(
        "SELECT block, places, name, value FROM {0}.resource_posting JOIN {0}.resource_posting_parameter ON number = parameter"
    )
    return sorted(((block << 8) + place, name, value) for block, places, name, value in rows for place in places)


def keys_in_postgresql(stores: EmptyStores) -> list[tuple[int, str, int]]:
    index = ParameterIndex(FhirVersion.R4)
    rows = stores.rows("SELECT seq, json FROM {}.resource WHERE NOT deleted")
    keys = [(seq, *decoded(key)) for seq, text in rows for key in index.keys(json.loads(text))]
    return sorted((seq, indexed("Observation")[place], number) for seq, place, number in keys)


# --- What is read


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[SQLiteResourceStore]:
    """1,000 observations of 10 patients: every hundredth has the code `rare` and an identifier, all have a status and a day."""
    store = SQLiteResourceStore(tmp_path / "resources.db")
    store.load(map(observation, range(1_000)))
    yield store
    store.close()


def observation(number: int) -> bytes:
    content: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": coded("rare" if number % 100 == 0 else "usual", "http://loinc.org"),
        "subject": {"reference": f"Patient/{number % 10}"},
        "effectiveDateTime": f"{1900 + number % 100}-06-15T12:00:00Z",
    }
    if number % 100 == 0:
        content["identifier"] = [{"system": "urn:n", "value": str(number)}]
    return json.dumps(content).encode()


async def read(store: SQLiteResourceStore | PostgresResourceStore, query: str, selection: Selection = Everything()) -> int:  # noqa: B008 - frozen
    """How many resources come for a filter."""
    as_of = await store.cut(Precision.MICROSECONDS)
    asked = Query(type="Observation", selection=selection, window=Window(), as_of=as_of, filters=filters(query))
    return sum([page.count async for page in store.pages(asked, None)])


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("code=rare", 10),
        ("code=http://loinc.org|rare", 10),
        ("code=rare&status=final", 10),
        ("status=final&identifier=urn:n|300", 1),
        ("date=1950", 10),
        ("date=lt1901-01-01", 10),
        ("date=sa1997-12-01", 20),
        ("patient=3", 100),
        ("patient=3&code=rare", 10),
        ("_id=o1,o2,missing", 2),
        ("status=entered-in-error", 0),
        ("status=final", 1_000),
        ("code:not=usual", 1_000),
        ("date=ge1920", 1_000),
    ],
)
async def test_an_export_reads_the_candidates_of_the_most_telling_criterion(
    clinic: SQLiteResourceStore, query: str, count: int
) -> None:
    """And everything, where half of the type or more are candidates."""
    assert await read(clinic, query) == count


async def test_all_alternatives_of_a_filter_are_read(clinic: SQLiteResourceStore) -> None:
    query = Query(
        type="Observation",
        selection=Everything(),
        window=Window(),
        as_of=await clinic.cut(Precision.MICROSECONDS),
        filters=filters("code=rare", "date=1950"),
    )
    assert sum([page.count async for page in clinic.pages(query, None)]) == 20


async def test_an_alternative_without_an_index_is_read_whole(clinic: SQLiteResourceStore) -> None:
    query = Query(
        type="Observation",
        selection=Everything(),
        window=Window(),
        as_of=await clinic.cut(Precision.MICROSECONDS),
        filters=filters("code=rare", "code:not=usual"),
    )
    assert sum([page.count async for page in clinic.pages(query, None)]) == 1_000


async def test_criteria_of_another_release_are_not_looked_up(clinic: SQLiteResourceStore) -> None:
    """The class of an Encounter was a Coding in R4, and is a CodeableConcept in R5."""
    for id_ in ("e1", "e2", "e3"):
        encounter = {"resourceType": "Encounter", "class": [coded("AMB" if id_ == "e1" else "IMP", None)]}
        await clinic.create("Encounter", encounter, id_)
    asked = Criteria.parse(FhirVersion.R5, "Encounter", "class=AMB")
    assert [match.id for match in (await clinic.find(Target(criteria=asked), at_most=9)).versions] == ["e1"]


async def test_a_resource_that_comes_twice_in_a_load_has_two_versions(clinic: SQLiteResourceStore) -> None:
    clinic.load([observation(1), observation(1), observation(2_000), observation(2_000)])
    for id_, version in {"o1": 3, "o2000": 2}.items():
        stored = await clinic.read("Observation", id_)
        assert stored is not None
        assert stored.version == version
    assert await read(clinic, "_id=o1,o2000") == 2


async def test_of_a_group_candidates_are_read_that_are_its_members(clinic: SQLiteResourceStore) -> None:
    assert await read(clinic, "code=rare", Compartments(frozenset({"Patient/0"}))) == 10
    assert await read(clinic, "code=rare", Compartments(frozenset({"Patient/1"}))) == 0
    assert await read(clinic, "status=final", Compartments(frozenset({"Patient/1"}))) == 100


@pytest.mark.parametrize(
    "selection", [Everything(), Compartments(frozenset({"Patient/0", "Patient/1"}))], ids=["system", "group"]
)
async def test_slices_are_cut_by_what_a_filter_holds(clinic: SQLiteResourceStore, selection: Selection) -> None:
    as_of = await clinic.cut(Precision.MICROSECONDS)

    async def cut(*queries: str, size: int = 4_000) -> list[int]:
        asked = filters(*queries) if queries else ()
        query = Query(type="Observation", selection=selection, window=Window(), as_of=as_of, filters=asked)
        former = [each.range for each in await clinic.slices(query, size)]
        again = await clinic.slices_near(query, size, former)
        if queries:
            assert [each.range for each in again] == former
        return [each.estimate for each in await clinic.slices(query, size)]

    assert len(await cut()) > 5
    assert await cut("code=rare") == [10]
    assert await cut("status=entered-in-error") == []
    assert len(await cut("code=rare", size=600)) > 2


async def test_a_window_without_a_candidate_gets_no_slice(clinic: SQLiteResourceStore) -> None:
    since = await clinic.cut(Precision.MICROSECONDS)
    await clinic.update("Observation", "o1", observation(1))
    as_of = await clinic.cut(Precision.MICROSECONDS)
    for queries, slices in {("code=rare",): 0, ("code=usual",): 1}.items():
        query = Query(type="Observation", selection=Everything(), window=Window(since), as_of=as_of, filters=filters(*queries))
        assert len(await clinic.slices(query, 4_000)) == slices


async def test_a_type_that_was_there_before_its_index_is_walked(clinic: SQLiteResourceStore, tmp_path: Path) -> None:
    """As in a file of an older version: the index would lack what was written before."""
    clinic.close()
    with closing(sqlite3.connect(tmp_path / "resources.db")) as connection:
        connection.execute("DELETE FROM posting")
        connection.execute("DELETE FROM posting_parameter")
        connection.commit()
    await clinic.update("Observation", "o1", observation(100))
    assert await read(clinic, "code=rare") == 1_000
    found = await clinic.find(Target(criteria=filters("code=rare")[0].alternatives[0]), at_most=99)
    assert found.count == 11


# --- What is read in PostgreSQL


@pytest.fixture
def postgres_clinic(empty_postgres: EmptyStores) -> PostgresResourceStore:
    """As `clinic`."""
    store = empty_postgres.store()
    store.load(map(observation, range(1_000)))
    return store


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("code=rare", 10),
        ("status=final&code=http://loinc.org|rare", 10),
        ("status=final&identifier=urn:n|300", 1),
        ("status=final&date=1950", 10),
        ("date=lt1901-01-01", 10),
        ("patient=3&status=final", 100),
        ("_id=o1,o2,missing", 2),
        ("status=entered-in-error", 0),
        ("status=final", 1_000),
        ("code:not=usual", 1_000),
    ],
)
async def test_an_export_in_postgresql_reads_what_the_most_telling_parameter_finds(
    postgres_clinic: PostgresResourceStore, query: str, count: int
) -> None:
    assert await read(postgres_clinic, query) == count


@pytest.mark.parametrize("window", [1, 7, 1 << 18])
async def test_what_an_index_finds_is_read_window_by_window(
    postgres_clinic: PostgresResourceStore, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_bulk_middleware.stores.postgres.resource_reading._WINDOW", window)
    assert await read(postgres_clinic, "code=rare") == 10


async def test_a_conditional_delete_in_postgresql_reads_what_the_criterion_finds_that_finds_the_fewest(
    postgres_clinic: PostgresResourceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[bytes] = []

    class Counting(Filters):
        def passes(self, line: bytes) -> bool:
            looked_at.append(line)
            return super().passes(line)

    monkeypatch.setattr(resource_removal, "Filters", Counting)
    for query, matches, lines in (("status=final&identifier=urn:n|300", 1, 1), ("date=ge1900&code=rare&status=final", 10, 10)):
        criteria = Criteria.parse(FhirVersion.R4, "Observation", query)
        assert (await postgres_clinic.find(Target(criteria=criteria), at_most=99)).count == matches
        assert len(looked_at) == lines
        looked_at.clear()


async def test_slices_in_postgresql_are_cut_by_what_a_filter_holds(postgres_clinic: PostgresResourceStore) -> None:
    since = await postgres_clinic.cut(Precision.MICROSECONDS)
    await postgres_clinic.update("Observation", "o1", observation(1))
    as_of = await postgres_clinic.cut(Precision.MICROSECONDS)

    async def cut(*queries: str, window: Window) -> list[int]:
        asked = filters(*queries) if queries else ()
        query = Query(type="Observation", selection=Everything(), window=window, as_of=as_of, filters=asked)
        return [each.estimate for each in await postgres_clinic.slices(query, 4_000)]

    assert len(await cut(window=Window())) > 5
    assert [round(each, -1) for each in await cut("code=rare", window=Window())] == [10]
    assert await cut("status=entered-in-error", window=Window()) == []
    assert await cut("code=rare", window=Window(since)) == []
    assert await cut("code=usual", window=Window(since)) == [1]


@pytest.mark.usefixtures("postgres_clinic")
async def test_a_type_that_was_in_postgresql_before_its_index_is_walked(empty_postgres: EmptyStores) -> None:
    """As in tables of an older version: the index would lack what was written before."""
    kept = empty_postgres.rows("SELECT number, type, name FROM {}.resource_posting_parameter")
    empty_postgres.run("DELETE FROM {0}.resource_posting; DELETE FROM {0}.resource_posting_parameter")
    store = empty_postgres.another()
    await store.update("Observation", "o1", observation(100))
    assert await read(store, "code=rare") == 1_000
    assert (await store.find(Target(criteria=filters("code=rare")[0].alternatives[0]), at_most=99)).count == 11
    for row in kept:
        empty_postgres.run(f"INSERT INTO {{}}.resource_posting_parameter OVERRIDING SYSTEM VALUE VALUES {row!r}")  # noqa: S608


async def test_writers_of_the_same_codes_do_not_wait_for_each_other(
    postgres_clinic: PostgresResourceStore, empty_postgres: EmptyStores
) -> None:
    with psycopg.connect(empty_postgres.dsn, options=f"-csearch_path={empty_postgres.schema}") as connection:
        writing = writing_on(connection, postgres_clinic)
        writing.expect([("Observation", "new")])
        new = draft(
            observation(1), postgres_clinic._compartments, postgres_clinic._naming_index, ParameterIndex(FhirVersion.R4), "new"
        )
        writing.put(new)
        writing.finish()
        await asyncio.wait_for(postgres_clinic.update("Observation", "other", observation(1)), PATIENCE)
        connection.commit()
    assert (await postgres_clinic.find(Target(criteria=filters("code=usual")[0].alternatives[0]), at_most=1)).count == 992
