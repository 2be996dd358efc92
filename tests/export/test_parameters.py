"""The parameters of a kick-off: multiplicity, versions, leniency (sections 1.2 to 1.6 of the requirements, law 21)."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from house import ISSUER, KICK_OFF, House, job_of, populate

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Associated, Job
from fhir_bulk_middleware.dialects import STU2, STU4
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import parse

pytestmark = pytest.mark.anyio

LENIENT = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}
STRICT = {**KICK_OFF, "Prefer": "respond-async, handling=strict"}
FHIR = {"Content-Type": "application/fhir+json"}


async def accepted(house: House, path: str, headers: dict[str, str] = KICK_OFF, **more: Any) -> Job:
    """The job that a GET kick-off made."""
    return await kept(house, await house.ask("GET", path, headers=headers, **more))


async def posted(house: House, path: str, *parameters: dict[str, Any], headers: dict[str, str] = KICK_OFF, **more: Any) -> Any:
    """The answer to a POST kick-off."""
    body = json.dumps({"resourceType": "Parameters", "parameter": parameters})
    return await house.ask("POST", path, headers={**headers, **FHIR}, content=body, **more)


async def kept(house: House, response: Any) -> Job:
    """The job of an accepted kick-off, as the store has it."""
    assert response.status_code == 202, response.text
    job = await house.jobs.find(job_of(response.headers["Content-Location"]), house.bulk.mount, Owner(ISSUER, "alice"))
    assert job is not None
    return job


async def refused(house: House, path: str, headers: dict[str, str] = KICK_OFF, **more: Any) -> dict[str, Any]:
    """The issue of a GET kick-off that was refused, with nothing left behind."""
    return await issue(house, await house.ask("GET", path, headers=headers, **more))


async def issue(house: House, response: Any) -> dict[str, Any]:
    """The issue of a refusal."""
    assert 400 <= response.status_code < 500, response.text
    assert not await house.runner.step()
    return {"status": response.status_code, **response.json()["issue"][0]}


@pytest.mark.parametrize(
    "query", ["_type=Patient,Observation", "_type=Patient&_type=Observation", "_type=Observation,Patient&_type=Patient"]
)
async def test_lists_and_repeats_mean_the_same_union(house: House, query: str) -> None:
    """KO-60, KO-23."""
    assert (await accepted(house, f"/$export?{query}")).request.types == ("Observation", "Patient")


async def test_a_comma_list_is_malformed_where_the_version_has_repeats_only(make_house: Any) -> None:
    """KO-61, KO-07, KO-05."""
    async with make_house(STU4) as house:
        await populate(house)
        comma = await posted(house, "/$export", {"name": "_type", "valueString": "Patient,Observation"})
        assert (await issue(house, comma))["code"] == "value"
        repeated = [{"name": "_type", "valueString": name} for name in ("Patient", "Observation")]
        assert (await kept(house, await posted(house, "/$export", *repeated))).request.types == ("Observation", "Patient")
        get = await house.ask("GET", "/$export", headers=KICK_OFF)
        assert (get.status_code, get.headers["Allow"]) == (405, "POST")


async def test_stu2_requires_accept_too_and_knows_fewer_parameters(make_house: Any) -> None:
    """KO-40 to KO-44: a table per dialect says which headers a kick-off must carry."""
    async with make_house(STU2) as house:
        await populate(house)
        for headers, missing in [({"Prefer": "respond-async"}, "http.Accept"), ({"Accept": "*/*"}, "http.Prefer")]:
            assert (await refused(house, "/$export", headers))["expression"] == [missing]
        assert (await refused(house, "/$export?_until=2026-01-01T00:00:00Z"))["expression"] == ["http._until"]
        assert (await accepted(house, "/$export")).request.options.separate_status is False
        ignoring = {**KICK_OFF, "Prefer": "respond-async, separate-export-status"}
        assert (await accepted(house, "/$export", ignoring)).request.options.separate_status is False


@pytest.mark.parametrize(
    ("dialect", "value", "queries"),
    [
        (STU2, "Observation?status=final,Patient?active=true", 2),
        (STU2, "Observation?status=final,amended,Patient?active=true", 2),
        (None, "Observation?status=final,Patient?active=true", 2),
        (None, "Observation?status=final, Patient?active=true", 2),
        (None, "Observation?status=final,amended", 1),
        (None, "Observation?identifier=final%2CPatient?active=true", 1),
    ],
)
async def test_a_comma_in_a_type_filter_separates_only_before_another_query(
    make_house: Any, dialect: Any, value: str, queries: int
) -> None:
    """KO-62, TF-01, TF-10."""
    async with make_house(dialect) if dialect else make_house() as house:
        await populate(house)
        location = await house.kick_off(f"/$export?_typeFilter={quote(value, safe='')}")
        lease = await house.claim()

        assert lease is not None
        assert lease.job.id == job_of(location)
        assert sum(len(item.alternatives) for item in lease.rows.filters) == queries


async def test_queries_for_one_type_are_alternatives_and_other_types_are_free(house: House) -> None:
    """TF-02, TF-03, KO-27."""
    query = "_typeFilter=Observation%3Fstatus%3Dfinal&_typeFilter=Observation%3Fstatus%3Damended"
    await house.kick_off(f"/$export?{query}")
    lease = await house.claim()

    assert lease is not None
    (only,) = lease.rows.filters
    assert (only.type, len(only.alternatives)) == ("Observation", 2)
    assert "Patient" in lease.job.request.types


@pytest.mark.parametrize("parameter", ["_sort", "_include", "_revinclude", "_count", "_elements", "_summary", "_total"])
async def test_result_parameters_are_no_filter(house: House, parameter: str) -> None:
    """TF-06, TF-07."""
    assert (await refused(house, f"/$export?_typeFilter=Patient%3F{parameter}%3D1"))["status"] == 400


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("Patient", "value"),
        ("Patient?", "value"),
        ("?active=true", "value"),
        ("patient?active=true", "value"),
        ("Patient?active", "value"),
        ("Patient?birthdate=yesterday", "value"),
        ("Patient?active:missing=perhaps", "value"),
        ("Patient?shoesize=44", "not-supported"),
        ("Patient?name:soundex=x", "not-supported"),
        ("Patient?organization.name=x", "not-supported"),
        ("Patient?_has:Observation:patient:code=x", "not-supported"),
        ("Patient?active=true&shoesize=44", "not-supported"),
        ("Nothing?active=true", "not-supported"),
    ],
)
async def test_a_filter_that_cannot_be_applied_is_an_error_never_no_filter(house: House, query: str, code: str) -> None:
    """TF-08, TF-09, KO-100."""
    assert (await refused(house, f"/$export?_typeFilter={quote(query, safe='')}"))["code"] == code


async def test_a_filter_for_a_type_that_is_not_exported_is_an_error(house: House) -> None:
    """TF-05."""
    found = await refused(house, "/$export?_type=Patient&_typeFilter=Observation%3Fstatus%3Dfinal")

    assert found["code"] == "not-supported"


UNUSABLE = [
    "_type=Patient,Nonsense",
    "_elements=Patient.shoesize",
    "_typeFilter=Patient%3Fshoesize%3D44",
    "includeAssociatedData=SomethingElse",
    "organizeOutputBy=Observation",
    "foo=1",
]


@pytest.mark.parametrize("query", UNUSABLE)
async def test_what_cannot_be_used_is_an_error_unless_the_client_is_lenient(house: House, query: str) -> None:
    """KO-46, KO-47, KO-50, KO-91, KO-94, KO-100, KO-101, KO-103, EL-05."""
    for headers in (KICK_OFF, STRICT):
        assert (await refused(house, f"/$export?{query}", headers))["code"] == "not-supported"
    job = await accepted(house, f"/$export?{query}", LENIENT)

    assert len(job.request.options.ignored) == 1
    assert "Patient" in job.request.types


MALFORMED = [
    "_since=yesterday",
    "_since=2020-01-01T00:00:00Z&_since=2020-01-01T00:00:00Z",
    "_until=2026",
    "_until=2020-01-01T00:00:00Z&_since=2020-01-01T00:00:00Z",
    "_outputFormat=csv",
    "_type=patient",
    "_elements=Patient.name.family",
    "_elements=",
    "_typeFilter=Patient",
    "_typeFilter=Patient%3Fbirthdate%3Dyesterday",
    "allowPartialManifests=yes",
    "allowPartialManifests=true&allowPartialManifests=true",
    "organizeOutputBy=Patient&organizeOutputBy=Patient",
    "patient=Patient/p1",
]


@pytest.mark.parametrize("query", MALFORMED)
async def test_what_is_malformed_is_an_error_however_lenient_the_client(house: House, query: str) -> None:
    """Law 21; KO-63, KO-72, KO-76, KO-78, PT-01."""
    for headers in (KICK_OFF, LENIENT):
        assert (await refused(house, f"/$export?{query}", headers))["status"] == 400


async def test_rights_are_no_matter_of_leniency(house: House) -> None:
    """Law 21, SE-10."""
    assert (await refused(house, "/$export?_type=Patient,Observation", LENIENT, scope="system/Patient.rs"))["status"] == 403


async def test_all_parameters_are_frozen_as_they_were_asked(house: House) -> None:
    """KO-20 to KO-29, KO-77; law 8."""
    job = await kept(
        house,
        await posted(
            house,
            "/Patient/$export",
            {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
            {"name": "_since", "valueInstant": "2020-01-01T00:00:00Z"},
            {"name": "_until", "valueInstant": "2025-01-01T00:00:00.5Z"},
            {"name": "_type", "valueString": "Patient,Observation"},
            {"name": "_elements", "valueString": "id,Patient.name"},
            {"name": "patient", "valueReference": {"reference": "Patient/p1"}},
            {"name": "patient", "valueReference": {"reference": "https://ehr.example/fhir/Patient/p2"}},
            {"name": "allowPartialManifests", "valueBoolean": True},
        ),
    )
    request = job.request

    assert request.window.since == parse("2020-01-01T00:00:00Z")
    assert request.window.until == parse("2025-01-01T00:00:00.500Z")
    assert request.types == ("Observation", "Patient")
    assert request.options.elements == ("id", "Patient.name")
    assert request.options.partial_manifests is True
    assert request.url == "https://ehr.example/fhir/Patient/$export"


@pytest.mark.parametrize("key", ["valueString", "valueUri", "valueCode", "valueInstant", "valueDateTime"])
async def test_clients_may_mix_up_the_kinds_of_text(house: House, key: str) -> None:
    """Section 1.2: robustness."""
    response = await posted(house, "/$export", {"name": "_since", key: "2020-01-01T00:00:00Z"})

    assert (await kept(house, response)).request.window.since == parse("2020-01-01T00:00:00Z")


async def test_file_sizes_are_parameters_of_stu4_only(make_house: Any, house: House) -> None:
    """KO-30."""
    small = {"name": "_minimumFileSize", "valuePositiveInt": 1_000_000}
    large = {"name": "_maximumFileSize", "valuePositiveInt": 2_000_000}
    assert (await issue(house, await posted(house, "/$export", small)))["code"] == "not-supported"
    async with make_house(STU4) as stu4:
        await populate(stu4)
        options = (await kept(stu4, await posted(stu4, "/$export", small, large))).request.options
        assert (options.smallest_file, options.largest_file) == (1_000_000, 2_000_000)
        for low, high in [(2_000_000, 2_000_000), (3_000_000, 2_000_000), (0, 2_000_000), (-1, 2_000_000), ("x", 2_000_000)]:
            wrong = [
                {"name": "_minimumFileSize", "valuePositiveInt": low},
                {"name": "_maximumFileSize", "valuePositiveInt": high},
            ]
            assert (await posted(stu4, "/$export", *wrong)).status_code == 400


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("LatestProvenanceResources", Associated.LATEST_PROVENANCE),
        ("RelevantProvenanceResources", Associated.RELEVANT_PROVENANCE),
        ("LatestProvenanceResources,RelevantProvenanceResources", Associated.RELEVANT_PROVENANCE),
        ("RelevantProvenanceResources,LatestProvenanceResources", Associated.RELEVANT_PROVENANCE),
    ],
)
async def test_of_conflicting_associated_data_the_least_restrictive_wins(house: House, values: str, expected: Associated) -> None:
    """KO-26, KO-90."""
    assert (await accepted(house, f"/$export?includeAssociatedData={values}")).request.options.associated is expected


async def test_patients_are_for_patient_and_group_level(house: House) -> None:
    """KO-25, PT-02: at system level it means nothing, and is never set aside, for that would export everybody."""
    patient = {"name": "patient", "valueReference": {"reference": "Patient/p1"}}
    for headers in (KICK_OFF, LENIENT):
        response = await posted(house, "/$export", patient, headers=headers)
        assert (await issue(house, response))["status"] == 400


@pytest.mark.parametrize(
    ("path", "reference", "status"),
    [
        ("/Patient/$export", "Patient/p1", 202),
        ("/Patient/$export", "Patient/nobody", 400),
        ("/Group/first/$export", "Patient/p1", 202),
        ("/Group/first/$export", "Patient/p2", 400),
        ("/Group/nobody/$export", "Patient/p1", 400),
        ("/Patient/$export", "p1", 400),
        ("/Patient/$export", "Practitioner/p1", 400),
        ("/Patient/$export", "https://elsewhere.example/Patient/p1", 400),
        ("/Patient/$export", "Patient/p1/_history/1", 400),
    ],
)
async def test_a_patient_must_be_known_and_a_member(house: House, path: str, reference: str, status: int) -> None:
    """PT-03, PT-04."""
    response = await posted(house, path, {"name": "patient", "valueReference": {"reference": reference}})

    assert response.status_code == status, response.text


async def test_an_unknown_group_and_one_out_of_sight_are_one_answer(house: House) -> None:
    """KO-12, GR-03."""
    for path in ("/Group/nope/$export", "/Group/a%20b/$export", "/Group/p1/$export"):
        response = await house.ask("GET", path, headers=KICK_OFF)

        assert response.status_code == 404
        assert response.json()["issue"][0]["details"]["text"] == "There is no such group."


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, "x", 415),
        (FHIR, "x", 400),
        (FHIR, '{"resourceType":"Bundle"}', 400),
        ({}, "", 202),
        (FHIR, "", 202),
    ],
)
async def test_a_body_is_parameters_or_nothing(house: House, headers: dict[str, str], content: str, status: int) -> None:
    """KO-08, KO-10."""
    response = await house.ask("POST", "/$export", headers={**KICK_OFF, **headers}, content=content)

    assert response.status_code == status


async def test_parameters_stand_in_one_place(house: House) -> None:
    """KO-09: in the query string or in the body."""
    both = await posted(house, "/$export?_type=Patient", {"name": "_type", "valueString": "Observation"})
    assert (await issue(house, both))["status"] == 400
    query = await house.ask("POST", "/$export?_type=Patient", headers=KICK_OFF)

    assert (await kept(house, query)).request.types == ("Patient",)


async def test_ids_are_never_given_twice_and_cannot_be_guessed() -> None:
    """KO-115: 128 random bits, every one of which varies."""
    ids = {new_job_id() for _ in range(2_000)}
    bits = [int(job_id.replace("-", ""), 16) for job_id in ids]

    assert len(ids) == 2_000
    for position in range(128):
        ones = sum(value >> position & 1 for value in bits)
        assert 800 < ones < 1_200, f"bit {position} is random"


async def test_a_granular_scope_restricts_and_is_never_widened(house: House) -> None:
    """SE-09, law 8."""
    scope = "system/Observation.rs?status=final system/Patient.rs"
    await house.kick_off("/$export", scope=scope)
    lease = await house.claim()

    assert lease is not None
    assert lease.job.request.types == ("Observation", "Patient")
    assert [(item.type, len(item.alternatives)) for item in lease.rows.filters] == [("Observation", 1)]
    assert (await refused(house, "/$export?_type=Observation", scope="system/Observation.rs?nonsense=1"))["status"] == 403
