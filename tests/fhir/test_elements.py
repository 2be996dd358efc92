"""Which root members `_elements` keeps."""

import pytest

from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.elements import ElementSelection, ElementsError
from fhir_bulk_middleware.fhir.version import FhirVersion

VERSIONS = pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
ALWAYS = frozenset({"resourceType", "id", "_id", "meta"})


@VERSIONS
def test_an_element_of_a_type_is_kept_with_its_mandatory_neighbours(version: FhirVersion) -> None:
    found = ElementSelection(version, ["Observation.subject"]).keys("Observation")
    assert found == ALWAYS | {"subject", "status", "_status", "code"}


@VERSIONS
def test_a_primitive_keeps_its_sibling(version: FhirVersion) -> None:
    assert ElementSelection(version, ["Patient.birthDate"]).keys("Patient") == ALWAYS | {"birthDate", "_birthDate"}


@VERSIONS
@pytest.mark.parametrize("name", ["value", "value[x]"])
def test_a_choice_keeps_every_key_it_may_have(version: FhirVersion, name: str) -> None:
    found = ElementSelection(version, [f"Observation.{name}"]).keys("Observation")
    assert found is not None
    assert {"valueQuantity", "valueString", "_valueString", "valueCodeableConcept"} <= found
    assert "value" not in found
    assert "_valueQuantity" not in found


@VERSIONS
def test_an_element_without_a_type_holds_for_all_types_that_have_it(version: FhirVersion) -> None:
    selection = ElementSelection(version, ["name"])
    assert selection.keys("Patient") == ALWAYS | {"name"}
    assert selection.keys("Encounter") is None


@VERSIONS
def test_a_type_that_no_entry_names_is_not_restricted(version: FhirVersion) -> None:
    selection = ElementSelection(version, ["Patient.name", "Patient.gender"])
    assert selection.keys("Patient") == ALWAYS | {"name", "gender", "_gender"}
    assert selection.keys("Observation") is None


@VERSIONS
def test_id_alone_restricts_every_type_to_what_it_must_have(version: FhirVersion) -> None:
    selection = ElementSelection(version, ["id"])
    for type_ in definitions(version).resource_types:
        found = selection.keys(type_)
        assert found is not None
        assert {"resourceType", "id"} <= found
        for name in definitions(version).mandatory(type_):
            assert set(definitions(version).elements(type_)[name].keys) <= found


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("", "names no root element"),
        ("nonsense", "names no root element"),
        ("Patient.nonsense", "names no root element"),
        ("Patient.", "names no root element"),
        ("Nonsense.name", "no resource type"),
        (".name", "no resource type"),
        ("name.family", "no resource type"),
        ("Patient.name.family", "only root elements"),
        ("Observation.valueQuantity", "a type of the choice value; ask for Observation.value$"),
        ("valueQuantity", "a type of the choice value; ask for value$"),
        ("Patient.valueQuantity", "names no root element"),
        ("Observation.code[x]", "not a choice"),
        ("Patient", "names no root element"),
        ("Observation.", "names no root element"),
        ("resourceType", "names no root element"),
        ("[x]", "names no root element"),
    ],
)
def test_an_unknown_entry_is_refused_by_name(entry: str, problem: str) -> None:
    with pytest.raises(ElementsError, match=problem) as refused:
        ElementSelection(FhirVersion.R4, ["Patient.name", entry])
    assert refused.value.part == entry


def test_an_unknown_type_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        ElementSelection(FhirVersion.R4, ["name"]).keys("Nonsense")
