"""How the output is shaped as it was asked: elements, attachments, sizes, and what was set aside (sections 1.5, 1.6, 4 and 6)."""

import json
import re
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from house import BASE, KICK_OFF, House

from fhir_bulk_middleware.dialects import STU4

pytestmark = pytest.mark.anyio

LENIENT = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}
SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


async def parsed(house: House, path: str, type_: str) -> dict[str, dict[str, Any]]:
    lines = await house.lines(await house.export(path))
    return {resource["id"]: resource for resource in map(json.loads, lines.get(type_, []))}


# --- _elements -------------------------------------------------------------------------------------------------------


async def test_elements_keep_what_is_asked_and_what_is_mandatory_and_say_so(house: House) -> None:
    """EL-01 to EL-03."""
    found = await parsed(house, "/$export?_type=Observation,Patient&_elements=Observation.subject,Patient.id", "Observation")
    assert list(found["b4"]) == ["resourceType", "id", "meta", "code", "status", "subject"]
    assert found["b4"]["meta"]["tag"] == [SUBSETTED]
    assert "versionId" in found["b4"]["meta"]


@pytest.mark.parametrize(
    ("entries", "restricted"),
    [("name", {"Patient", "Organization"}), ("Patient.name", {"Patient"}), ("id", {"Patient", "Organization"})],
)
async def test_an_entry_restricts_the_types_that_it_applies_to(house: House, entries: str, restricted: set[str]) -> None:
    """EL-01."""
    lines = await house.lines(await house.export(f"/$export?_type=Patient,Organization&_elements={entries}"))
    for type_, several in lines.items():
        for line in several:
            assert ("SUBSETTED" in line) == (type_ in restricted)


async def test_a_decimal_keeps_its_digits_through_elements_and_a_filter(house: House) -> None:
    resource = {
        "resourceType": "Observation",
        "id": "d",
        "status": "final",
        "code": {"text": "x"},
        "valueQuantity": {"value": Decimal("1.10"), "unit": "é"},
        "note": [{"text": "long"}],
    }
    await house.resources.create("Observation", resource, "d")
    house.clock.advance(1)
    query = quote("Observation?value-quantity=1.10")
    lines = await house.lines(await house.export(f"/$export?_elements=Observation.value&_typeFilter={query}&_type=Observation"))
    (line,) = lines["Observation"]
    assert '"valueQuantity":{"value":1.10,"unit":"é"}' in line
    assert "note" not in line


# --- Attachments -----------------------------------------------------------------------------------------------------


async def test_attachments_of_this_server_get_absolute_urls(house: House) -> None:
    """FR-18, FR-19, KO-84."""
    tricky = 'a string: ,"url":"Binary/9" and {\\"url\\":\\"Binary/9'
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "description": tricky,
        "content": [
            {"attachment": {"contentType": "text/plain", "url": "Binary/1"}},
            {"attachment": {"url": "Binary/2/_history/3", "title": "with a version"}},
            {"attachment": {"url": "https://elsewhere.example/Binary/4"}},
        ],
    }
    await house.resources.create("DocumentReference", document, "d1")
    await house.resources.create(
        "Binary", {"resourceType": "Binary", "id": "1", "contentType": "text/plain", "data": "aGk="}, "1"
    )
    house.clock.advance(1)
    lines = await house.lines(await house.export("/Group/both/$export"))
    assert "Binary" not in lines, "a Binary lies in no compartment; it is reached through the document"
    (line,) = lines["DocumentReference"]
    found = json.loads(line)
    assert [item["attachment"]["url"] for item in found["content"]] == [
        f"{BASE}/Binary/1",
        f"{BASE}/Binary/2/_history/3",
        "https://elsewhere.example/Binary/4",
    ]
    assert found["description"] == tricky
    assert found["subject"]["reference"] == "Patient/p1"


async def test_attachments_lead_to_the_hosts_own_api_where_the_mount_is_elsewhere(make_house: Any) -> None:
    """FR-19, FR-20."""
    async with make_house(fhir_base_url="https://ehr.example/r4/") as house:
        await house.resources.create("Patient", {"resourceType": "Patient", "photo": [{"url": "Binary/1"}]}, "p1")
        found = await parsed(house, "/$export", "Patient")
        assert found["p1"]["photo"] == [{"url": "https://ehr.example/r4/Binary/1"}]
        reference = "https://ehr.example/r4/Patient/p1"
        body = {"resourceType": "Parameters", "parameter": [{"name": "patient", "valueReference": {"reference": reference}}]}
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        response = await house.ask("POST", "/Patient/$export", headers=headers, content=json.dumps(body))
        assert response.status_code == 202


