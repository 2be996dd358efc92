"""Clinics that are each broken in one way that real ones are, and the promise of the kit that catches them.

pytest does not collect this file by itself: `test_relational_adapter.py` does, and wants to see each class fail.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from clinic import SCHEMA, Clinic, ClinicSamples, Desk

from fhir_bulk_middleware.contract.query import Deletions, Query, Window
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite

_COLUMNS = {**Clinic.columns, "Observation": "t.id, t.what, t.patient_id, t.performer_id"}


class Mutant(Clinic):
    """Attributes: promise: how the message begins with which the kit catches it."""

    promise: ClassVar[str]


class ForgetsThePerformer(Mutant):
    promise = "each link alone puts a resource into the compartment: Observation.performer did not"
    links: ClassVar = {**Clinic.links, "Observation": ("patient_id",)}


class TakesTheBeginningIn(Mutant):
    promise = "a window holds since < lastUpdated <= until"
    window = Clinic.window.replace("> :since", ">= :since")


class LeavesTheEndOut(Mutant):
    promise = "a window holds since < lastUpdated <= until"
    window = Clinic.window.replace("<= :until", "< :until")


class SkipsWhatHasTheCursorsTime(Mutant):
    promise = "reading on from a cursor gives the rest"
    behind = "t.updated > :updated"


class ExportsDeletedRows(Mutant):
    promise = "the newest version comes, and nothing of what was deleted"
    lives = "1"


class JoinsTwice(Mutant):
    promise = "a resource in two compartments comes once"
    columns: ClassVar = _COLUMNS
    sources: ClassVar = {
        **Clinic.sources,
        "Observation": "observation t LEFT JOIN patient ON patient.id IN (t.patient_id, t.performer_id)",
    }


class ForgetsThePerformersDeletedPatient(Mutant):
    """An inner join drops what refers to a patient whose row is not there."""

    promise = "each link alone puts a resource into the compartment"
    columns: ClassVar = _COLUMNS
    sources: ClassVar = {**Clinic.sources, "Observation": "observation t JOIN patient ON patient.id = t.patient_id"}


class ShowsLocalTimeAsUtc(Mutant):
    promise = "lastUpdated is the instant of the write"

    def instant(self, updated: str) -> str:
        return super().instant(f"{datetime.fromisoformat(updated) + timedelta(hours=2):%Y-%m-%d %H:%M:%S.%f}"[:-3])


class LivesInLocalTime(ShowsLocalTimeAsUtc):
    """Reads alone do not show it: what it says agrees with what it answers."""

    promise = "lastUpdated is the instant of the write"

    def bounds(self, query: Query) -> dict[str, str]:
        return _moved(super().bounds(query), hours=-2)


class AsksInLocalTime(Mutant):
    promise = "a window holds since < lastUpdated <= until"

    def bounds(self, query: Query) -> dict[str, str]:
        return _moved(super().bounds(query), hours=2)


class TellsAllDeletions(Mutant):
    promise = "deletions are those after since and up to until"

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().deletions(replace(query, window=Window()), after):
            yield page


def _moved(bounds: dict[str, str], hours: int) -> dict[str, str]:
    """The bounds of a window in another time zone."""
    for name in ("since", "until"):
        if len(bounds[name]) > 1:
            local = datetime.fromisoformat(bounds[name]) + timedelta(hours=hours)
            bounds[name] = f"{local:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return bounds


MUTANTS = sorted([*Mutant.__subclasses__(), LivesInLocalTime], key=lambda mutant: mutant.__name__)


class _Suite(ResourceStoreSuite):
    broken: ClassVar[type[Mutant]]

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "clinic.db"
        with sqlite3.connect(path) as database:
            database.executescript(SCHEMA)
        database.close()
        return path

    @pytest.fixture
    def samples(self) -> ClinicSamples:
        return ClinicSamples()

    @pytest.fixture
    def store(self, path: Path) -> Iterator[Mutant]:
        store = self.broken(str(path))
        yield store
        store.close()

    @pytest.fixture
    def writer(self, path: Path) -> Iterator[Desk]:
        writer = Desk(path)
        yield writer
        writer.close()


def _suite(mutant: type[Mutant]) -> type[Any]:
    return type(f"Test{mutant.__name__}", (_Suite,), {"broken": mutant, "__module__": __name__})


globals().update({f"Test{mutant.__name__}": _suite(mutant) for mutant in MUTANTS})
