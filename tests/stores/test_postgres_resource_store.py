"""What PostgreSQL adds to the promises of a resource store: writers side by side on many machines, and connections that break."""

import asyncio
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import psycopg
import pytest
from cutting_proxy import Cut, CuttingProxy
from house import HandClock
from postgres_resources import EmptyStores, writing_on
from psycopg.conninfo import make_conninfo
from waiting import until

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    Filter,
    ProvenanceTarget,
    Query,
    Selection,
    Window,
)
from fhir_bulk_middleware.contract.recipes import as_json, from_json, make
from fhir_bulk_middleware.contract.removal import Matches, Target
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision, after, render
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.drafting import MalformedLine
from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore
from fhir_bulk_middleware.stores.versioned import VersionConflict

pytestmark = pytest.mark.anyio
pytest_plugins = ["postgres_fixtures"]

EVERYTHING = Everything()
MANY = 20_000
"""So many resources that they are read in twenty steps."""


@pytest.fixture
def store(empty_postgres: EmptyStores) -> PostgresResourceStore:
    return empty_postgres.store()


@pytest.fixture
def proxy(postgres: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgres).running() as proxy:
        yield proxy


@pytest.fixture
def database(empty_postgres: EmptyStores) -> Iterator["psycopg.Connection[Any]"]:
    """A connection that finds the store's tables by their names."""
    with psycopg.connect(empty_postgres.dsn, options=f"-csearch_path={empty_postgres.schema}") as connection:
        yield connection


@pytest.fixture
def reader(empty_postgres: EmptyStores, store: PostgresResourceStore) -> PostgresResourceStore:
    """The same store, but PostgreSQL reads no whole table, as it may where the table is hardly larger than a step."""
    del store  # it is there
    choices = " ".join(f"-cenable_{kind}=off" for kind in ("seqscan", "hashjoin", "mergejoin"))
    return empty_postgres.another(dsn=make_conninfo(empty_postgres.dsn, options=choices))


@pytest.fixture
def no_dead_rows(store: PostgresResourceStore, database: "psycopg.Connection[Any]") -> None:
    """Rows that earlier tests deleted are gone: PostgreSQL looks at them while it plans, until a vacuum could remove them."""
    del store  # its table is there
    database.execute("TRUNCATE resource")
    database.commit()


@contextmanager
def locked(database: "psycopg.Connection[Any]", id_: str) -> Iterator[None]:
    """Another writer has a transaction open that changed a resource."""
    database.execute("SELECT bulk_instant()")
    database.execute("SELECT 1 FROM resource WHERE id = %s FOR UPDATE", (id_,))
    yield
    database.rollback()


def someone(id_: str, text: str = "", **more: object) -> bytes:
    return json.dumps({"resourceType": "Patient", "id": id_, "gender": text} | more).encode()


def seen(id_: str, *patients: str) -> bytes:
    subject, *performers = [{"reference": f"Patient/{patient}"} for patient in patients]
    return json.dumps({"resourceType": "Observation", "id": id_, "subject": subject, "performer": performers}).encode()


def put(store: PostgresResourceStore, *resources: bytes) -> None:
    """In one transaction."""
    store.load(resources)


async def ids(
    store: PostgresResourceStore,
    type_: str = "Patient",
    selection: Selection = EVERYTHING,
    since: Instant | None = None,
) -> list[str]:
    """What an export has."""
    as_of = await store.cut(Precision.MICROSECONDS)
    query = Query(type=type_, selection=selection, window=Window(since), as_of=as_of, page_bytes=500)
    return [json.loads(line)["id"] async for page in store.pages(query, None) for line in page.lines.splitlines()]


def by_text(text: str) -> Target:
    return Target(criteria=Criteria.of(FhirVersion.R4, "Patient", [("gender", text)]))


# --- Writers side by side


