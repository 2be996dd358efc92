"""Which compartments a resource lies in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.expression import compile_path
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.version import FhirVersion

VERSIONS = pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
ALL = ("Patient", "Encounter", "RelatedPerson", "Practitioner", "Device")
R4, R4B, R5 = FhirVersion


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


@VERSIONS
@pytest.mark.parametrize(
    ("resource", "kinds", "expected"),
    [
        ({"resourceType": "Patient", "id": "1"}, ALL, {"Patient/1"}),
        ({"resourceType": "Patient", "id": "1", "link": [{"other": to("Patient/2")}]}, ALL, {"Patient/1", "Patient/2"}),
        (
            {"resourceType": "Patient", "id": "1", "generalPractitioner": [to("Practitioner/3")]},
            ALL,
            {"Patient/1", "Practitioner/3"},
        ),
        ({"resourceType": "Practitioner", "id": "3"}, ALL, {"Practitioner/3"}),
        ({"resourceType": "Practitioner", "id": "3"}, ("Patient",), set()),
        ({"resourceType": "Encounter", "id": "e"}, ALL, {"Encounter/e"}),
        ({"resourceType": "Encounter", "id": "e", "subject": to("Patient/1")}, ("Patient",), {"Patient/1"}),
        ({"resourceType": "Observation", "id": "o", "subject": to("Patient/1")}, ALL, {"Patient/1"}),
        ({"resourceType": "Observation", "subject": to("Patient/1/_history/7")}, ALL, {"Patient/1"}),
        ({"resourceType": "Observation", "subject": to("Group/1")}, ALL, set()),
        ({"resourceType": "Observation", "subject": to("Device/1")}, ALL, {"Device/1"}),
        (
            {"resourceType": "Observation", "performer": [to("Patient/2"), to("Practitioner/3")]},
            ("Patient",),
            {"Patient/2"},
        ),
        ({"resourceType": "Observation", "focus": [to("Patient/1")]}, ALL, set()),
        ({"resourceType": "Observation", "encounter": to("Encounter/e")}, ALL, {"Encounter/e"}),
        ({"resourceType": "Observation", "subject": to("https://ehr.example.org/fhir/Patient/1")}, ALL, {"Patient/1"}),
        ({"resourceType": "Observation", "subject": to("https://other.example.org/fhir/Patient/1")}, ALL, set()),
        ({"resourceType": "Observation", "subject": to("urn:uuid:1")}, ALL, set()),
        (
            {"resourceType": "Observation", "subject": to("#1"), "contained": [{"resourceType": "Patient", "id": "1"}]},
            ALL,
            set(),
        ),
        ({"resourceType": "Observation", "subject": {"type": "Patient", "identifier": {"value": "1"}}}, ALL, set()),
        (
            {"resourceType": "Observation", "contained": [{"resourceType": "Observation", "subject": to("Patient/1")}]},
            ALL,
            set(),
        ),
        (
            {"resourceType": "Group", "member": [{"entity": to("Patient/1")}, {"entity": to("Patient/2")}]},
            ALL,
            {"Patient/1", "Patient/2"},
        ),
        ({"resourceType": "Location", "id": "l"}, ALL, set()),
        ({"resourceType": "Organization", "id": "g"}, ALL, set()),
        ({"resourceType": "Nonsense", "subject": to("Patient/1")}, ALL, set()),
        ({"subject": to("Patient/1")}, ALL, set()),
        ({"resourceType": "Observation", "subject": "Patient/1"}, ALL, set()),
        ({"resourceType": "Observation", "subject": {"reference": 1}}, ALL, set()),
        ({"resourceType": "Observation", "subject": None}, ALL, set()),
    ],
)
def test_a_resource_lies_where_hl7_says(
    version: FhirVersion, resource: dict[str, Any], kinds: tuple[str, ...], expected: set[str]
) -> None:
    assert CompartmentMembership(version, ["https://ehr.example.org/fhir/"]).of(resource, kinds) == expected


@pytest.mark.parametrize(
    ("version", "resource", "expected"),
    [
        (R4, {"resourceType": "AuditEvent", "entity": [{"what": to("Patient/1")}]}, {"Patient/1"}),
        (R4, {"resourceType": "AuditEvent", "patient": to("Patient/1")}, set()),
        (R5, {"resourceType": "AuditEvent", "patient": to("Patient/1")}, {"Patient/1"}),
        (R4, {"resourceType": "Provenance", "target": [to("Patient/1")]}, {"Patient/1"}),
        (R4B, {"resourceType": "Provenance", "target": [to("Patient/1")]}, {"Patient/1"}),
        (R5, {"resourceType": "Provenance", "patient": to("Patient/1")}, {"Patient/1"}),
        (R5, {"resourceType": "DeviceRequest", "performer": {"reference": to("Patient/1")}}, {"Patient/1"}),
        (R4, {"resourceType": "MedicationStatement", "subject": to("Patient/1")}, {"Patient/1"}),
        (R4, {"resourceType": "NutritionIntake", "subject": to("Patient/1")}, set()),
        (R5, {"resourceType": "NutritionIntake", "subject": to("Patient/1")}, {"Patient/1"}),
        (R4, {"resourceType": "Device", "patient": to("Patient/1")}, {"Patient/1"}),
        (R4B, {"resourceType": "Task", "for": to("Patient/1")}, {"Patient/1"}),
        (R4, {"resourceType": "Task", "for": to("Group/1"), "owner": to("Patient/2")}, set()),
        (R4, {"resourceType": "GuidanceResponse", "subject": to("Patient/1")}, {"Patient/1"}),
        (R4, {"resourceType": "Contract", "subject": [to("Patient/1"), to("Patient/2")]}, {"Patient/1", "Patient/2"}),
        (R5, {"resourceType": "Device", "patient": to("Patient/1")}, set()),
        (R5, {"resourceType": "DeviceDispense", "subject": to("Patient/1")}, {"Patient/1"}),
    ],
)
def test_releases_differ_as_hl7_says(version: FhirVersion, resource: dict[str, Any], expected: set[str]) -> None:
    assert CompartmentMembership(version).of(resource) == expected


@VERSIONS
def test_a_forgotten_type_lies_in_the_compartments_of_patients_only(version: FhirVersion) -> None:
    """Law 40: what HL7 says of the other kinds stays as it is."""
    compartments = CompartmentMembership(version)
    for type_ in definitions(version).forgotten_paths:
        assert type_ in compartments.types("Patient")
        for kind in set(ALL) - {"Patient", type_}:
            defined = type_ in definitions(version).compartment_paths(kind)
            assert (type_ in compartments.types(kind)) == defined


@VERSIONS
def test_the_kind_itself_is_one_of_its_types(version: FhirVersion) -> None:
    compartments = CompartmentMembership(version)
    assert {"Patient", "Observation", "Condition"} <= compartments.types("Patient")
    assert not {"Organization", "Location", "Medication"} & compartments.types("Patient")
    assert all(kind in compartments.types(kind) for kind in ALL)


def test_there_is_no_compartment_of_another_kind() -> None:
    with pytest.raises(KeyError):
        CompartmentMembership(R4).types("Organization")
    with pytest.raises(KeyError):
        CompartmentMembership(R4).of({"resourceType": "Observation"}, ("Organization",))


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: [value]}
    assert isinstance(value, dict)
    return value


@VERSIONS
def test_every_path_makes_a_member(version: FhirVersion) -> None:
    compartments = CompartmentMembership(version)
    for kind in ALL:
        for type_, paths in compartments.paths(kind).items():
            for path in paths:
                resource = {"resourceType": type_, **_nested(path, to(f"{kind}/x"))}
                assert compartments.of(resource, (kind,)) == {f"{kind}/x"}, (type_, path)


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        1,
        "Patient/1",
        [],
        {},
        [None],
        [[]],
        to("Patient/1"),
        [to("Encounter/2")],
        {"reference": {}},
        {"reference": None},
    ]
)
SHAPES = ODD | st.builds(lambda key, value: {key: value}, st.sampled_from(["reference", "entity", "other", "actor"]), ODD)


@given(
    st.sampled_from(["Patient", "Observation", "Group", "AuditEvent"]),
    st.dictionaries(st.sampled_from(["id", "subject", "member", "link", "performer", "entity"]), SHAPES, max_size=4),
)
def test_no_shape_of_a_resource_makes_it_fail_and_kinds_add_up(type_: str, content: dict[str, Any]) -> None:
    resource = {"resourceType": type_, **content}
    compartments = CompartmentMembership(R4)
    together = compartments.of(resource, ("Patient", "Encounter"))
    assert together == compartments.of(resource, ("Patient",)) | compartments.of(resource, ("Encounter",))


def elements_along(paths: list[list[str]]) -> st.SearchStrategy[Any]:
    """Elements with some of the members that the paths have, at any depth, single or in lists."""
    below = {first: [path[1:] for path in paths if path[0] == first and path[1:]] for first in {path[0] for path in paths}}
    members = {"reference": ODD | st.sampled_from(["Patient/1", "Practitioner/2", "Device/3", "Organization/4", "#5"])}
    inner = st.fixed_dictionaries({}, optional={**members, **{key: elements_along(rest) for key, rest in below.items() if rest}})
    ends = st.fixed_dictionaries({}, optional={**members, **{key: references_or_odd() for key in below}})
    element = inner | ends
    return element | st.lists(element | ODD, max_size=3) | ODD


def references_or_odd() -> st.SearchStrategy[Any]:
    found = st.builds(to, st.sampled_from(["Patient/1", "Practitioner/2", "Device/3", "Organization/4", "Patient/1/_history/2"]))
    return found | st.lists(found | ODD, max_size=2) | ODD


@given(st.data(), st.sampled_from(["ExplanationOfBenefit", "Observation", "Procedure", "Appointment", "Task", "AuditEvent"]))
def test_compartments_are_those_of_each_path_alone(data: st.DataObject, type_: str) -> None:
    compartments = CompartmentMembership(R4)
    paths = {kind: compartments.paths(kind).get(type_, ()) for kind in MEMBER_KINDS}
    steps = [path.split(".") for several in paths.values() for path in several]
    resource: dict[str, Any] = {"resourceType": type_}
    for first in sorted({path[0] for path in steps}):
        below = [path[1:] for path in steps if path[0] == first and path[1:]]
        resource[first] = data.draw(elements_along(below) | references_or_odd() if below else references_or_odd())

    expected = set()
    for kind, several in paths.items():
        for node in (node for path in several for node in compile_path(path)(resource)):
            text = node.get("reference") if isinstance(node, dict) else None
            found = compartments.parse(text) if isinstance(text, str) else None
            if found is not None and found.type == kind:
                expected.add(str(found))
    assert compartments.of(resource, MEMBER_KINDS) == expected
