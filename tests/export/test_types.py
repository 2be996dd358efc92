"""Which types an export can hold, which come as context alone, and that no type of `_type` is dropped in silence (law 40)."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hosts import HardHost
from house import ISSUER, KICK_OFF, House, job_of, populate

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Request
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Rows, Selection
from fhir_bulk_middleware.export.type_origins import TypeOrigins
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion

pytestmark = pytest.mark.anyio

LENIENT = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}
VERSIONS = pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)


async def accepted(house: House, path: str, **more: Any) -> tuple[Request, Rows]:
    """The request and the rows of a kick-off that is accepted."""
    location = await house.kick_off(path, **more)
    job = await house.jobs.find(job_of(location), house.bulk.mount, Owner(ISSUER, "alice"))
    assert job is not None
    lease = await house.claim()
    assert lease is not None
    assert lease.job.id == job.id
    return job.request, lease.rows


async def refused(house: House, path: str, **more: Any) -> str:
    """The text of a refusal with 400 that names `_type` or `_typeFilter`."""
    response = await house.ask("GET", path, headers=KICK_OFF, **more)
    assert response.status_code == 400, response.text
    (issue,) = response.json()["issue"]
    assert issue["expression"] in (["http._type"], ["http._typeFilter"])
    return str(issue["diagnostics"])


# --- What is possible ------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("selection", [EveryPatient(), Compartments(frozenset({"Patient/1"})), Compartments(frozenset())])
def test_a_type_is_possible_if_it_lies_in_compartments_or_references_lead_to_it(
    version: FhirVersion, selection: Selection
) -> None:
    """Law 40, against a search that goes on until nothing is added."""
    known, membership = definitions(version), CompartmentMembership(version)
    expected = membership.types("Patient")
    while True:
        wider = expected.union(*map(known.reference_targets, expected))
        if wider == expected:
            break
        expected = wider
    origins = TypeOrigins(version, selection)
    assert origins.possible(known.resource_types) == expected
    assert origins.selected(known.resource_types) == membership.types("Patient")
    assert {"Organization", "Practitioner", "PractitionerRole", "Location", "Medication"} <= expected
    assert not {"StructureDefinition", "ValueSet", "CapabilityStatement", "SearchParameter", "Subscription"} & expected
    assert origins.bounded


def test_at_system_level_every_type_is_possible_also_one_that_hl7_does_not_know() -> None:
    origins, types = TypeOrigins(FhirVersion.R4, Everything()), frozenset({"Patient", "ValueSet", "Invented"})
    assert origins.possible(types) == origins.selected(types) == types
    assert not origins.bounded
    assert not TypeOrigins(FhirVersion.R4, EveryPatient()).possible(frozenset({"Invented"}))


def test_other_members_of_a_group_bring_the_types_of_their_compartments() -> None:
    """KO-03."""
    types = definitions(FhirVersion.R4).resource_types
    staff = TypeOrigins(FhirVersion.R4, Compartments(frozenset({"Practitioner/1", "Device/2"})))
    membership = CompartmentMembership(FhirVersion.R4)
    assert staff.selected(types) == frozenset().union(*map(membership.types, ("Patient", "Practitioner", "Device")))


async def test_without_type_an_export_may_hold_every_possible_type_that_the_scopes_cover(house: House) -> None:
    """Law 40, KO-81, KO-83, SE-11."""
    request, rows = await accepted(house, "/Group/both/$export")
    possible = TypeOrigins(FhirVersion.R4, EveryPatient()).possible(definitions(FhirVersion.R4).resource_types)
    assert request.types == tuple(sorted(possible))
    assert rows.context == request.types
    scopes = "system/Patient.rs system/Organization.rs system/ValueSet.rs system/Practitioner.r"
    request, rows = await accepted(house, "/Patient/$export", scope=scopes)
    assert request.types == rows.context == ("Organization", "Patient")


async def test_a_system_export_has_all_types_and_no_context(house: House) -> None:
    request, rows = await accepted(house, "/$export")
    assert "ValueSet" in request.types
    assert rows.context == ()
    request, _ = await accepted(house, "/$export?_type=ValueSet,Organization")
    assert request.types == ("Organization", "ValueSet")


async def test_an_adapter_that_cannot_read_named_resources_has_no_context(make_house: Any) -> None:
    """Law 40: then only types of compartments are possible, and others are refused by name."""
    async with make_house(parts={"resources": HardHost(), "deletes": None}) as house:
        request, rows = await accepted(house, "/Patient/$export")
        assert request.types == ("Condition", "Observation", "Patient")
        assert rows.context == ()
        said = await refused(house, "/Patient/$export?_type=Patient,Organization")
        assert said == "_type: An export at this level holds what lies in compartments; it never holds Organization."


async def test_an_operator_can_turn_context_off(make_house: Any) -> None:
    """Law 40."""
    async with make_house(context=False) as house:
        await populate(house)
        request, rows = await accepted(house, "/Group/both/$export")
        assert not {"Organization", "Practitioner", "Location"} & set(request.types)
        assert {"Patient", "Device"} <= set(request.types)
        assert rows.context == ()
        assert "it never holds Organization" in await refused(house, "/Group/both/$export?_type=Patient,Organization")


# --- _type -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["/Patient/$export", "/Group/both/$export"])
async def test_no_type_that_was_asked_for_is_dropped(house: House, level: str) -> None:
    """Law 40, KO-80, KO-83."""
    request, rows = await accepted(house, f"{level}?_type=Patient,Encounter,Practitioner,Organization")
    assert request.types == rows.context == ("Encounter", "Organization", "Patient", "Practitioner")


@pytest.mark.parametrize("level", ["/Patient/$export", "/Group/both/$export"])
async def test_a_type_that_cannot_occur_at_the_level_is_refused_by_name(house: House, level: str) -> None:
    """Law 40, KO-82."""
    said = await refused(house, f"{level}?_type=Patient,CapabilityStatement,Organization")
    assert said == (
        "_type: An export at this level holds what lies in compartments, and what that refers to; "
        "it never holds CapabilityStatement."
    )


async def test_a_lenient_client_is_told_which_type_cannot_occur(house: House) -> None:
    """Law 40, KO-82, KO-101."""
    location = await house.ask("GET", "/Patient/$export?_type=Patient,CapabilityStatement,Organization", headers=LENIENT)
    assert location.status_code == 202
    await house.runner.finish()
    manifest = (await house.ask("GET", location.headers["Content-Location"])).json()
    assert {item["type"] for item in manifest["output"]} >= {"Patient"}
    lines = await house.lines(manifest, "error")
    (outcome,) = map(json.loads, lines["OperationOutcome"])
    assert "it never holds CapabilityStatement" in outcome["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (
            "Organization",
            "a type that does, such as Account, AdverseEvent, AllergyIntolerance, Appointment, AppointmentResponse and 65 more.",
        ),
        (
            "Slot",
            "nothing of Slot is exported unless an exported resource refers to it; add a type that does, such as Appointment.",
        ),
        ("Practitioner,PractitionerRole", "nothing of Practitioner, PractitionerRole is exported unless"),
    ],
)
@pytest.mark.parametrize("level", ["/Patient/$export", "/Group/both/$export"])
async def test_types_that_nothing_exported_can_name_are_refused_with_what_to_add(
    house: House, level: str, types: str, said: str
) -> None:
    """Law 40, KO-82: context begins at a resource of the compartments."""
    assert said in await refused(house, f"{level}?_type={types}")


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("system/Organization.rs system/Patient.rs", "such as Patient."),
        ("system/Organization.rs", "the token's scopes cover none."),
        ("system/Endpoint.rs system/Organization.rs system/Patient.rs", "such as Patient."),
    ],
)
async def test_only_types_that_the_token_covers_are_proposed(house: House, scope: str, said: str) -> None:
    """KO-82."""
    assert (await refused(house, "/Patient/$export?_type=Organization", scope=scope)).endswith(said)


async def test_a_type_that_is_reached_over_others_is_refused_with_the_way_to_it(house: House) -> None:
    """KO-82."""
    scope = "system/Endpoint.rs system/Organization.rs system/Patient.rs"
    said = await refused(house, "/Patient/$export?_type=Endpoint", scope=scope)
    assert said.endswith("add Patient and Organization, from which references lead there.")
    request, _ = await accepted(house, "/Patient/$export?_type=Endpoint,Organization,Patient", scope=scope)
    assert request.types == ("Endpoint", "Organization", "Patient")


async def test_lenient_types_that_nothing_names_are_set_aside_and_reported(house: House) -> None:
    """Law 40, KO-101."""
    location = await house.ask("GET", "/Patient/$export?_type=Organization", headers=LENIENT)
    assert location.status_code == 202
    await house.runner.finish()
    manifest = (await house.ask("GET", location.headers["Content-Location"])).json()
    assert manifest["output"] == []
    (outcome,) = map(json.loads, (await house.lines(manifest, "error"))["OperationOutcome"])
    assert "add a type that does" in outcome["issue"][0]["diagnostics"]


async def test_a_poll_needs_the_scopes_for_context_too(house: House) -> None:
    """SE-03, FR-04."""
    location = await house.kick_off("/Patient/$export?_type=Patient,Organization")
    await house.runner.finish()
    assert (await house.ask("GET", location, scope="system/Patient.rs")).status_code == 403
    assert (await house.ask("GET", location, scope="system/Patient.rs system/Organization.rs")).status_code == 200


# --- Filters ---------------------------------------------------------------------------------------------------------


async def test_a_filter_on_a_type_that_comes_as_context_alone_is_refused_by_name(house: House) -> None:
    """Law 40, TF-01."""
    path = f"/Patient/$export?_type=Patient,Organization&_typeFilter={quote('Organization?name=x')}"
    said = await refused(house, path)
    assert said == (
        "_typeFilter: At this level Organization is exported only if an exported resource refers to it, whatever a filter says."
    )
    response = await house.ask("GET", path, headers=LENIENT)
    assert response.status_code == 202
    await house.runner.finish()
    manifest = (await house.ask("GET", response.headers["Content-Location"])).json()
    (outcome,) = map(json.loads, (await house.lines(manifest, "error"))["OperationOutcome"])
    assert "Organization is exported only if" in outcome["issue"][0]["diagnostics"]
    system = f"/$export?_type=Organization&_typeFilter={quote('Organization?name=x')}"
    assert (await house.ask("GET", system, headers=KICK_OFF)).status_code == 202


async def test_a_filter_that_is_a_right_is_told_from_one_that_was_asked_for(house: House) -> None:
    """Law 40, TF-01: a granular scope restricts context too, `_typeFilter` does not."""
    scope = "system/Patient.rs system/Observation.rs?status=final"
    _, rows = await accepted(house, f"/Patient/$export?_typeFilter={quote('Observation?status=amended')}", scope=scope)
    assert [(each.type, each.granted) for each in rows.filters] == [("Observation", True), ("Observation", False)]
