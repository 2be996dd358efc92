"""The committed definition tables: where they come from, and what they say."""

import threading

import pytest

from fhir_bulk_middleware.fhir.definitions import Definitions, definitions
from fhir_bulk_middleware.fhir.expression import compile_path, root_keys
from fhir_bulk_middleware.fhir.version import FhirVersion

VERSIONS = pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
KINDS = {"Patient", "Encounter", "RelatedPerson", "Practitioner", "Device"}


@VERSIONS
def test_a_table_tells_its_package_licence_and_digests(version: FhirVersion) -> None:
    provenance = definitions(version).provenance
    assert provenance["version"] == version
    assert provenance["package"].startswith("hl7.fhir.r")
    assert provenance["licence"] == "CC0-1.0"
    assert provenance["canonical"] == "http://hl7.org/fhir"
    assert set(provenance["sources"]) == {"CompartmentDefinition", "SearchParameter", "StructureDefinition", "ValueSet"}
    assert provenance["sources"]["CompartmentDefinition"]["files"] == 5
    assert all(len(source["sha256"]) == 64 and source["files"] > 0 for source in provenance["sources"].values())


@pytest.mark.parametrize(
    ("version", "resource_types", "patient_types"),
    [(FhirVersion.R4, 146, 66), (FhirVersion.R4B, 141, 66), (FhirVersion.R5, 158, 73)],
)
def test_each_release_has_its_own_types(version: FhirVersion, resource_types: int, patient_types: int) -> None:
    found = definitions(version)
    assert len(found.resource_types) == resource_types
    assert found.compartment_kinds == KINDS
    assert len(found.compartment_paths("Patient")) == patient_types
    assert not {"Resource", "DomainResource"} & found.resource_types


@VERSIONS
def test_every_path_of_a_table_compiles(version: FhirVersion) -> None:
    found = definitions(version)
    for kind in found.compartment_kinds:
        for type_, paths in found.compartment_paths(kind).items():
            assert type_ in found.resource_types
            for path in paths:
                compile_path(path)
    for type_ in found.resource_types:
        for parameter in found.parameters(type_).values():
            parts = [typed for root in parameter.roots for component in root.components for typed in component.paths]
            for typed in (*parameter.paths, *parts):
                compile_path(typed.path)
            assert bool(parameter.unsupported) != bool(parameter.paths or parameter.roots)