async def test_a_writer_waits_for_nobody_who_writes_other_resources(
    store: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    """Nor does a cut, beyond its patience; nor a conditional delete of others."""
    put(store, someone("slow"), someone("other"))
    with locked(database, "slow"):
        assert (await store.update("Patient", "other", someone("other", "two"))).version == 2
        put(store, *(someone(f"new{number}") for number in range(20)))
        assert await store.delete("Patient", "new1") is not None
        assert len(await ids(store)) == 21
        removed = await store.remove_matching(by_text("two"), at_most=5, if_version=None)
        assert not isinstance(removed, Matches)
        assert [resource.id for resource in removed] == ["other"]


async def test_of_many_who_create_or_change_a_resource_at_once_each_makes_a_version(empty_postgres: EmptyStores) -> None:
    stores = [empty_postgres.store(), *(empty_postgres.another() for _ in range(3))]
    writes = [store.update("Patient", "p", someone("p", f"{number}")) for number in range(5) for store in stores]
    versions = await asyncio.gather(*writes)
    assert sorted(stored.version for stored in versions) == list(range(1, 21))
    in_order = sorted(versions, key=lambda stored: stored.version)
    assert all(one.last_updated < other.last_updated for one, other in pairwise(in_order))
    creates = [store.create("Patient", someone("q"), "q") for store in stores]
    results = await asyncio.gather(*creates, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Stored", *["VersionConflict"] * 3]


async def test_loads_of_the_same_resources_at_once_lose_none(empty_postgres: EmptyStores) -> None:
    """In whatever order each process has them."""
    stores = [empty_postgres.store(), *(empty_postgres.another() for _ in range(2))]
    lines = [someone(f"p{number}") for number in range(300)]
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(store.load, lines[:: 1 - 2 * (number % 2)], batch=50) for number, store in enumerate(stores)]
        assert [load.result() for load in loads] == [300] * 3
    versions = [await stores[0].read("Patient", f"p{number}") for number in range(300)]
    assert {stored and stored.version for stored in versions} == {3}
    assert len(await ids(stores[0])) == 300


async def test_a_cut_waits_for_a_writer_for_a_while_and_says_if_it_does_not(
    empty_postgres: EmptyStores, database: "psycopg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    empty_postgres.store()
    store = empty_postgres.another(wait_for_writers=0.2)
    put(store, someone("slow"))
    with locked(database, "slow"), caplog.at_level(logging.WARNING):
        await store.cut(Precision.SECONDS)
    assert "does not wait any longer for 1 transaction(s)" in caplog.text
    caplog.clear()
    await store.cut(Precision.SECONDS)
    assert not caplog.text


# --- Conditional deletes beside writers


async def test_a_match_that_changes_before_it_is_locked_is_looked_at_again(
    store: PostgresResourceStore, empty_postgres: EmptyStores
) -> None:
    """The transaction that removes finds what matches then: no more, no less."""
    other = empty_postgres.another()
    put(store, *(someone(f"p{number}", "de") for number in range(4)))
    find = store.find(by_text("de"), at_most=9)
    matches = await find
    assert [match.id for match in matches.versions] == ["p0", "p1", "p2", "p3"]
    await other.update("Patient", "p0", someone("p0", "en"))
    await other.update("Patient", "p1", someone("p1", "de"))
    await other.create("Patient", someone("p4", "de"), "p4")
    assert await store.remove_all(by_text("de"), matches) is None
    removed = await store.remove_matching(by_text("de"), at_most=9, if_version=None)
    assert not isinstance(removed, Matches)
    assert sorted(resource.id for resource in removed) == ["p1", "p2", "p3", "p4"]
    assert await ids(store) == ["p0"]


async def test_of_a_conditional_delete_and_busy_writers_each_sees_the_other_or_not(
    store: PostgresResourceStore, empty_postgres: EmptyStores
) -> None:
    """What is removed matched when it was removed, and what is left does not match or was written later."""
    writers = [empty_postgres.another() for _ in range(3)]
    put(store, *(someone(f"p{number}", "de") for number in range(6)))

    async def write(writer: PostgresResourceStore, offset: int) -> None:
        for number in range(20):
            id_ = f"p{(number + offset) % 9}"
            await writer.update("Patient", id_, someone(id_, "de" if number % 2 else "en"))

    async def remove() -> int:
        removed = await store.remove_matching(by_text("de"), at_most=99, if_version=None)
        if isinstance(removed, Matches):
            return 0
        assert all(json.loads(resource.json)["gender"] == "de" for resource in removed)
        return len(removed)

    removals = asyncio.gather(*(remove() for _ in range(3)))
    await asyncio.gather(*(write(writer, 3 * number) for number, writer in enumerate(writers)))
    assert sum(await removals) >= 1
    await remove()
    assert (await store.find(by_text("de"), at_most=9)).count == 0


# --- Criteria and indexes

OBSERVATIONS: list[dict[str, Any]] = [
    {"id": "mine", "subject": {"reference": "Patient/1"}},
    {"id": "absolute", "subject": {"reference": "https://ehr.example/fhir/Patient/1"}},
    {"id": "versioned", "subject": {"reference": "Patient/1/_history/3"}, "performer": [{"reference": "Practitioner/9"}]},
    {"id": "performed", "subject": {"reference": "Patient/2"}, "performer": [{"reference": "Patient/1"}]},
    {"id": "foreign", "subject": {"reference": "https://other.example/fhir/Patient/1"}},
    {"id": "of-a-place", "subject": {"reference": "Location/5"}},
    {"id": "of-an-organization", "subject": {"reference": "Patient/3"}, "performer": [{"reference": "Organization/7"}]},
]
CRITERIA = {
    "_id=mine": True,
    "_id=mine,foreign": True,
    "patient=1": True,
    "patient=Patient/1": True,
    "patient=https://ehr.example/fhir/Patient/1": True,
    "subject=Patient/1": True,
    "subject:Patient=1": True,
    "subject=1": False,
    "subject=Location/5": True,
    "performer=Patient/1": True,
    "performer=Organization/7": True,
    "performer=Organization/7,Patient/1": False,
    "performer:Organization=7": True,
    "subject=https://other.example/fhir/Patient/1": False,
    "patient=1&performer=Practitioner/9": True,
    "patient:missing=true": False,
}
"""And whether an index finds what they mean."""


@pytest.mark.parametrize("written", CRITERIA)
async def test_an_index_finds_all_that_criteria_mean(empty_postgres: EmptyStores, written: str) -> None:
    """The same as reading each resource does; and, in an export, no more than that."""
    empty_postgres.store()
    store = empty_postgres.another(base_urls=["https://ehr.example/fhir"])
    lines = [json.dumps({"resourceType": "Observation", **content}).encode() for content in OBSERVATIONS]
    put(store, *lines)
    put(store, json.dumps({"resourceType": "Observation", "id": "mine", "subject": {"reference": "Patient/2"}}).encode())
    put(store, lines[0])
    criteria = Criteria.of(FhirVersion.R4, "Observation", parse_qsl(written))
    filters = Filters([Filter("Observation", (criteria,))], "Observation", ["https://ehr.example/fhir"])
    expected = {json.loads(line)["id"] for line in lines if filters.passes(line)}
    matches = await store.find(Target(criteria=criteria), at_most=9)
    assert {match.id for match in matches.versions} == expected
    as_of = await store.cut(Precision.MICROSECONDS)
    filtered = (Filter("Observation", (criteria,)),)
    query = Query(type="Observation", selection=Everything(), window=Window(), as_of=as_of, filters=filtered)
    found = {json.loads(line)["id"] async for page in store.pages(query, None) for line in page.lines.splitlines()}
    assert expected <= found
    assert (len(found) < len(OBSERVATIONS)) is CRITERIA[written], "what other resources there are is not read"


# --- Connections that break


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER], ids=lambda cut: cut.name)
async def test_a_write_whose_answer_is_lost_is_made_once(empty_postgres: EmptyStores, proxy: CuttingProxy, cut: Cut) -> None:
    empty_postgres.store()
    store = PostgresResourceStore(proxy.dsn, schema=empty_postgres.schema, patience=60)
    await store.update("Patient", "first", someone("first"))
    for number in range(1, 4):
        proxy.cuts = [cut]
        assert (await store.update("Patient", "p", someone("p"))).version == number
    proxy.cuts = [cut]
    with pytest.raises(VersionConflict):
        await store.create("Patient", someone("p"), "p")
    proxy.cuts = [cut]
    assert await store.delete("Patient", "p", 3) is not None
    proxy.cuts = [cut]
    assert store.load([someone("p")]) == 1
    proxy.cuts = [cut]
    await store.cut(Precision.MILLISECONDS)
    proxy.cuts = []
    newest = await store.read("Patient", "p")
    assert newest is not None
    assert newest.version == 5
    store.close()


