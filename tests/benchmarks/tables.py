"""Rows made canonical, and deletes by criteria in tables, against what they cost without help."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Column, DateTime, MetaData, String, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation
from fhir_bulk_middleware.contract.removal import Current, Target
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.fhir.canonical import canonical_and_content
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.tables import ResourceTable, TableDeletes, TokenColumn

from .bench import Bench, core
from .figures import Figure, ratio
from .rounds import interleave, timed

__all__ = ["mapped", "tables"]

_PATIENTS = 30
_MATCHES = 10


def mapped(bench: Bench) -> Iterator[Figure]:
    """A dict made canonical, with and without msgspec."""
    rows = [msgspec.json.decode(line) for line in population(patients=_PATIENTS)]

    def canonical(*, fast: bool) -> Callable[[], None]:
        def make() -> None:
            for row in rows:
                canonical_and_content(row, fast=fast)

        return make

    def dump() -> None:
        for row in rows:
            json.dumps(row)

    contenders = {"dumps": dump, "msgspec": canonical(fast=True), "json": canonical(fast=False)}
    with core(0):
        found = interleave({name: timed(action) for name, action in contenders.items()}, bench.rounds)
    note = f"{len(rows)} resources"
    yield ratio("", "canonical(dict) with msgspec / json.dumps", found["msgspec"], found["dumps"], note)
    yield ratio("", "canonical(dict) without msgspec / json.dumps", found["json"], found["dumps"], note)


class _Ward(TableDeletes):
    async def authorise(self, principal: Principal) -> Authorisation:
        del principal
        return Authorisation(self.exportable_types())

    deletable = authorise

    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        raise NotImplementedError


def tables(bench: Bench) -> Iterator[Figure]:
    """The search of a conditional delete by a column with an index, against one that reads the type."""
    metadata = MetaData()
    observation = Table(
        "observation",
        metadata,
        Column("id", String, primary_key=True),
        Column("code", String, index=True),
        Column("updated", DateTime, nullable=False),
    )
    count = bench.resources // 2
    engine = create_async_engine(f"sqlite+aiosqlite:///{bench.folder}/tables.db")

    def resource(row: Any) -> dict[str, Any]:
        coding = {"system": "http://loinc.org", "code": row.code}
        return {"resourceType": "Observation", "status": "final", "code": {"coding": [coding]}}

    described = ResourceTable(
        type="Observation", rows=select(observation), id=observation.c.id, last_updated=observation.c.updated, resource=resource
    )
    indexed = ResourceTable(
        type="Observation",
        rows=described.rows,
        id=described.id,
        last_updated=described.last_updated,
        resource=resource,
        search={"code": TokenColumn(observation.c.code, "http://loinc.org")},
    )
    target = Target(criteria=Criteria.parse(FhirVersion.R4, "Observation", "code=http://loinc.org|c7"))

    async def fill() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            now = datetime.now(UTC).replace(tzinfo=None)
            rows = [{"id": f"o{n}", "code": f"c{n % (count // _MATCHES)}", "updated": now} for n in range(count)]
            await connection.execute(observation.insert(), rows)

    def find(table: ResourceTable) -> Callable[[], None]:
        ward = _Ward(engine, [table])

        async def search() -> None:
            found = await ward.find(target, at_most=100)
            if found.count != _MATCHES:
                raise RuntimeError(f"{found.count} matches instead of {_MATCHES}")

        return lambda: runner.run(search())

    with asyncio.Runner() as runner, core(0):
        runner.run(fill())
        contenders = {"index": timed(find(indexed)), "walk": timed(find(described))}
        found = interleave(contenders, bench.rounds)
        runner.run(engine.dispose())
    yield ratio("", f"conditional delete among {count:,} rows, by index / by reading the type", found["index"], found["walk"])
