"""The demo population is deterministic, canonical, holds together, and is awkward where real data are."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from fhir_bulk_middleware.demo.population import EVERY_TENTH, EVERYONE, population


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(population(patients=100, seed=7))


@pytest.fixture(scope="module")
def resources(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "reference" and not inner.startswith("#"):
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def number_literals_kept(line: bytes) -> bytes:
    """The line parsed and written again, with its decimals as they were spelled."""
    parsed = json.loads(line, parse_float=lambda digits: f"\ue000{digits}\ue000")
    text = json.dumps(parsed, ensure_ascii=False, separators=(",", ":"))
    return re.sub('"\ue000|\ue000"', "", text).encode() + b"\n"


def test_the_same_seed_gives_the_same_bytes(lines: list[bytes]) -> None:
    assert list(population(patients=100, seed=7)) == lines


def test_another_seed_gives_other_people(lines: list[bytes]) -> None:
    assert not set(population(patients=100, seed=8)) & {line for line in lines if b'"resourceType":"Patient"' in line[:30]}


def test_the_bytes_are_the_same_on_every_machine_and_in_every_release() -> None:
    digest = hashlib.sha256(b"".join(population(patients=30, seed=1))).hexdigest()

    assert digest == "98f451ad2c96447691c5b46c4edd0b85c8c9a21c89411e3722b222beffb62218"


def test_patients_keep_their_ids_when_the_population_grows(resources: list[dict[str, Any]]) -> None:
    few = {r["id"] for r in map(json.loads, population(patients=10, seed=7)) if r["resourceType"] == "Patient"}

    assert few < {r["id"] for r in resources if r["resourceType"] == "Patient"}


def test_every_line_is_canonical(lines: list[bytes]) -> None:
    for line in lines:
        assert line.startswith(b'{"resourceType":"')
        assert line.count(b"\n") == 1
        assert number_literals_kept(line) == line


def test_no_resource_is_there_twice(resources: list[dict[str, Any]]) -> None:
    assert max(Counter((r["resourceType"], r["id"]) for r in resources).values()) == 1


def test_every_reference_leads_to_a_resource(resources: list[dict[str, Any]]) -> None:
    there = {f"{r['resourceType']}/{r['id']}" for r in resources}

    assert {reference for r in resources for reference in references(r)} <= there


def test_there_are_all_the_types_of_a_small_practice(resources: list[dict[str, Any]]) -> None:
    assert set(Counter(r["resourceType"] for r in resources)) == {
        *("Organization", "Practitioner", "Patient", "Encounter", "Condition", "Observation"),
        *("MedicationRequest", "ExplanationOfBenefit", "Group"),
    }


def test_one_group_holds_everyone_and_the_other_every_tenth(resources: list[dict[str, Any]]) -> None:
    patients = [f"Patient/{r['id']}" for r in resources if r["resourceType"] == "Patient"]
    members = {
        r["id"]: [member["entity"]["reference"] for member in r["member"]] for r in resources if r["resourceType"] == "Group"
    }

    assert members == {EVERYONE: patients, EVERY_TENTH: patients[::10]}


def test_some_patients_have_nothing_but_themselves(resources: list[dict[str, Any]]) -> None:
    subjects = {r["subject"]["reference"] for r in resources if "subject" in r}
    patients = [f"Patient/{r['id']}" for r in resources if r["resourceType"] == "Patient"]

    assert sum(patient not in subjects for patient in patients) == 4


def test_some_observations_lie_in_the_compartments_of_two_patients(resources: list[dict[str, Any]]) -> None:
    shared = [
        r
        for r in resources
        if r["resourceType"] == "Observation"
        and {p["reference"] for p in r.get("performer", []) if p["reference"].startswith("Patient/")}
        - {r["subject"]["reference"]}
    ]

    assert shared


@pytest.mark.parametrize(
    "awkward",
    [
        rb"\\",
        rb"\"",
        rb"\n",
        rb"\r\n\t",
        rb"backslash \\" + b'"',
        rb"{\"resourceType\":\"Patient\"",
        "\u2028".encode(),
        "\u0085".encode(),
        "\N{GRINNING FACE}".encode(),
        "العلي".encode(),
        b":1.10}",
        b":0.00,",
    ],
)
def test_it_has_what_exporters_trip_over(lines: list[bytes], awkward: bytes) -> None:
    assert any(awkward in line for line in lines)


def test_sizes_are_those_of_real_data(lines: list[bytes]) -> None:
    assert 1200 < sum(map(len, lines)) / len(lines) < 1600


def test_a_population_without_patients_has_empty_groups() -> None:
    groups = [r for r in map(json.loads, population(patients=0)) if r["resourceType"] == "Group"]

    assert [("member" in group, group["quantity"]) for group in groups] == [(False, 0), (False, 0)]


def test_the_first_lines_of_a_huge_population_are_there_at_once() -> None:
    assert len(list(islice(population(patients=10**9), 1000))) == 1000