@VERSIONS
def test_every_type_has_the_parameters_of_all_resources(version: FhirVersion) -> None:
    for type_ in definitions(version).resource_types:
        assert {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source"} <= set(definitions(version).parameters(type_))


@VERSIONS
@pytest.mark.parametrize(
    ("type_", "name", "paths"),
    [
        ("Patient", "birthdate", {("birthDate", "date")}),
        ("Patient", "phone", {("telecom.where(system='phone')", "ContactPoint")}),
        ("Patient", "death-date", {("deceasedDateTime", "dateTime")}),
        ("Observation", "patient", {("subject.where(resolve() is Patient)", "Reference")}),
        ("Observation", "value-quantity", {("valueQuantity", "Quantity"), ("valueSampledData", "SampledData")}),
        ("Observation", "code", {("code", "CodeableConcept")}),
        ("Condition", "onset-date", {("onsetDateTime", "dateTime"), ("onsetPeriod", "Period")}),
        ("Bundle", "type", {("type", "code")}),
    ],
)
def test_choices_casts_and_shared_expressions_are_settled(
    version: FhirVersion, type_: str, name: str, paths: set[tuple[str, str]]
) -> None:
    parameter = definitions(version).parameters(type_)[name]
    assert {(path.path, path.type) for path in parameter.paths} == paths


@VERSIONS
def test_a_date_parameter_on_a_choice_has_a_path_for_each_type(version: FhirVersion) -> None:
    paths = {path.path for path in definitions(version).parameters("Observation")["date"].paths}
    assert paths == {"effectiveDateTime", "effectivePeriod", "effectiveTiming", "effectiveInstant"}


def test_a_shared_expression_keeps_only_the_branches_of_its_type() -> None:
    assert definitions(FhirVersion.R5).parameters("Goal")["patient"].expression == "Goal.subject.where(resolve() is Patient)"
    appointment = definitions(FhirVersion.R5).parameters("Appointment")["date"]
    assert [path.path for path in appointment.paths] == ["start", "requestedPeriod.start"]
    assert appointment.first


@pytest.mark.parametrize(
    ("type_", "name"),
    [("Bundle", "composition"), ("Location", "near"), ("Observation", "dna-variant"), ("Patient", "age")],
)
def test_a_parameter_that_cannot_be_applied_exactly_says_why(type_: str, name: str) -> None:
    parameter = definitions(FhirVersion.R4).parameters(type_)[name]
    assert parameter.unsupported
    assert not parameter.paths


@VERSIONS
def test_mandatory_elements_are_those_with_a_minimum(version: FhirVersion) -> None:
    assert definitions(version).mandatory("Observation") == {"status", "code"}
    assert definitions(version).mandatory("Patient") == frozenset()


@VERSIONS
def test_a_choice_element_knows_its_keys(version: FhirVersion) -> None:
    elements = definitions(version).elements("Observation")
    assert {"valueQuantity", "valueCodeableConcept", "valueString"} <= set(elements["value"].keys)
    assert elements["subject"].keys == ("subject",)


@VERSIONS
def test_a_type_knows_what_its_references_can_name(version: FhirVersion) -> None:
    """Law 40: at any depth, and within data types (an annotation's author, an identifier's assigner)."""
    found = definitions(version)
    assert {"Patient", "Practitioner", "PractitionerRole", "Organization", "Location"} <= found.reference_targets("Encounter")
    assert {"Organization", "Endpoint"} == found.reference_targets("Organization")
    assert "Medication" in found.reference_targets("MedicationRequest")
    assert "Practitioner" in found.reference_targets("FamilyMemberHistory")  # FamilyMemberHistory.note.authorReference
    assert "Organization" in found.reference_targets("Schedule")  # Schedule.identifier.assigner


@VERSIONS
def test_a_reference_to_any_type_adds_nothing(version: FhirVersion) -> None:
    """Law 40: neither that (Basic.subject), nor an extension, nor a contained resource."""
    found = definitions(version)
    assert found.reference_targets("Basic") == {
        "Organization",
        "Patient",
        "Practitioner",
        "PractitionerRole",
        "RelatedPerson",
    } | ({"CareTeam", "Device"} if version is FhirVersion.R5 else set())
    for type_ in found.resource_types:
        assert found.reference_targets(type_) <= found.resource_types
    assert not any("StructureDefinition" in found.reference_targets(type_) for type_ in ("Observation", "Bundle", "Parameters"))


@pytest.mark.parametrize(
    ("version", "types"),
    [
        (FhirVersion.R4, {"Contract", "Device", "GuidanceResponse", "Task"}),
        (FhirVersion.R4B, {"Contract", "Device", "GuidanceResponse", "Task"}),
        (FhirVersion.R5, {"DeviceDispense"}),
    ],
)
def test_the_types_that_the_patient_compartment_forgot_have_a_parameter_patient(version: FhirVersion, types: set[str]) -> None:
    """Law 40."""
    found = definitions(version)
    assert found.forgotten_paths.keys() == types
    assert not types & found.compartment_paths("Patient").keys()
    for type_, paths in found.forgotten_paths.items():
        assert paths
        assert paths == tuple(sorted(path.path.partition(".where(")[0] for path in found.parameters(type_)["patient"].paths))


def test_an_unknown_type_is_a_key_error() -> None:
    for ask in (Definitions.parameters, Definitions.elements, Definitions.mandatory, Definitions.reference_targets):
        with pytest.raises(KeyError):
            ask(definitions(FhirVersion.R4), "Nonsense")


def test_threads_that_ask_at_once_get_one_object() -> None:
    found: list[Definitions] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(definitions(FhirVersion.R4B))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


@VERSIONS
def test_each_search_path_begins_with_a_member_of_the_resource(version: FhirVersion) -> None:
    """So a filter may parse those members alone."""
    known = definitions(version)
    for type_ in known.resource_types:
        members = {"resourceType", "contained"}.union(*(element.keys for element in known.elements(type_).values()))
        for parameter in known.parameters(type_).values():
            paths = [path.path for path in parameter.paths]
            for root in parameter.roots:
                inside = [path.path for component in root.components for path in component.paths]
                paths += [root.path] if root.path else inside
            assert all(root_keys(path) <= members for path in paths), f"{type_}: {parameter.name}"