async def test_a_read_goes_on_after_its_connection_was_lost(
    store: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    store.load(someone(f"p{number}", "x" * 1_000) for number in range(1_000))
    as_of = await store.cut(Precision.MICROSECONDS)
    query = Query(type="Patient", selection=Everything(), window=Window(), as_of=as_of, page_bytes=20_000)
    found = []
    async for page in store.pages(query, None):
        found += [json.loads(line)["id"] for line in page.lines.splitlines()]
        database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = current_schema()")
    assert found == [f"p{number}" for number in range(1_000)]


async def test_a_storage_that_is_away_is_busy(empty_postgres: EmptyStores) -> None:
    store = PostgresResourceStore("postgresql://127.0.0.1:9/nowhere", schema=empty_postgres.schema, patience=0.2)
    query = Query(type="Patient", selection=Everything(), window=Window(), as_of=Instant(1))
    waiting = [
        store.now(),
        store.cut(Precision.SECONDS),
        store.read("Patient", "p"),
        store.update("Patient", "p", someone("p")),
        store.slices(query, 1),
        store.find(by_text("x"), at_most=1),
        anext(store.pages(query, None)),
    ]
    for step in waiting:
        with pytest.raises(Refused) as refused:
            await step
        assert refused.value.reason is Reason.BUSY
    with pytest.raises(Refused):
        store.load([someone("p")])


# --- Processes and schemas


async def test_it_is_made_again_from_its_recipe(empty_postgres: EmptyStores) -> None:
    empty_postgres.store()
    store = empty_postgres.another(version=FhirVersion.R5, base_urls=["https://ehr.example/fhir/"])
    await store.update("Observation", "o", seen("o", "1").replace(b"Patient/", b"https://ehr.example/fhir/Patient/"))
    again = make(from_json(json.loads(json.dumps(as_json(store.recipe())))))
    assert isinstance(again, PostgresResourceStore)
    assert again.recipe() == store.recipe()
    assert await ids(again, "Observation", Compartments(frozenset({"Patient/1"}))) == ["o"]
    again.close()


def _forked(store: PostgresResourceStore, sending: Any) -> None:
    async def both() -> int:
        stored = await store.update("Patient", "p", someone("p"))
        return stored.version + len(await ids(store))

    sending.send(asyncio.run(both()))
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_child_of_a_fork_has_connections_of_its_own(empty_postgres: EmptyStores) -> None:
    empty_postgres.store()
    store = empty_postgres.another(blocking=True)
    await store.update("Patient", "p", someone("p"))
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_forked, args=(store, sending))
    child.start()
    assert receiving.recv() == 2 + 1
    child.join()
    assert (await store.update("Patient", "p", someone("p"))).version == 3


