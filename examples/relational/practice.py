"""A practice on FastAPI and SQLAlchemy whose data are columns of four tables, with bulk data export and deletes.

Run it: `DATABASE_URL=postgresql+psycopg://... uvicorn --factory relational.practice:app`, in the folder above.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from sqlalchemy import Column, Date, DateTime, Integer, MetaData, Numeric, String, Table, Text, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from fhir_bulk_middleware import (
    FHIR_R4,
    Authorisation,
    BulkData,
    Current,
    FileOutputStore,
    JoseTokenVerifier,
    Principal,
    Recipe,
    SQLiteDeletionLog,
    SQLiteJobStore,
    TokenVerifier,
)
from fhir_bulk_middleware.tables import (
    DateColumn,
    MarkedDeletions,
    ReferenceColumn,
    ResourceTable,
    TableDeletes,
    TokenColumn,
    writing,
)

LOINC = "http://loinc.org"

# --- The tables, as the practice had them before -------------------------------------------------------------------------------

metadata = MetaData()


def table(name: str, *columns: Column[Any]) -> Table:
    """A table of rows that change and are marked when they are deleted."""
    return Table(
        name,
        metadata,
        Column("id", String(64), primary_key=True),
        Column("version", Integer, nullable=False),
        Column("updated", DateTime(timezone=True), nullable=False, index=True),
        Column("deleted", DateTime(timezone=True), index=True),
        *columns,
    )


practitioner = table("practitioner", Column("name", Text))
patient = table("patient", Column("name", Text), Column("born", Date))
encounter = table(
    "encounter",
    Column("patient_id", String(64), index=True),
    Column("practitioner_id", String(64)),
    Column("status", String(20)),
    Column("began", DateTime(timezone=True)),
    Column("ended", DateTime(timezone=True)),
)
observation = table(
    "observation",
    Column("patient_id", String(64), index=True),
    Column("measured_by", String(64), index=True),  # a patient: oneself, or the mother of a child
    Column("practitioner_id", String(64)),
    Column("code", String(20), index=True),
    Column("text", Text),
    Column("value", Numeric(10, 3)),
    Column("unit", String(20)),
    Column("taken", DateTime(timezone=True), index=True),
)

# --- The adapter ---------------------------------------------------------------------------------------------------------------


def present(**elements: Any) -> dict[str, Any]:
    """The elements that have a value."""
    return {name: value for name, value in elements.items() if value is not None and value != []}


def reference(type_: str, id_: str | None) -> dict[str, str] | None:
    """A reference to a row; None if there is none."""
    return None if id_ is None else {"reference": f"{type_}/{id_}"}


def aware(moment: datetime) -> datetime:
    """A time with its zone: SQLite has none, and what was written to it here is in UTC."""
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def instant(moment: datetime | None) -> str | None:
    """A time as FHIR's dateTime."""
    return None if moment is None else aware(moment).isoformat()


def practitioner_of(row: Any) -> dict[str, Any]:
    """A row as FHIR."""
    return present(resourceType="Practitioner", name=[{"text": row.name}])


def patient_of(row: Any) -> dict[str, Any]:
    """A row as FHIR."""
    return present(resourceType="Patient", name=[{"text": row.name}], birthDate=row.born and row.born.isoformat())


def encounter_of(row: Any) -> dict[str, Any]:
    """A row as FHIR."""
    doctor = reference("Practitioner", row.practitioner_id)
    return present(
        resourceType="Encounter",
        status=row.status,
        subject=reference("Patient", row.patient_id),
        participant=[{"individual": doctor}] if doctor else None,
        period=present(start=instant(row.began), end=instant(row.ended)) or None,
    )


def observation_of(row: Any) -> dict[str, Any]:
    """A row as FHIR."""
    performers = [reference("Patient", row.measured_by), reference("Practitioner", row.practitioner_id)]
    return present(
        resourceType="Observation",
        status="final",
        code=present(coding=[{"system": LOINC, "code": row.code}] if row.code else None, text=row.text),
        subject=reference("Patient", row.patient_id),
        effectiveDateTime=instant(row.taken),
        performer=[each for each in performers if each],
        valueQuantity=None if row.value is None else present(value=row.value, unit=row.unit),
    )


def described(source: Table, type_: str, resource: Any, **more: Any) -> ResourceTable:
    """What all four tables have in common."""
    columns = source.c
    common = {"id": columns.id, "version": columns.version, "last_updated": columns.updated}
    return ResourceTable(type=type_, rows=select(source), resource=resource, **{**common, "deleted_at": columns.deleted, **more})


