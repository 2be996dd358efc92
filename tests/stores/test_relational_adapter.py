"""An adapter over two tables passes what it can promise, is exported, and each bug that such adapters have is caught."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_clinics import MUTANTS
from clinic import SCHEMA, Clinic, ClinicSamples, Desk
from kit_failures import assert_each_is_named

from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import observation, patient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clinic.db"
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
    database.close()
    return path


class TestClinic(ResourceStoreSuite):
    @pytest.fixture
    def samples(self) -> ClinicSamples:
        return ClinicSamples()

    @pytest.fixture
    def store(self, path: Path) -> Iterator[Clinic]:
        store = Clinic(str(path))
        yield store
        store.close()

    @pytest.fixture
    def writer(self, path: Path) -> Iterator[Desk]:
        writer = Desk(path)
        yield writer
        writer.close()


@pytest.mark.timeout(1800)  # it runs the suites of all mutants
def test_each_mutant_of_it_is_caught_by_the_name_of_the_promise(tmp_path: Path) -> None:
    assert_each_is_named(Path(__file__).with_name("broken_clinics.py"), tmp_path, MUTANTS)


@pytest.mark.anyio
async def test_it_is_exported_and_the_manifest_says_what_it_cannot_promise(make_house: Any, path: Path) -> None:
    store, desk = Clinic(str(path)), Desk(path)
    await desk.put(patient("1"), patient("2"), observation("o", "Patient/1", performer=[{"reference": "Patient/2"}]))
    await desk.delete("Patient", "2")
    async with make_house(parts={"resources": store}) as house:
        manifest = await house.export("/Patient/$export")
        lines = await house.lines(manifest)
        told = await house.lines(await house.export("/$export?_since=2020-01-01T00:00:00Z"), "deleted")
    store.close()
    desk.close()

    assert manifest["extension"] == {"exactSnapshot": False, "contextComplete": False}
    assert {type_: [json.loads(line)["id"] for line in found] for type_, found in lines.items()} == {
        "Patient": ["1"],
        "Observation": ["o"],
    }
    assert [entry["request"]["url"] for line in told["Bundle"] for entry in json.loads(line)["entry"]] == ["Patient/2"]