async def test_jobs_and_resources_may_share_a_schema(empty_postgres: EmptyStores) -> None:
    store = empty_postgres.store()
    jobs = PostgresJobStore(empty_postgres.dsn, schema=empty_postgres.schema, patience=60)
    registry = await jobs.registry()
    await store.update("Patient", "p", someone("p"))
    assert await jobs.registry() == registry
    jobs.close()


async def test_a_newer_schema_is_refused_in_a_sentence(empty_postgres: EmptyStores, database: "psycopg.Connection[Any]") -> None:
    empty_postgres.store()
    database.execute("INSERT INTO resource_schema_version VALUES (99, 98)")
    database.commit()
    with pytest.raises(RuntimeError, match="newer release of this package"):
        await empty_postgres.another().migrate()
    database.execute("DELETE FROM resource_schema_version WHERE version = 99")
    database.commit()


@pytest.mark.parametrize(("options", "said"), [({"schema": "A B"}, "schema"), ({"connections": 0}, "connections")])
def test_a_mistaken_option_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PostgresResourceStore("postgresql://127.0.0.1/none", **options)


# --- History, extents, restores


async def test_a_load_may_keep_what_resources_say_of_their_last_change(empty_postgres: EmptyStores) -> None:
    """Law 4: in order, and behind all that the store has."""
    clock = HandClock()
    store = empty_postgres.store(clock)

    def dated(id_: str, seconds: float) -> bytes:
        shown = render(after(clock(), seconds), Precision.MICROSECONDS)
        return someone(id_, meta={"lastUpdated": shown})

    cut = await store.cut(Precision.SECONDS)
    clock.advance(1_000)
    lines = [dated("a", -900), dated("b", -900), dated("a", -800), dated("b", -700)]
    assert store.load(lines, batch=1, keep_last_updated=True) == 4
    found = [await store.vread("Patient", "a", number) for number in (1, 2)]
    assert [stored and stored.last_updated for stored in found] == [after(clock(), -900), after(clock(), -800)]
    assert await ids(store, since=cut) == ["a", "b"]
    for wrong, said in [(dated("c", -750), "not later than"), (dated("c", 1), "future"), (someone("c"), "missing")]:
        with pytest.raises(MalformedLine, match=said):
            store.load([wrong], keep_last_updated=True)
    assert await store.read("Patient", "c") is None


