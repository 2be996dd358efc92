"""The conformance kit on the practice, with and without a history: `pytest relational/test_practice.py` in the folder above.

DATABASE_URL names a database that may be emptied; without it SQLite is used.
"""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import MetaData

from fhir_bulk_middleware.instant import Clock, after, system_clock
from fhir_bulk_middleware.tables import TableDeletes, writing
from fhir_bulk_middleware.testing.deletes import ConditionalDeleteSuite, OneDeleteSuite, ReadSuite
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import Samples, observation
from relational import practice, practice_with_history

Adapter = TypeVar("Adapter", bound=TableDeletes)


class Desk:
    """Writes as the practice's own routes do."""

    def __init__(self, adapter: TableDeletes, save: practice.Save) -> None:
        self.adapter = adapter
        self.save = save

    async def put(self, *resources: str) -> None:
        """Rows for these."""
        async with writing(self.adapter.engine) as connection:
            for resource in resources:
                await self.save(connection, json.loads(resource, parse_float=str))

    async def delete(self, type_: str, id_: str) -> None:
        """Mark a row."""
        await self.adapter.remove(type_, id_, None, "")


class PracticeSamples(Samples):
    """What the tables can hold."""

    outside_type, types = "Practitioner", frozenset({"Encounter", "Observation"})

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """An observation on the first, measured by the second."""
        first, *others = patients or ("Location/1",)
        return observation(id_, first, text, performer=[{"reference": each} for each in others])

    def outside(self, id_: str) -> str | None:
        """A practitioner."""
        return json.dumps({"resourceType": "Practitioner", "id": id_, "name": [{"text": "Dr."}]})

    def naming(self, id_: str, patient: str, outside: str) -> str | None:
        """An observation by a practitioner."""
        return observation(id_, patient, performer=[{"reference": f"Practitioner/{outside}"}])

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str | None:
        """By each column that has a patient; an encounter's `patient` is its subject."""
        link: dict[str, Any] = {"reference": reference}
        own: dict[str, Any] = {"status": "planned"} if type_ == "Encounter" else {"code": {"text": "x"}}
        if path not in {"subject", "performer"}:
            return None
        return json.dumps({"resourceType": type_, "id": id_, **own, path: [link] if path == "performer" else link})


class PracticeSuite(ResourceStoreSuite, ReadSuite, OneDeleteSuite, ConditionalDeleteSuite):
    """All that both promise."""

    @pytest.fixture
    def samples(self) -> Samples:
        """What the tests write."""
        return PracticeSamples()

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """The database."""
        return os.environ.get("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/test.db")


async def emptied(store: Adapter, metadata: MetaData) -> AsyncIterator[Adapter]:
    """The adapter over empty tables."""
    async with store.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for table in metadata.sorted_tables:
            if table.name != "bulk_clock":
                await connection.execute(table.delete())
    yield store
    await store.engine.dispose()


class TestPractice(PracticeSuite):
    """Without a history."""

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[practice.Practice]:
        """The adapter."""
        async for store in emptied(practice.practice(url), practice.metadata):
            yield store

    @pytest.fixture
    def writer(self, store: practice.Practice) -> Desk:
        """The desk."""
        return Desk(store, practice.save)


class TestPracticeWithHistory(PracticeSuite):
    """With a history."""

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[practice_with_history.PracticeWithHistory]:
        """The adapter."""
        async for store in emptied(practice_with_history.practice_with_history(url), practice_with_history.metadata):
            yield store

    @pytest.fixture
    def writer(self, store: practice_with_history.PracticeWithHistory) -> Desk:
        """The desk."""
        return Desk(store, practice_with_history.save)

    @pytest.fixture
    def set_clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        """Sets the clock of the writers."""
        own: Callable[[float], Clock] = lambda seconds: lambda: after(system_clock(), seconds)  # noqa: E731
        return lambda seconds: monkeypatch.setattr(practice_with_history.clock, "_clock", own(seconds))
