"""Reads and deletes of tables: keys, times, links, criteria by columns, and statements that would give wrong answers."""

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    case,
    cast,
    event,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from fhir_bulk_middleware import (
    Authorisation,
    Compartments,
    Criteria,
    Current,
    EveryPatient,
    Everything,
    FhirVersion,
    Filter,
    Filters,
    Instant,
    NeverExisted,
    NoPatient,
    Principal,
    Query,
    Removed,
    Selection,
    Target,
    Window,
    from_datetime,
)
from fhir_bulk_middleware.tables import (
    DateColumn,
    Link,
    MarkedDeletions,
    ReferenceColumn,
    ResourceTable,
    StringColumn,
    TableDeletes,
    TableStorage,
    TokenColumn,
    VersionedTables,
    WriteClock,
    narrowed,
    writing,
)
from fhir_bulk_middleware.tables.columns import bound, key_of

pytestmark = pytest.mark.anyio

metadata = MetaData()
patient = Table(
    "patient", metadata, Column("id", Integer, primary_key=True), Column("updated", BigInteger), Column("active", Boolean)
)
visit = Table(
    "visit",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("updated", DateTime),
    Column("class_code", String, index=True),
    Column("class_system", String),
    Column("began", DateTime),
    Column("ended", DateTime),
    Column("day", Date),
    Column("place", String),
    Column("doctor", Integer),
)
guest = Table("guest", metadata, Column("visit", Uuid), Column("patient", Integer))
NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def shown(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat()


def visit_of(row: Any) -> dict[str, Any]:
    coding = {"system": row.class_system, "code": row.class_code}
    period = {name: shown(moment) for name, moment in (("start", row.began), ("end", row.ended)) if moment is not None}
    return {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {name: value for name, value in coding.items() if value is not None},
        **({"period": period} if period else {}),
        "participant": [{"individual": {"reference": f"Practitioner/{row.doctor}"}}],
        "identifier": [{"value": row.place}],
    }


PATIENTS = ResourceTable(
    type="Patient",
    rows=select(patient),
    id=patient.c.id,
    last_updated=patient.c.updated,
    resource=lambda row: {"resourceType": "Patient", "active": row.active, "name": [{"family": f"Smith {row.id}"}]},
    search={"active": TokenColumn(patient.c.active)},
)
VISITS = ResourceTable(
    type="Encounter",
    rows=select(visit),
    id=visit.c.id,
    last_updated=visit.c.updated,
    patients=[Link(patient=guest.c.patient, on=guest.c.visit == visit.c.id)],
    resource=visit_of,
    search={
        "class": TokenColumn(visit.c.class_code, visit.c.class_system),
        "date": DateColumn(visit.c.began, visit.c.ended),
        "participant": ReferenceColumn(visit.c.doctor, "Practitioner"),
        "practitioner": [ReferenceColumn(visit.c.doctor, "Practitioner")],
        "identifier": TokenColumn(visit.c.place),
    },
)


class Clinic(TableDeletes):
    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(self.exportable_types())

    deletable = authorise

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        table = {"Patient": patient, "Encounter": visit}[resource.type]
        await connection.execute(table.delete().where(table.c.id == key_of(table.c.id, resource.id)))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/clinic.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def clinic(engine: AsyncEngine) -> Clinic:
    return Clinic(engine, [PATIENTS, VISITS])


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


async def hold(engine: AsyncEngine, visits: int, guests: Sequence[tuple[int, int]] = ()) -> None:
    """Visits that differ in all that can be searched, and their guests."""
    rows = [
        {
            "id": key_of(visit.c.id, uuid(number)),
            "updated": NOON.replace(tzinfo=None) + timedelta(microseconds=number),
            "class_code": ["AMB", "IMP", "amb", None][number % 4],
            "class_system": [ACT, "urn:other", None][number % 3],
            "began": None if number % 7 == 0 else (NOON + timedelta(hours=number * 5)).replace(tzinfo=None),
            "ended": None if number % 5 == 0 else (NOON + timedelta(hours=number * 5 + 2)).replace(tzinfo=None),
            "place": f"Room {number % 6}",
            "doctor": number % 5,
        }
        for number in range(visits)
    ]
    async with writing(engine) as connection:
        if rows:
            await connection.execute(visit.insert(), rows)
        for number, who in guests:
            await connection.execute(guest.insert().values(visit=key_of(visit.c.id, uuid(number)), patient=who))


def query(type_: str, selection: Selection | None = None, **more: Any) -> Query:
    return Query(**{"type": type_, "selection": selection or Everything(), "window": Window(), "as_of": None, **more})


async def lines(store: TableStorage, asked: Query, after: str | None = None) -> list[bytes]:
    return [line for page in [page async for page in store.pages(asked, after)] for line in page.lines.splitlines()]


async def numbers(store: TableStorage, asked: Query) -> list[int]:
    return [int(json.loads(line)["id"][-12:]) for line in await lines(store, asked)]


def filter_of(type_: str, *queries: str) -> Filter:
    return Filter(type_, tuple(Criteria.parse(FhirVersion.R4, type_, each) for each in queries))


# --- Whose ---


async def test_a_link_that_has_several_rows_doubles_nothing(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 4, [(0, 1), (0, 1), (0, 2), (1, 2), (2, 3)])

    assert await numbers(clinic, query("Encounter", Compartments(frozenset({"Patient/1", "Patient/2"})))) == [0, 1]
    assert await numbers(clinic, query("Encounter", EveryPatient())) == [0, 1, 2]
    assert await numbers(clinic, query("Encounter", NoPatient())) == [3]
    for nobody in ((), ("Patient/01",), ("Patient/x",), ("Practitioner/1",), ("Patient/99999999999999999999",)):
        assert await numbers(clinic, query("Encounter", Compartments(frozenset(nobody)))) == []


async def test_a_large_group_is_one_parameter(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 4, [(0, 1), (3, 39_999)])
    members = Compartments(frozenset(f"Patient/{number}" for number in range(40_000)))
    assert await numbers(clinic, query("Encounter", members)) == [0, 3]


async def test_a_join_that_doubles_is_named(engine: AsyncEngine) -> None:
    await hold(engine, 3, [(1, 1), (1, 2)])
    doubled = replace(VISITS, rows=select(visit, guest.c.patient).outerjoin(guest, guest.c.visit == visit.c.id))
    with pytest.raises(ValueError, match=rf"Encounter/{uuid(1)} has several rows.*Link"):
        await lines(Clinic(engine, [doubled]), query("Encounter"))


# --- When ---


@pytest.mark.parametrize(
    "type_", [DateTime(), DateTime(timezone=True), BigInteger()], ids=["without zone", "with zone", "microseconds"]
)
async def test_windows_are_exact_to_the_microsecond_whatever_the_column(engine: AsyncEngine, type_: Any) -> None:
    own = MetaData()
    table = Table("timed", own, Column("id", String, primary_key=True), Column("updated", type_))
    moments = [from_datetime(NOON) + number for number in (-1, 0, 1, 999_999)]
    async with writing(engine) as connection:
        await connection.run_sync(own.create_all)
        for number, moment in enumerate(moments):
            row = {"id": str(number), "updated": bound(table.c.updated, Instant(moment))}
            await connection.execute(table.insert().values(row))
    resource = ResourceTable(
        type="Patient",
        rows=select(table),
        id=table.c.id,
        last_updated=table.c.updated,
        resource=lambda _: {"resourceType": "Patient"},
    )
    store = Clinic(engine, [resource])
    for since, until in itertools.product([None, *moments], [None, *moments]):
        window = Window(None if since is None else Instant(since), None if until is None else Instant(until))
        found = await numbers(store, query("Patient", window=window))
        assert found == [
            number
            for number, moment in enumerate(moments)
            if (since is None or moment > since) and (until is None or moment <= until)
        ]
    first = json.loads((await lines(store, query("Patient")))[0])
    assert first["meta"] == {"versionId": str(moments[0]), "lastUpdated": "2024-05-06T11:59:59.999999Z"}


async def test_what_sqlite_stamps_by_itself_is_read_to_the_second(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 3)
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE visit SET updated = '2024-05-06 12:00:00'"))  # as CURRENT_TIMESTAMP is
    noon = from_datetime(NOON)
    for since, until, found in ((noon, None, []), (Instant(noon - 1), noon, [0, 1, 2]), (None, Instant(noon - 1), [])):
        assert await numbers(clinic, query("Encounter", window=Window(since, until))) == found


# --- Which ---

_QUERIES = [
    "class=AMB",
    f"class={ACT}|AMB",
    "class=|AMB,IMP",
    f"class={ACT}|",
    "class:not=AMB",
    "class:missing=true",
    "date=2024-05-07",
    "date=ge2024-05-08",
    "date=lt2024-05-07T00:00:00Z",
    "date=sa2024-05-08",
    "date=eb2024-05-07",
    "date=ap2024-05-07",
    "date=ne2024-05-07",
    "date=gt2024-05-06T17:00:00-03:00",
    "date=9999",
    "date=0001",
    "practitioner=3",
    "practitioner=Practitioner/3,4",
    "practitioner=https://elsewhere.example/fhir/Practitioner/3",
    "practitioner=03",
    "participant:Practitioner=2",
    "identifier=Room 2",
    "identifier=room 2",
    "identifier=%00",
    f"_id={uuid(3)},x",
    "_lastUpdated=2024-05-06T12:00:00.000003Z",
    "_lastUpdated=gt2024-05-06T12:00:00.000003Z",
    "status=finished",
    "class=AMB&date=ge2024-05-08&practitioner=1,2,3",
]


@pytest.mark.parametrize("asked", _QUERIES)
async def test_columns_leave_out_nothing_that_meets_the_criteria(engine: AsyncEngine, clinic: Clinic, asked: str) -> None:
    await hold(engine, 60)
    filter_ = filter_of("Encounter", asked)
    whole = await lines(clinic, query("Encounter"))
    meets = [line for line in whole if Filters([filter_], "Encounter").passes(line)]

    narrow = await lines(clinic, query("Encounter", filters=(filter_,)))

    assert [line for line in narrow if line in meets] == meets
    matches = await clinic.find(Target(criteria=filter_.alternatives[0]), at_most=100)
    assert [match.id for match in matches.versions] == [json.loads(line)["id"] for line in meets]
    if asked in {"class=AMB", "practitioner=3", "identifier=Room 2", "date=ge2024-05-08"}:
        assert len(narrow) < len(whole)


async def test_filters_are_joined_by_and_and_their_alternatives_by_or(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 60)
    either, both = filter_of("Encounter", "practitioner=1", "practitioner=2"), filter_of("Encounter", "identifier=Room 1")
    other = filter_of("Patient", "_id=1")
    found = await numbers(clinic, query("Encounter", filters=(either, both, other)))
    assert found == [number for number in range(60) if number % 5 in {1, 2} and number % 6 == 1]


async def test_a_boolean_and_a_text_are_found_by_their_columns(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        for number, active in enumerate((True, False, None)):
            await connection.execute(patient.insert().values(id=number, updated=1, active=active))
    store = Clinic(engine, [PATIENTS])
    for asked, found in (("active=true", [0]), ("active=false", [1]), ("active=true,false", [0, 1])):
        assert await numbers(store, query("Patient", filters=(filter_of("Patient", asked),))) == found
    named = replace(VISITS, search={"identifier": StringColumn(visit.c.place)})
    exact = filter_of("Patient", "family:exact=Smith 1")
    condition = narrowed(replace(named, type="Patient", search={"family": StringColumn(visit.c.place)}), [exact], "sqlite")
    assert str(condition.compile(compile_kwargs={"literal_binds": True})) == "visit.place IN ('Smith 1')"


async def test_a_conditional_delete_uses_the_index_and_walks_no_type(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 20)
    asked: list[tuple[str, Any]] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    await clinic.find(Target(criteria=Criteria.parse(FhirVersion.R4, "Encounter", "class=AMB")), at_most=5)
    ((statement, values),) = asked
    async with engine.connect() as connection:
        plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)).all()
    assert "USING INDEX ix_visit_class_code" in str(plan)


