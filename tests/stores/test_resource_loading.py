"""A load writes what single writes of the same resources write: every table is the same."""

import asyncio
import json
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.stores.versioned import Stored

BASE = "https://ehr.example/fhir"

REFERENCES = st.builds(
    lambda base, type_, id_, rest: {"reference": f"{base}{type_}/{id_}{rest}"},
    st.sampled_from(["", "", f"{BASE}/", "https://other.example/"]),
    st.sampled_from(["Patient", "Practitioner", "Device", "Location", "Organization", "Encounter"]),
    st.sampled_from("123"),
    st.sampled_from(["", "", "/_history/1"]),
)
CONCEPTS = st.builds(lambda codes: {"coding": [{"code": code} for code in codes]}, st.lists(st.sampled_from("abc"), max_size=3))
DATES = st.sampled_from(["2020", "2020-02", "2020-02-30", "2020-02-28", "2020-02-28T23:00:00-05:00", "soon", ""])
ANY = st.recursive(
    st.text(max_size=4) | st.integers() | st.booleans() | st.none() | REFERENCES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
MEMBERS = {
    "meta": st.fixed_dictionaries(
        {},
        optional={
            "profile": st.just(["urn:p"]),
            "versionId": st.just("9"),
            "lastUpdated": st.just("2001-01-01T00:00:00Z"),
            "tag": st.just([{"code": "1.10"}]),
        },
    ),
    "status": st.sampled_from(["final", "active"]) | ANY,
    "code": CONCEPTS | ANY,
    "subject": REFERENCES | ANY,
    "performer": st.lists(REFERENCES | ANY, max_size=3),
    "target": st.lists(REFERENCES, max_size=3),
    "identifier": st.lists(st.fixed_dictionaries({"value": st.sampled_from("12") | ANY}), max_size=2) | ANY,
    "effectivePeriod": st.fixed_dictionaries({}, optional={"start": DATES, "end": DATES}) | ANY,
    "effectiveDateTime": DATES | ANY,
    "location": st.lists(st.fixed_dictionaries({"location": REFERENCES}), max_size=2),
    "valueQuantity": st.just({"value": 0.5}),
    "extension": ANY,
}
RESOURCES = st.builds(
    lambda type_, id_, members, order: dict(
        sorted({"resourceType": type_, "id": id_, **members}.items(), key=lambda member: order.find(member[0][0]))
    ),
    st.sampled_from(["Observation", "Patient", "Provenance", "Encounter", "Group", "Unheard"]),
    st.sampled_from("1234"),
    st.fixed_dictionaries({}, optional=MEMBERS),
    st.sampled_from(["", "", "", "rims", "sime"]),
)
"""Most begin as the canonical form does; the others have their members in another order."""

TABLES = (
    f"SELECT seq, valid_to = {CURRENT}, deleted, in_patient, moved, owners, version, size, id, json FROM resource",  # noqa: S608 - a number of ours
    "SELECT reference, seq FROM compartment JOIN owner ON owner = number",
    "SELECT * FROM target",
    "SELECT * FROM naming",
    "SELECT type, name, value, block, hex(places) FROM posting JOIN posting_parameter ON parameter = number",
    "SELECT block, live, in_patient, size FROM extent",
    "SELECT * FROM type",
)
"""Without the instants of the writes, and the numbers of owners."""


def rows(file: Path) -> list[Counter[tuple[Any, ...]]]:
    """The content of the tables."""
    with closing(sqlite3.connect(file)) as database:
        return [Counter((*row[:-1], without_instant(row[-1])) for row in database.execute(table)) for table in TABLES]


def without_instant(value: Any) -> Any:
    return re.sub('"lastUpdated":"[^"]*"', "", value, count=1) if isinstance(value, str) else value


@settings(max_examples=30, deadline=None)
@given(st.lists(RESOURCES, min_size=1, max_size=12), st.sampled_from([1, 4, 100]), st.booleans())
def test_a_load_writes_what_single_writes_write(resources: Sequence[dict[str, Any]], batch: int, compact: bool) -> None:
    """The memory store is the model of the texts; the order within a batch is by type."""
    lines = [
        canonical(json.dumps(resource)).text(7, Instant(7)) if compact else json.dumps(resource).encode()
        for resource in resources
    ]
    in_order = [
        line
        for at in range(0, len(lines), batch)
        for line in sorted(lines[at : at + batch], key=lambda line: str(json.loads(line)["resourceType"]))
    ]
    with tempfile.TemporaryDirectory() as folder:
        loaded, written = (SQLiteResourceStore(Path(folder) / name, base_urls=[BASE]) for name in ("loaded.db", "written.db"))
        model = MemoryResourceStore(base_urls=[BASE])
        try:
            assert loaded.load(lines, batch=batch) == len(lines)
            asyncio.run(_write(written, model, in_order))
            assert rows(Path(folder) / "loaded.db") == rows(Path(folder) / "written.db")
            asyncio.run(_compare(loaded, model, lines))
        finally:
            loaded.close()
            written.close()


async def _write(store: SQLiteResourceStore, model: MemoryResourceStore, lines: Sequence[bytes]) -> None:
    for line in lines:
        resource = json.loads(line)
        await store.update(resource["resourceType"], resource["id"], line)
        await model.update(resource["resourceType"], resource["id"], line)


async def _compare(store: SQLiteResourceStore, model: MemoryResourceStore, lines: Sequence[bytes]) -> None:
    for type_, id_ in {(resource["resourceType"], resource["id"]) for resource in map(json.loads, lines)}:
        found, expected = await store.read(type_, id_), await model.read(type_, id_)
        assert found is not None
        assert expected is not None
        assert _bare(found) == _bare(expected)


def _bare(stored: Stored) -> tuple[int, str]:
    return stored.version, without_instant(stored.json.decode())


@pytest.mark.parametrize("batch", [3, 1_000, 2_500])
def test_a_transaction_has_as_many_resources_as_were_asked_for(tmp_path: Path, batch: int) -> None:
    store = SQLiteResourceStore(tmp_path / "store.db")
    told: list[int] = []
    assert (
        store.load(
            (b'{"resourceType":"Patient","id":"%d"}' % number for number in range(6_000)), batch=batch, progress=told.append
        )
        == 6_000
    )
    store.close()
    assert told == [*range(batch, 6_000, batch), 6_000]
    with closing(sqlite3.connect(tmp_path / "store.db")) as database:
        (instants,) = database.execute("SELECT count(DISTINCT last_updated) FROM resource").fetchone()
    assert instants == len(told)