async def test_a_deletion_that_was_committed_late_is_not_forgotten_early(
    store: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    """It was stamped before the horizon and is told by an export since then, so it has to stay."""
    put(store, someone("slow"), someone("kept"))
    writing = writing_on(database, store)
    writing.expect([("Patient", "slow")], texts=True)
    assert writing.delete("Patient", "slow") is not None
    writing.finish()
    horizon = await store.cut(Precision.MICROSECONDS)
    database.commit()
    for _ in range(2):
        assert await store.forget(horizon, now=await store.now(), grace=0) == 0
    as_of = await store.cut(Precision.MICROSECONDS)
    query = Query(type="Patient", selection=EVERYTHING, window=Window(horizon), as_of=as_of)
    assert [page.references async for page in store.deletions(query, None)] == [("Patient/slow",)]
    for _ in range(2):
        removed = await store.forget(as_of, now=await store.now(), grace=0)
    assert removed == 2
    assert await store.read("Patient", "slow") is None


async def test_rows_of_extents_are_folded_where_there_are_many(
    store: PostgresResourceStore, database: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_bulk_middleware.stores.postgres.resource_reading._MANY_EXTENTS", 10)
    for number in range(60):
        await store.update("Observation", f"o{number % 20}", seen(f"o{number % 20}", "1"))
    query = Query(type="Observation", selection=EveryPatient(), window=Window(), as_of=await store.cut(Precision.SECONDS))
    before = await store.slices(query, 1_000)
    ((rows,),) = database.execute("SELECT count(*) FROM resource_extent").fetchall()
    database.rollback()
    assert rows < 10
    assert await store.slices(query, 1_000) == before
    assert sum(found.estimate for found in before) == pytest.approx(20, abs=2)


async def test_a_restored_database_tells_everything_once_it_was_adopted(
    store: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    put(store, someone("p"))
    cut = await store.cut(Precision.MICROSECONDS)
    assert await ids(store, since=cut) == []
    database.execute("UPDATE bulk_cut SET cluster = 1")
    database.commit()
    with pytest.raises(RuntimeError, match=r"PostgresCuts\.adopt"):
        await store.cut(Precision.MICROSECONDS)
    store.adopt()
    assert await ids(store, since=cut) == ["p"]


@pytest.mark.long
@pytest.mark.usefixtures("no_dead_rows")
@pytest.mark.parametrize(("everything", "times"), [(True, 2), (False, 6)], ids=["everything", "since"])
async def test_a_version_is_looked_at_a_few_times_however_many_steps_read_a_type(
    store: PostgresResourceStore,
    empty_postgres: EmptyStores,
    database: "psycopg.Connection[Any]",
    everything: bool,
    times: int,
) -> None:
    """PostgreSQL does not read the rest of the type again in each step. What is new since then, it may have to search for."""
    count = 25_000
    since = await store.cut(Precision.MICROSECONDS)
    store.load(line for number in range(count) for line in (someone(f"{number}", "?" * 900), seen(f"{number}", f"{number}")))
    before = await _rows_read(database, store)
    reader = empty_postgres.another()
    assert len(await ids(reader, since=None if everything else since)) == count
    read = await _rows_read(database, reader) - before
    assert count <= read < times * count


@pytest.mark.long
@pytest.mark.usefixtures("no_dead_rows")
async def test_deletions_are_looked_at_a_few_times_however_many_steps_read_them(
    store: PostgresResourceStore, reader: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    store.load(someone(f"{number}", f"{number % 10}") for number in range(MANY))
    since = await store.cut(Precision.MICROSECONDS)
    for number in range(10):  # rows of another type lie between those of this one
        assert not isinstance(await store.remove_matching(by_text(f"{number}"), at_most=MANY, if_version=None), Matches)
        store.load(seen(f"{number}-{more}", "a") for more in range(MANY // 10))
    query = await _query(store, "Patient", since)
    before = await _rows_read(database, store)
    assert sum([len(told.references) async for told in reader.deletions(query, None)]) == MANY
    read = await _rows_read(database, reader) - before
    assert MANY <= read < 8 * MANY


@pytest.mark.long
@pytest.mark.usefixtures("no_dead_rows")
async def test_what_left_is_looked_at_a_few_times_however_many_steps_read_it(
    store: PostgresResourceStore, reader: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    store.load(seen(f"{number}", "a") for number in range(MANY))
    since = await store.cut(Precision.MICROSECONDS)
    store.load(seen(f"{number}", "b") for number in range(MANY))
    query = await _query(store, "Observation", since, Compartments(frozenset(["Patient/a"])))
    before = await _rows_read(database, store)
    assert sum([len(told.references) async for told in reader.left(query, None)]) == MANY
    read = await _rows_read(database, reader) - before
    assert MANY <= read < 20 * MANY, "of each, some versions"


@pytest.mark.long
@pytest.mark.usefixtures("no_dead_rows")
@pytest.mark.parametrize("entered", [False, True])
async def test_provenance_is_looked_at_a_few_times_however_many_steps_read_it(
    store: PostgresResourceStore, reader: PostgresResourceStore, database: "psycopg.Connection[Any]", entered: bool
) -> None:
    since = await store.cut(Precision.MICROSECONDS)
    store.load(line for number in range(MANY) for line in (someone(f"{number}"), _about(f"{number}", f"Patient/{number}")))
    target = ProvenanceTarget(await _query(store, "Patient", since if entered else None), entered=entered)
    query = await _query(store, "Provenance", None)
    before = await _rows_read(database, store)
    assert sum([page.count async for page in reader.provenance(query, [target], None, latest=False)]) == MANY
    read = await _rows_read(database, reader) - before
    assert 2 * MANY <= read < 8 * MANY, "it and its target"


@pytest.mark.long
@pytest.mark.usefixtures("no_dead_rows")
async def test_what_names_a_resource_is_looked_at_a_few_times_however_many_steps_read_it(
    store: PostgresResourceStore, reader: PostgresResourceStore, database: "psycopg.Connection[Any]"
) -> None:
    store.load(someone(f"{number}", managingOrganization={"reference": "Organization/house"}) for number in range(MANY))
    query = await _query(store, "Patient", None)
    before = await _rows_read(database, store)
    assert sum([page.count async for page in reader.naming([query], "Organization/house")]) == MANY
    read = await _rows_read(database, reader) - before
    assert MANY <= read < 8 * MANY


def _about(id_: str, reference: str) -> bytes:
    return json.dumps({"resourceType": "Provenance", "id": id_, "target": [{"reference": reference}]}).encode()


async def _query(store: PostgresResourceStore, type_: str, since: Instant | None, selection: Selection = EVERYTHING) -> Query:
    as_of = await store.cut(Precision.MICROSECONDS)
    return Query(type=type_, selection=selection, window=Window(since), as_of=as_of)


async def _rows_read(database: "psycopg.Connection[Any]", store: PostgresResourceStore) -> int:
    """How many rows of the table of versions PostgreSQL has looked at, once it knows what it has there.

    The store is closed, since what a connection counted is known when it has ended.
    """
    store.close()
    database.autocommit = True
    connected = "SELECT FROM pg_stat_activity WHERE application_name = current_schema()"
    await until(lambda: database.execute(connected).rowcount == 0)
    database.execute("VACUUM ANALYZE")
    statement = """
        SELECT pg_stat_get_tuples_returned(oid) + sum(pg_stat_get_tuples_returned(indexrelid)) FROM pg_class
        JOIN pg_index ON indrelid = oid WHERE oid = 'resource'::regclass GROUP BY oid
    """
    ((read,),) = database.execute(statement).fetchall()
    return int(read)


async def test_organised_output_reads_patients_some_at_a_time(
    store: PostgresResourceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever that number is, also from a cursor on."""
    put(store, *(someone(f"p{number}") for number in range(9)))
    put(store, *(seen(f"o{number}", f"p{number % 9}", f"p{(number + 1) % 9}") for number in range(40)))
    as_of = await store.cut(Precision.MICROSECONDS)
    queries = [
        Query(type=type_, selection=EveryPatient(), window=Window(), as_of=as_of, page_bytes=300)
        for type_ in ("Observation", "Patient")
    ]
    whole = [block async for block in store.blocks(queries, None)]
    assert [block.reference for block in whole if block.type == "Patient"] == [f"Patient/p{number}" for number in range(9)]
    monkeypatch.setattr("fhir_bulk_middleware.stores.postgres.resource_blocks._MOST_PATIENTS", 2)
    for place, block in enumerate(whole):
        assert [rest async for rest in store.blocks(queries, block.cursor)] == whole[place + 1 :]


def test_statements_with_instants_in_them_are_not_kept_for_ever(empty_postgres: EmptyStores) -> None:
    tables = empty_postgres.tables
    for number in range(2_000):
        assert f'"{empty_postgres.schema}".resource'.encode() in tables.statement(f"SELECT {number} FROM $resource")  # noqa: S608 - numbers
    assert len(tables._statements) <= 512
