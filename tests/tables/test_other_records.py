"""The delete suites of the kit on a storage that has no Observation: they write what `Samples` says."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from fhir_bulk_middleware import Authorisation, Current, Principal, system_clock
from fhir_bulk_middleware.tables import ReferenceColumn, ResourceTable, StringColumn, TableDeletes, writing
from fhir_bulk_middleware.testing.deletes import ConditionalDeleteSuite, OneDeleteSuite, ReadSuite
from fhir_bulk_middleware.testing.samples import Samples

metadata = MetaData()


def table(name: str, *more: Column[Any]) -> Table:
    key = Column("id", String, primary_key=True)
    return Table(name, metadata, key, Column("updated", BigInteger), Column("text", String), *more)


patient = table("patient")
dose = table("dose", Column("patient", String))
BY_TYPE = {"Patient": patient, "Immunization": dose}


def patient_of(row: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "name": [{"text": row.text}]}


def dose_of(row: Any) -> dict[str, Any]:
    return {"resourceType": "Immunization", "lotNumber": row.text, "patient": {"reference": f"Patient/{row.patient}"}}


class Registry(TableDeletes):
    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(self.exportable_types())

    deletable = authorise

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        rows = BY_TYPE[resource.type]
        await connection.execute(rows.delete().where(rows.c.id == resource.id))

    async def put(self, *resources: str) -> None:
        async with writing(self.engine) as connection:
            for resource in map(json.loads, resources):
                rows, id_, updated = BY_TYPE[resource["resourceType"]], resource["id"], system_clock()
                if rows is dose:
                    whose = resource["patient"]["reference"].partition("/")[2]
                    values = {"text": resource["lotNumber"], "patient": whose}
                else:
                    values = {"text": resource["name"][0]["text"]}
                before = (await connection.execute(select(rows.c.updated).where(rows.c.id == id_))).scalar() or 0
                await connection.execute(rows.delete().where(rows.c.id == id_))
                await connection.execute(rows.insert().values(id=id_, updated=max(updated, before + 1), **values))

    async def delete(self, type_: str, id_: str) -> None:
        await self.remove(type_, id_, None, "")


PATIENTS = ResourceTable(
    type="Patient", rows=select(patient), id=patient.c.id, last_updated=patient.c.updated, resource=patient_of
)
DOSES = ResourceTable(
    type="Immunization",
    rows=select(dose),
    id=dose.c.id,
    last_updated=dose.c.updated,
    patients=[dose.c.patient],
    search={"lot-number": StringColumn(dose.c.text), "patient": ReferenceColumn(dose.c.patient, "Patient")},
    resource=dose_of,
)


class RegistrySamples(Samples):
    record_type, outside_type = "Immunization", None

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        (whose,) = patients
        lot = {"resourceType": "Immunization", "id": id_, "lotNumber": text or "none", "patient": {"reference": whose}}
        return json.dumps(lot)

    def criterion(self, text: str) -> tuple[str, str]:
        return "lot-number:exact", text

    def text_of(self, content: Mapping[str, Any]) -> str:
        return str(content["lotNumber"] if content["resourceType"] == "Immunization" else content["name"][0]["text"])


class TestRegistry(ReadSuite, OneDeleteSuite, ConditionalDeleteSuite):
    @pytest.fixture
    def samples(self) -> Samples:
        return RegistrySamples()

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Registry]:
        store = Registry(create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/registry.db"), [PATIENTS, DOSES])
        async with store.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield store
        await store.engine.dispose()

    @pytest.fixture
    def writer(self, store: Registry) -> Registry:
        return store


@pytest.mark.parametrize("line", [{"name": [{"family": "Smith"}]}, {"name": []}, {"code": {"coding": []}}, {}])
def test_samples_that_do_not_fit_say_what_to_override(line: dict[str, Any]) -> None:
    with pytest.raises(LookupError, match=r"neither code.text nor name\[0\].text: override Samples.text_of"):
        Samples().text_of(line)