async def test_at_system_level_binaries_are_exported_too(house: House) -> None:
    """KO-84."""
    await house.resources.create("Binary", {"resourceType": "Binary", "id": "1", "contentType": "text/plain"}, "1")
    house.clock.advance(1)
    assert "Binary" in await house.lines(await house.export())


# --- What was set aside ----------------------------------------------------------------------------------------------


async def reports(house: House, location: str, key: str = "error") -> list[dict[str, Any]]:
    await house.runner.finish()
    response = await house.ask("GET", location, headers={"Prefer": "respond-async"})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = []
    for item in response.json()[key]:
        assert (await house.ask("GET", item["url"])).headers["Content-Type"] == "application/fhir+ndjson"
        found.extend(map(json.loads, (await house.ask("GET", item["url"])).text.splitlines()))
        assert item["count"] == len(found)
    return found


@pytest.mark.parametrize(
    ("query", "part", "says"),
    [
        ("foo=1", "http.foo", "no such export parameter"),
        ("_type=Nonsense,Patient", "http._type", "Nonsense"),
        ("_elements=nonsense", "http._elements", "nonsense"),
        ("includeAssociatedData=_custom", "http.includeAssociatedData", "LatestProvenanceResources"),
        ("_typeFilter=Observation%3Fnonsense%3D1", "http._typeFilter", "nonsense"),
        ("_type=Patient&_typeFilter=Observation%3Fstatus%3Dfinal", "http._typeFilter", "not among the exported types"),
        ("organizeOutputBy=Encounter", "http.organizeOutputBy", "Patient"),
    ],
)
async def test_what_was_set_aside_is_reported_in_an_error_file(house: House, query: str, part: str, says: str) -> None:
    """KO-100 to KO-103: one OperationOutcome each, apart from the output."""
    response = await house.ask("GET", f"/$export?{query}", headers=LENIENT)
    assert response.status_code == 202, response.text
    (outcome,) = await reports(house, response.headers["Content-Location"])
    (issue,) = outcome["issue"]
    assert outcome["resourceType"] == "OperationOutcome"
    assert (issue["severity"], issue["code"], issue["expression"]) == ("warning", "not-supported", [part])
    assert says in issue["diagnostics"]


async def test_several_things_set_aside_are_a_line_each_in_the_words_of_the_dialect(make_house: Any) -> None:
    """KO-102; law 10."""
    async with make_house(STU4) as house:
        parameters = [{"name": name, "valueString": "x"} for name in ("one", "two")]
        body = {"resourceType": "Parameters", "parameter": parameters}
        headers = {**LENIENT, "Content-Type": "application/fhir+json"}
        response = await house.ask("POST", "/$export", headers=headers, content=json.dumps(body))
        outcomes = await reports(house, response.headers["Content-Location"], "outcome")
        assert [item["issue"][0]["expression"] for item in outcomes] == [
            ["Parameters.parameter[0]"],
            ["Parameters.parameter[1]"],
        ]


