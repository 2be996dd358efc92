"""Output organised by patient (law 22; KO-92, FR-14 to FR-17, MF-05, MF-08, MF-13)."""

import json
from typing import Any

import pytest
from house import KICK_OFF, House
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.events import Completed, Event, PartSealed
from fhir_bulk_middleware.dialects import STU4
from fhir_bulk_middleware.export.organising import Portion, gathered, header

pytestmark = pytest.mark.anyio

BY_PATIENT = "organizeOutputBy=Patient"


async def files(house: House, manifest: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The lines of each file of the output; its count is that of its resources (law 22)."""
    found = []
    for item in manifest["output"]:
        response = await house.ask("GET", item["url"])
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert item["count"] == sum(line["resourceType"] != "Parameters" for line in lines)
        found.append(lines)
    return found


def blocks(lines: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The blocks of a file: whose, and what is in it."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line["resourceType"] == "Parameters":
            (parameter,) = line["parameter"]
            assert parameter["name"] == "header"
            found.append((parameter["valueReference"]["reference"], []))
        else:
            found[-1][1].append(f"{line['resourceType']}/{line['id']}")
    return found


async def test_a_file_is_blocks_of_a_header_a_patient_and_what_is_the_patients(house: House) -> None:
    """FR-14, FR-17; what is in two compartments is in both blocks, what is in none is left out (FR-16)."""
    manifest = await house.export(f"/Patient/$export?{BY_PATIENT}&_type=Patient,Observation")
    (lines,) = await files(house, manifest)
    assert blocks(lines) == [
        ("Patient/p1", ["Patient/p1", "Observation/b1", "Observation/b4"]),
        ("Patient/p2", ["Patient/p2", "Observation/b2", "Observation/b4"]),
        ("Patient/p3", ["Patient/p3"]),
    ]
    assert header("Patient/p1").decode() == (
        '{"resourceType":"Parameters","parameter":[{"name":"header","valueReference":{"reference":"Patient/p1"}}]}\n'
    )


async def test_the_manifest_says_by_what_and_its_items_have_no_type(house: House) -> None:
    """MF-05, MF-13."""
    manifest = await house.export(f"/Group/both/$export?{BY_PATIENT}")
    assert manifest["outputOrganizedBy"] == "Patient"
    assert [set(item) for item in manifest["output"]] == [{"url", "count", "extension"}]
    plain = await house.export("/Group/both/$export")
    assert "outputOrganizedBy" not in plain
    assert all("type" in item for item in plain["output"])


async def test_a_group_has_the_blocks_of_its_members_alone(house: House) -> None:
    """PT-03."""
    manifest = await house.export(f"/Group/first/$export?{BY_PATIENT}&_type=Patient,Observation")
    (lines,) = await files(house, manifest)
    assert blocks(lines) == [("Patient/p1", ["Patient/p1", "Observation/b1", "Observation/b4"])]


async def test_filters_and_elements_hold_in_blocks_and_a_block_of_nothing_has_no_header(house: House) -> None:
    path = f"/Patient/$export?{BY_PATIENT}&_type=Observation&_typeFilter=Observation%3F_id%3Db2&_elements=Observation.subject"
    (lines,) = await files(house, await house.export(path))
    assert blocks(lines) == [("Patient/p2", ["Observation/b2"])]
    assert lines[1]["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_deletions_stay_apart(house: House) -> None:
    """DR-01."""
    first = await house.export()
    await house.resources.delete("Observation", "b1")
    manifest = await house.export(f"/Patient/$export?{BY_PATIENT}&_since={first['transactionTime']}")
    assert manifest["output"] == []
    (deleted,) = manifest["deleted"]
    assert "Observation/b1" in (await house.ask("GET", deleted["url"])).text


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (f"/$export?{BY_PATIENT}", "organizeOutputBy"),
        ("/Patient/$export?organizeOutputBy=Encounter", "organizeOutputBy"),
        (f"/Patient/$export?{BY_PATIENT}&includeAssociatedData=LatestProvenanceResources", "includeAssociatedData"),
    ],
)
async def test_what_cannot_be_organised_is_refused(house: House, path: str, part: str) -> None:
    """KO-94."""
    response = await house.ask("GET", path, headers=KICK_OFF)
    assert response.status_code == 400
    assert part in response.text


async def many(house: House, counts: list[int]) -> None:
    """Patients with so many observations each."""
    for number, count in enumerate(counts):
        patient = f"q{number:02}"
        await house.resources.create("Patient", {"resourceType": "Patient"}, patient)
        for place in range(count):
            resource = {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "x" * 60},
                "subject": {"reference": f"Patient/{patient}"},
            }
            await house.resources.create("Observation", resource, f"{patient}-{place}")


LIMITS = {"part_bytes": 8_192, "page_bytes": 1_024, "smallest_part_bytes": 1}


@pytest.mark.parametrize("counts", [[3] * 30, [60, 1, 1, 60, 2], [20, 20, 20, 20], [0, 90, 0, 5], [31] * 3])
async def test_a_block_is_split_only_where_it_does_not_fit_a_file_and_then_says_where_it_goes_on(
    make_house: Any, counts: list[int]
) -> None:
    """FR-15, MF-08."""
    async with make_house(STU4, **LIMITS) as house:
        await many(house, counts)
        parameters = [
            {"name": "organizeOutputBy", "valueString": "Patient"},
            {"name": "_type", "valueString": "Patient"},
            {"name": "_type", "valueString": "Observation"},
        ]
        body = json.dumps({"resourceType": "Parameters", "parameter": parameters})
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        house.clock.advance(1)
        response = await house.ask("POST", "/Patient/$export", content=body, headers=headers)
        await house.runner.finish()
        manifest = (await house.ask("GET", response.headers["Content-Location"])).json()
        found = [blocks(lines) for lines in await files(house, manifest)]
        sizes = [item["fileSize"] for item in manifest["output"]]
        assert max(sizes) <= LIMITS["part_bytes"]

        whole: dict[str, list[str]] = {}
        for file in found:
            for reference, names in file:
                assert names, "a header stands before something"
                whole.setdefault(reference, []).extend(names)
        assert whole == {
            f"Patient/q{number:02}": [f"Patient/q{number:02}", *(f"Observation/q{number:02}-{place}" for place in range(count))]
            for number, count in enumerate(counts)
        }
        urls = [item["url"] for item in manifest["output"]]
        for place, (item, file) in enumerate(zip(manifest["output"], found, strict=True)):
            following = found[place + 1][0][0] if place + 1 < len(found) else None
            assert item.get("continuesInFile") == (urls[place + 1] if following == file[-1][0] else None)
        lengths: dict[str, int] = {}
        for lines in await files(house, manifest):
            for reference, size in measured(lines):
                lengths[reference] = lengths.get(reference, 0) + size
        for place, file in enumerate(found[:-1]):
            reference = file[-1][0]
            if reference == found[place + 1][0][0] and len(file) > 1:
                assert lengths[reference] > LIMITS["part_bytes"], "a block that fits a file of its own is not split"


def measured(lines: list[dict[str, Any]]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for line in lines:
        size = len(json.dumps(line, separators=(",", ":"))) + 1
        if line["resourceType"] == "Parameters":
            found.append((line["parameter"][0]["valueReference"]["reference"], size))
        else:
            found[-1] = (found[-1][0], found[-1][1] + size)
    return found


async def test_a_group_that_is_not_of_patients_alone_is_not_organised(house: House) -> None:
    """KO-94: what is in no patient's block would be missing without a word."""
    member = [{"entity": {"reference": "Patient/p1"}}, {"entity": {"reference": "Practitioner/d1"}}]
    group = {"resourceType": "Group", "type": "person", "actual": True, "member": member}
    await house.resources.create("Group", group, "mixed")
    response = await house.ask("GET", f"/Group/mixed/$export?{BY_PATIENT}", headers=KICK_OFF)
    assert response.status_code == 400
    assert "organizeOutputBy" in response.text


@pytest.mark.parametrize(
    "query",
    [
        f"{BY_PATIENT}&_type=Patient,Observation",
        "_type=Observation&_typeFilter=Observation%3Fsubject%3DPatient%2Fq03",
        "_type=Observation&_elements=Observation.subject",
        f"{BY_PATIENT}&_type=Observation&_elements=code&_typeFilter=Observation%3Fsubject%3DPatient%2Fq01,Patient%2Fq03",
    ],
)
async def test_an_attempt_that_goes_on_writes_the_same_files(make_house: Any, query: str) -> None:
    """Law 5, across a worker's end after any file."""
    texts = []
    for interrupted in (False, True):
        async with make_house(renew_seconds=0.001, **LIMITS) as house:
            await many(house, [3, 50, 2, 70, 1])
            house.clock.advance(1)
            location = await house.kick_off(f"/Patient/$export?{query}")
            await house.runner.step()
            if interrupted:
                await stop_after_each_file(house)
            await house.runner.finish()
            manifest = (await house.ask("GET", location)).json()
            texts.append([(await house.ask("GET", item["url"])).content for item in manifest["output"]])
            assert len(manifest["output"]) >= 3
    assert texts[0] == texts[1]


async def stop_after_each_file(house: House) -> None:
    """Let every attempt lose its worker as soon as it has checkpointed one file."""
    recorded = house.jobs.checkpoint

    async def once(*args: Any, **more: Any) -> None:
        await recorded(*args, **more)
        raise ConnectionError("the worker is gone")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(house.jobs, "checkpoint", once)
        for _ in range(2):
            await house.runner.step()


@pytest.mark.parametrize("interrupted", [False, True])
async def test_manifest_events_and_progress_count_the_same_resources(make_house: Any, interrupted: bool) -> None:
    """Law 22: headers are counted nowhere, and not by an attempt that goes on after another either."""
    heard: list[Event] = []
    async with make_house(renew_seconds=0.001, parts={"observers": [Listener(heard)]}, **LIMITS) as house:
        await many(house, [3, 50, 2, 70, 1])
        house.clock.advance(1)
        location = await house.kick_off(f"/Patient/$export?{BY_PATIENT}&_type=Patient,Observation")
        await house.runner.step()
        if interrupted:
            await stop_after_each_file(house)
            standing = await house.ask("GET", location)
            assert int(standing.headers["X-Progress"].split()[4].replace(",", "")) < 5 + 126
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()
        found = await files(house, manifest)
    resources = [line for lines in found for line in lines if line["resourceType"] != "Parameters"]
    assert len(resources) == 5 + 126
    assert sum(item["count"] for item in manifest["output"]) == len(resources)
    counts = {item["url"].rpartition("/")[2]: item["count"] for item in manifest["output"]}
    told = {event.file_id: event.count for event in heard if isinstance(event, PartSealed)}
    assert told
    assert told.items() <= counts.items()
    (completed,) = [event for event in heard if isinstance(event, Completed)]
    assert completed.resources == len(resources)


class Listener:
    """Keeps what it is told."""

    def __init__(self, heard: list[Event]) -> None:
        self._heard = heard

    async def observe(self, event: Event) -> None:
        self._heard.append(event)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 30)), max_size=20),
    st.integers(1, 60),
)
@pytest.mark.anyio
async def test_reading_ahead_changes_nothing_but_what_is_known_of_a_block(steps: list[tuple[str, int]], limit: int) -> None:
    made = [
        Portion(b"x" * size, min(size, 1), 1, str(place), block)
        for place, (block, size) in enumerate(sorted(steps, key=lambda step: step[0]))
    ]

    async def source() -> Any:
        for portion in made:
            yield portion

    told = [portion async for portion in gathered(source(), limit)]
    assert [(portion.lines, portion.cursor, portion.block) for portion in told] == [
        (portion.lines, portion.cursor, portion.block) for portion in made
    ]
    seen: set[str | None] = set()
    for portion in told:
        if portion.count and portion.block not in seen:
            seen.add(portion.block)
            size = sum(len(other.lines) for other in made if other.block == portion.block)
            assert portion.long == (size > limit)
            assert portion.long or portion.together == size
