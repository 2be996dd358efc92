"""The conformance kit on the practice: `pytest test_practice.py`, with DATABASE_URL of a database that may be emptied."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from relational.practice import Practice, metadata, practice, save

from fhir_bulk_middleware.tables import writing
from fhir_bulk_middleware.testing.deletes import ConditionalDeleteSuite, OneDeleteSuite, ReadSuite
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import Samples, observation


class Desk:
    """Writes as the practice's own routes do."""

    def __init__(self, adapter: Practice) -> None:
        self.adapter = adapter

    async def put(self, *resources: str) -> None:
        """Rows for these."""
        async with writing(self.adapter.engine) as connection:
            for resource in resources:
                await save(connection, json.loads(resource, parse_float=str))

    async def delete(self, type_: str, id_: str) -> None:
        """Mark a row."""
        await self.adapter.remove(type_, id_, None, "")


class PracticeSamples(Samples):
    """What the tables can hold."""

    outside_type, types = "Practitioner", frozenset({"Encounter", "Observation"})

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """An observation on the first, measured by the second."""
        return observation(id_, *patients[:1] or ["Location/1"], text, performer=[{"reference": each} for each in patients[1:]])

    def outside(self, id_: str) -> str | None:
        """A practitioner."""
        return json.dumps({"resourceType": "Practitioner", "id": id_, "name": [{"text": "Dr."}]})

    def naming(self, id_: str, patient: str, outside: str) -> str | None:
        """An observation by a practitioner."""
        return observation(id_, patient, performer=[{"reference": f"Practitioner/{outside}"}])

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str | None:
        """By each column that has a patient; an encounter's `patient` is its subject."""
        link: dict[str, Any] = {"reference": reference}
        own = {"Encounter": {"status": "planned"}, "Observation": {"code": {"text": "x"}}}[type_]
        if path not in {"subject", "performer"}:
            return None
        return json.dumps({"resourceType": type_, "id": id_, **own, path: [link] if path == "performer" else link})


class TestPractice(ResourceStoreSuite, ReadSuite, OneDeleteSuite, ConditionalDeleteSuite):
    """All that it promises."""

    @pytest.fixture
    def samples(self) -> Samples:
        """What the tests write."""
        return PracticeSamples()

    @pytest.fixture
    def url(self) -> str:
        """The database."""
        return os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///test.db")

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Practice]:
        """The adapter over empty tables."""
        store = practice(url)
        async with store.engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
        yield store
        await store.engine.dispose()

    @pytest.fixture
    def writer(self, store: Practice) -> Desk:
        """The desk."""
        return Desk(store)