@pytest.mark.parametrize(
    ("level", "name", "value"),
    [
        ("", "_type", "Nonsense"),
        ("/Patient", "_type", "Location"),
        ("", "_elements", "Patient.shoesize"),
        ("", "_typeFilter", "Patient?shoesize=44"),
        ("", "_typeFilter", "Nonsense?a=b"),
        ("", "includeAssociatedData", "SomethingElse"),
        ("/Patient", "organizeOutputBy", "Encounter"),
        ("", "organizeOutputBy", "Patient"),
        ("", "foo", "x"),
        ("", "f\x1b[31m\r\n\x85o", "x"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_report_names_the_parameter_and_says_where_it_stood(
    house: House, level: str, name: str, value: str, method: str
) -> None:
    """KO-101, KO-102: by a name that no terminal obeys."""
    if method == "GET":
        response = await house.ask("GET", f"{level}/$export?{urlencode({name: value})}", headers=LENIENT)
    else:
        sent = [{"name": "_since", "valueInstant": "2020-01-01T00:00:00Z"}, {"name": name, "valueString": value}]
        body = {"resourceType": "Parameters", "parameter": sent}
        response = await house.ask("POST", f"{level}/$export", headers=LENIENT, json=body)
    assert response.status_code == 202, response.text
    (outcome,) = await reports(house, response.headers["Content-Location"])
    (issue,) = outcome["issue"]
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", name)
    assert issue["diagnostics"].startswith(f"{shown}: ")
    assert issue["expression"] == [f"http.{shown}" if method == "GET" else "Parameters.parameter[1]"]


@pytest.mark.parametrize(
    ("level", "name", "value"),
    [("/Patient", "patient", "Patient/nobody"), ("", "patient", "Patient/p1"), ("", "_since", "2999-01-01T00:00:00Z")],
)
async def test_a_refusal_of_a_body_says_where_in_it_the_parameter_stood(house: House, level: str, name: str, value: str) -> None:
    sent = [{"name": "_until", "valueInstant": "2999-01-02T00:00:00Z"}, {"name": name, "valueString": value}]
    response = await house.ask(
        "POST", f"{level}/$export", headers=KICK_OFF, json={"resourceType": "Parameters", "parameter": sent}
    )
    assert response.status_code == 400
    assert response.json()["issue"][0]["expression"] == ["Parameters.parameter[1]"]


async def test_a_group_without_members_still_reports(house: House) -> None:
    """KO-102."""
    response = await house.ask("GET", "/Group/nobody/$export?foo=1", headers=LENIENT)
    assert len(await reports(house, response.headers["Content-Location"])) == 1


async def test_a_repeated_kick_off_is_the_same_though_it_is_lenient(house: House) -> None:
    """Law 12: what will be reported is no part of what tells two kick-offs apart."""
    headers = {**LENIENT, "Idempotency-Key": "k"}
    answers = [await house.ask("GET", "/$export?foo=1", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.headers["Content-Location"] for answer in answers}) == 1


async def test_a_strict_client_is_refused(house: House) -> None:
    """KO-47, KO-50."""
    for prefer in ("respond-async", "respond-async, handling=strict"):
        assert (await house.ask("GET", "/$export?foo=1", headers={"Prefer": prefer})).status_code == 400


# --- Sizes -----------------------------------------------------------------------------------------------------------


async def sized(house: House, **sizes: int) -> Any:
    parameters = [{"name": f"_{name}FileSize", "valuePositiveInt": size} for name, size in sizes.items()]
    body = {"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Patient"}, *parameters]}
    headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
    house.clock.advance(1)
    return await house.ask("POST", "/$export", headers=headers, content=json.dumps(body))


@pytest.mark.parametrize(
    ("sizes", "ceiling", "floor"),
    [
        ({}, 20_000, 1),
        ({"maximum": 3_000}, 3_000, 1),
        ({"maximum": 90_000}, 20_000, 1),
        ({"minimum": 7_000, "maximum": 9_000}, 9_000, 7_000),
        ({"minimum": 15_000}, 20_000, 15_000),
    ],
)
async def test_files_are_as_large_as_the_client_wants_within_the_operators_limits(
    make_house: Any, sizes: dict[str, int], ceiling: int, floor: int
) -> None:
    """KO-30, law 15."""
    limits = {"part_bytes": 20_000, "page_bytes": 4_096, "slice_bytes": 6_000, "smallest_part_bytes": 2_000}
    async with make_house(STU4, **limits) as house:
        for number in range(200):
            resource = {"resourceType": "Patient", "name": [{"text": "x" * (number % 90)}], "photo": [{"url": "Binary/1"}] * 5}
            await house.resources.create("Patient", resource, f"p{number}")
        response = await sized(house, **sizes)
        assert response.status_code == 202, response.text
        await house.runner.finish()
        manifest = (await house.ask("GET", response.headers["Content-Location"])).json()
        found = [item["fileSize"] for item in manifest["output"]]
        assert max(found) <= ceiling
        slices: dict[str, list[int]] = {}
        for item in manifest["output"]:
            slices.setdefault(item["url"].rpartition(".")[2].partition("-")[0], []).append(item["fileSize"])
        for several in slices.values():
            assert all(size >= floor for size in several[:-1]), "only the last file of a slice is below the floor"
        assert sum(item["count"] for item in manifest["output"]) == 200


@pytest.mark.parametrize(("sizes", "part"), [({"maximum": 1_999}, "_maximumFileSize"), ({"minimum": 20_001}, "_minimumFileSize")])
async def test_a_size_that_cannot_be_kept_is_refused(make_house: Any, sizes: dict[str, int], part: str) -> None:
    """KO-30, law 21."""
    async with make_house(STU4, part_bytes=20_000, page_bytes=4_096, smallest_part_bytes=2_000) as house:
        response = await sized(house, **sizes)
        assert response.status_code == 400
        assert part in json.dumps(response.json())