async def test_a_conditional_delete_removes_what_meets_all_criteria(engine: AsyncEngine, clinic: Clinic) -> None:
    await hold(engine, 40)
    target = Target(criteria=Criteria.parse(FhirVersion.R4, "Encounter", "identifier=Room 1&status=finished"))
    matches = await clinic.find(target, at_most=100)
    removed = await clinic.remove_all(target, matches)
    assert removed is not None
    assert len(removed) == matches.count == 7
    assert await clinic.remove_all(target, matches) is None
    assert not [number for number in await numbers(clinic, query("Encounter")) if number % 6 == 1]


# --- What a host could get wrong ---


async def test_a_mapper_that_makes_another_type_is_named(engine: AsyncEngine) -> None:
    await hold(engine, 1)
    wrong = replace(VISITS, resource=lambda _: {"resourceType": "Patient"})
    with pytest.raises(ValueError, match="of a row of Encounter is a Patient"):
        await lines(Clinic(engine, [wrong]), query("Encounter"))


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"resource": lambda row: {"resourceType": "Encounter", "status": {"Room 0": "planned"}[row.place]}}, KeyError, "Room 1"),
        ({"resource": lambda row: visit_of(row) if row.place == "Room 0" else None}, TypeError, "a NoneType is no resource"),
        ({"last_updated": case((visit.c.place == "Room 0", visit.c.updated))}, TypeError, "NULL is no instant"),
    ],
    ids=["the mapper raises", "the mapper returns nothing", "no instant"],
)
async def test_the_row_that_is_at_fault_is_named(
    engine: AsyncEngine, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    await hold(engine, 2)
    clinic = Clinic(engine, [replace(VISITS, **wrong)])
    for attempt in (lines(clinic, query("Encounter")), clinic.current("Encounter", uuid(1))):
        with pytest.raises(error, match=says) as raised:
            await attempt
        assert raised.value.__notes__ == [f"The row of Encounter/{uuid(1)} cannot be made a resource"]


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"type": "Encunter"}, ValueError, "'Encunter' is no resource type"),
        ({"last_updated": visit.c.place}, TypeError, r"Encounter: last_updated: visit.place holds String.*DateTime"),
        (
            {"last_updated": func.greatest(visit.c.updated, visit.c.ended)},
            TypeError,
            r"last_updated: the type of greatest\(visit.updated, visit.ended\) is not known.* type_=DateTime\(timezone=True\)",
        ),
        ({"deleted_at": func.nullif(visit.c.place, "")}, TypeError, "Encounter: deleted_at: "),
        ({"search": {"clas": TokenColumn(visit.c.class_code)}}, ValueError, "there is no search parameter clas"),
        (
            {"search": {"date": TokenColumn(visit.c.began)}},
            TypeError,
            "date is a date parameter, and a TokenColumn was given; give a DateColumn",
        ),
        ({"search": {"length": [TokenColumn(visit.c.doctor)]}}, TypeError, "length is a quantity parameter.*leave it out"),
    ],
)
async def test_a_wrong_declaration_is_told_at_start(
    engine: AsyncEngine, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Clinic(engine, [replace(VISITS, **wrong)])
    typed = func.coalesce(visit.c.ended, visit.c.updated)
    assert Clinic(engine, [replace(VISITS, last_updated=typed, search={"class": [TokenColumn(visit.c.class_code)]})])


async def test_marks_and_histories_that_are_missing_are_named_at_start(engine: AsyncEngine) -> None:
    class Marked(MarkedDeletions, Clinic):
        pass

    class Versioned(VersionedTables, Clinic):
        pass

    with pytest.raises(TypeError, match="Patient: MarkedDeletions needs the column deleted_at"):
        Marked(engine, [PATIENTS])
    with pytest.raises(TypeError, match="Patient: VersionedTables needs the history"):
        Versioned(engine, [PATIENTS], WriteClock(MetaData()))


async def test_a_transaction_that_fails_leaves_nothing(engine: AsyncEngine, clinic: Clinic) -> None:
    async def fail() -> None:
        async with writing(engine) as connection:
            await connection.execute(patient.insert().values(id=1, updated=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await lines(clinic, query("Patient")) == []


@pytest.mark.parametrize(
    ("asked", "condition"),
    [("date=ge2024-05-07", "visit.day >= '2024-05-06'"), ("date=ge0001-01-01", "1 = 1"), ("date=le9999", "1 = 1")],
)
def test_dates_beyond_the_calendar_bound_nothing(asked: str, condition: str) -> None:
    day = replace(VISITS, search={"date": DateColumn(visit.c.day)})
    found = narrowed(day, [filter_of("Encounter", asked)], "sqlite").compile(compile_kwargs={"literal_binds": True})
    assert str(found).replace("true", "1 = 1") == condition


# --- Keys of several columns ---


dose = Table(
    "dose",
    metadata,
    Column("clinic", Integer, primary_key=True),
    Column("person", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("updated", BigInteger),
)


def key(*columns: Column[int]) -> ColumnElement[str]:
    texts = [cast(column, String) for column in columns]
    return reduce(lambda text, column: text + literal("-") + column, texts[1:], texts[0])


class Clinics(TableDeletes):
    """Its rights are the clinic whose rows count."""

    async def authorise(self, principal: Principal) -> Authorisation:
        return Authorisation(self.exportable_types(), str(principal.claims["clinic"]))

    deletable = authorise

    def allowed(self, table: ResourceTable, rights: str) -> ColumnElement[bool]:
        del table
        return dose.c.clinic == int(rights)

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        values = zip(dose.primary_key.columns, map(int, resource.id.split("-")), strict=True)
        await connection.execute(dose.delete().where(*(column == value for column, value in values)))


async def test_an_id_may_be_made_of_several_columns(engine: AsyncEngine) -> None:
    whose = key(dose.c.clinic, dose.c.person)
    doses = ResourceTable(
        type="Immunization",
        rows=select(dose),
        id=key(dose.c.clinic, dose.c.person, dose.c.number),
        last_updated=dose.c.updated,
        patients=[whose],
        search={"patient": ReferenceColumn(whose, "Patient")},
        resource=lambda row: {
            "resourceType": "Immunization",
            "patient": {"reference": f"Patient/{row.clinic}-{row.person}"},
        },
    )
    async with writing(engine) as connection:
        rows = [(clinic, person, number) for clinic in (1, 2) for person in (1, 11) for number in range(1, 13)]
        values = [dict(zip(("clinic", "person", "number", "updated"), (*row, 1), strict=True)) for row in rows]
        await connection.execute(dose.insert(), values)
    clinics = Clinics(engine, [doses])

    async def ids(asked: Query) -> list[str]:
        return [json.loads(line)["id"] for line in await lines(clinics, asked)]

    everything = query("Immunization", rights="1")
    whole = await ids(everything)
    assert sorted(whole) == sorted("-".join(map(str, row)) for row in rows if row[0] == 1)
    ranges = await clinics.slices(everything, 1_000)
    assert len(ranges) > 1
    assert [id_ for each in ranges for id_ in await ids(replace(everything, range=each.range))] == whole
    assert sum(each.estimate for each in ranges) == len(whole)
    of_one = query("Immunization", Compartments(frozenset({"Patient/1-1", "Patient/2-1"})), rights="1")
    assert sorted(await ids(of_one)) == sorted(f"1-1-{number}" for number in range(1, 13))

    assert isinstance(await clinics.remove("Immunization", "2-1-1", None, "1"), NeverExisted), "it is another clinic's"
    assert isinstance(await clinics.remove("Immunization", "1-1", None, "1"), NeverExisted)
    assert isinstance(await clinics.remove("Immunization", "1-1-1", None, "1"), Removed)
    target = Target(criteria=Criteria.parse(FhirVersion.R4, "Immunization", "patient=Patient/1-11"), rights="1")
    matches = await clinics.find(target, at_most=99)
    assert len(await clinics.remove_all(target, matches) or ()) == 12
    assert sorted(await ids(everything)) == sorted(f"1-1-{number}" for number in range(2, 13))