TABLES = [
    described(practitioner, "Practitioner", practitioner_of),
    described(patient, "Patient", patient_of, search={"birthdate": DateColumn(patient.c.born)}),
    described(
        encounter,
        "Encounter",
        encounter_of,
        patients=[encounter.c.patient_id],
        search={
            "patient": ReferenceColumn(encounter.c.patient_id, "Patient"),
            "date": DateColumn(encounter.c.began, encounter.c.ended),
        },
    ),
    described(
        observation,
        "Observation",
        observation_of,
        patients=[observation.c.patient_id, observation.c.measured_by],
        search={
            "patient": ReferenceColumn(observation.c.patient_id, "Patient"),
            "code": TokenColumn(observation.c.code, LOINC),
            "date": DateColumn(observation.c.taken),
        },
    ),
]


class Practice(MarkedDeletions, TableDeletes):
    """The storage adapter."""

    async def authorise(self, principal: Principal) -> Authorisation:
        """Every client may export all types, as far as its scopes go."""
        return Authorisation(self.exportable_types())

    async def deletable(self, principal: Principal) -> Authorisation:
        """Practitioners stay."""
        return Authorisation(self.exportable_types() - {"Practitioner"})

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        """Mark the row."""
        source = metadata.tables[resource.type.lower()]
        await connection.execute(source.update().where(source.c.id == resource.id).values(deleted=datetime.now(UTC)))

    def recipe(self) -> Recipe:
        """Exports run in worker processes."""
        return Recipe(f"{__name__}:practice", {"url": self.engine.url.render_as_string(hide_password=False)})


def practice(url: str) -> Practice:
    """The adapter for a database."""
    return Practice(create_async_engine(url), TABLES)


# --- The server of the practice ------------------------------------------------------------------------------------------------


def columns_of(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource as columns: the other direction, which only a server that is written to needs."""

    def key(type_: str, *elements: dict[str, str] | None) -> str | None:
        named = [each["reference"].split("/") for each in elements if each]
        return next((id_ for found, id_ in named if found == type_), None)

    def moment(text: str | None) -> datetime | None:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)

    match resource["resourceType"]:
        case "Practitioner":
            return {"name": resource["name"][0]["text"]}
        case "Patient":
            born = resource.get("birthDate")
            return {"name": resource["name"][0]["text"], "born": None if born is None else date.fromisoformat(born)}
        case "Encounter":
            period = resource.get("period", {})
            doctors = [each["individual"] for each in resource.get("participant", [])]
            return {
                "patient_id": key("Patient", resource.get("subject")),
                "practitioner_id": key("Practitioner", *doctors),
                "status": resource["status"],
                "began": moment(period.get("start")),
                "ended": moment(period.get("end")),
            }
        case "Observation":
            performers, value = resource.get("performer", []), resource.get("valueQuantity", {})
            return {
                "patient_id": key("Patient", resource.get("subject")),
                "measured_by": key("Patient", *performers),
                "practitioner_id": key("Practitioner", *performers),
                "code": next((each["code"] for each in resource["code"].get("coding", [])), None),
                "text": resource["code"].get("text"),
                "value": value.get("value"),
                "unit": value.get("unit"),
                "taken": moment(resource.get("effectiveDateTime")),
            }
    raise ValueError(f"there is no table for {resource['resourceType']}")


async def save(connection: AsyncConnection, resource: dict[str, Any]) -> None:
    """Write a resource."""
    source, id_ = metadata.tables[resource["resourceType"].lower()], resource["id"]
    values = {**columns_of(resource), "updated": datetime.now(UTC), "deleted": None}
    changed = source.update().where(source.c.id == id_).values(version=source.c.version + 1, **values)
    if not (await connection.execute(changed)).rowcount:
        await connection.execute(source.insert().values(id=id_, version=1, **values))


Save = Callable[[AsyncConnection, dict[str, Any]], Awaitable[None]]


def host(adapter: TableDeletes, tables: MetaData, save: Save, folder: Path, verifier: TokenVerifier) -> FastAPI:
    """The server, with bulk data export and deletes below `/fhir`."""
    engine = adapter.engine

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/fhir/{type_}/{id_}")
    async def read(type_: str, id_: str) -> Any:
        """A route of the practice's own; it goes on working."""
        found = await adapter.current(type_, id_)
        if found is None or found.deleted:
            raise HTTPException(404)
        return Response(found.json, media_type="application/fhir+json")

    @app.put("/fhir/{type_}/{id_}")
    async def write(type_: str, id_: str, resource: dict[str, Any]) -> None:
        """Another one."""
        async with writing(engine) as connection:
            await save(connection, {**resource, "resourceType": type_, "id": id_})

    bulk = BulkData(
        resources=adapter,
        verifier=verifier,
        jobs=SQLiteJobStore(folder / "jobs.db"),
        outputs=FileOutputStore(folder / "exports"),
        deletes=FHIR_R4,
        log=SQLiteDeletionLog(folder / "deletes.db"),
    )
    bulk.install(app, base="/fhir")
    return app


def app() -> FastAPI:
    """For uvicorn."""
    verifier = JoseTokenVerifier(jwks="keys.json", issuer="https://auth.example", audience="https://ehr.example/fhir")
    adapter = practice(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///practice.db"))
    return host(adapter, metadata, save, Path("state"), verifier)
