"""Which references name a resource of this server."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.fhir.reference import Reference, References
from fhir_bulk_middleware.instant import Instant

OURS = ("https://ehr.example.org/fhir", "http://internal:8080/r4/")
IDS = st.text("ABCabc019.-", min_size=1, max_size=64)
TYPES = st.sampled_from(["Patient", "Observation", "MedicationRequest"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Patient/1", Reference("Patient", "1")),
        ("Patient/1/_history/2", Reference("Patient", "1", "2")),
        ("https://ehr.example.org/fhir/Patient/1", Reference("Patient", "1")),
        ("https://ehr.example.org/fhir/Patient/1/_history/2", Reference("Patient", "1", "2")),
        ("http://internal:8080/r4/Patient/a-b.c", Reference("Patient", "a-b.c")),
    ],
)
def test_a_reference_of_ours_is_parsed(text: str, expected: Reference) -> None:
    assert References(OURS).parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#p1",
        "#Patient/1",
        "urn:uuid:6c5d9ca9-54d7-42f5-bfae-a7c19cd217f2",
        "https://other.example.org/fhir/Patient/1",
        "https://ehr.example.org/fhirPatient/1",
        "https://ehr.example.org/fhir/tenant/Patient/1",
        "https://ehr-example.org/fhir/Patient/1",
        "/Patient/1",
        "Patient",
        "Patient/",
        "Patient/1/",
        "Patient/1/2",
        "Patient/1/_history",
        "Patient/1\n",
        "Patient/a b",
        "Patient/" + "x" * 65,
        "patient/1",
        "Patient?identifier=1",
        "Patient/1#part",
    ],
)
def test_anything_else_is_no_reference_of_ours(text: str) -> None:
    assert References(OURS).parse(text) is None


def test_without_base_urls_no_absolute_reference_is_ours() -> None:
    assert References().parse("https://ehr.example.org/fhir/Patient/1") is None


@given(TYPES, IDS, st.one_of(st.none(), IDS), st.sampled_from(["", *(url.rstrip("/") + "/" for url in OURS)]))
def test_what_is_written_is_read_back(type_: str, id_: str, version: str | None, base: str) -> None:
    reference = Reference(type_, id_, version)
    history = "" if version is None else f"/_history/{version}"
    assert References(OURS).parse(f"{base}{reference}{history}") == reference


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    found = References(OURS).parse(text)
    assert found is None or text.endswith(str(found)) or found.version


TEXTS = st.builds(
    "{}{}/{}{}".format,
    st.sampled_from(["", "", "https://ehr.example.org/fhir/", "https://other.example.org/fhir/", '"reference":"', "\\"]),
    TYPES,
    IDS,
    st.sampled_from(["", "", "/_history/2", '"', '\\"', "#p", "\u00e9"]),
)
ELEMENTS: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.text(max_size=4) | st.none() | st.integers(0, 9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["reference", "reference\\", "id", "subject"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def references_in(value: Any) -> set[str]:
    """The texts of all members `reference`."""
    match value:
        case list():
            return set().union(*map(references_in, value))
        case dict():
            own = {value["reference"]} if isinstance(value.get("reference"), str) else set()
            return own.union(*map(references_in, value.values()))
        case _:
            return set()


@given(st.dictionaries(st.sampled_from(["reference", "subject", "contained", "text"]), ELEMENTS, max_size=4))
def test_a_line_names_what_its_elements_refer_to(rest: dict[str, Any]) -> None:
    references = References(OURS)
    line = canonical(json.dumps({"resourceType": "Basic", "id": "1", **rest})).text(1, Instant(0))

    assert references.named(line) == {
        str(found).encode() for text in references_in(rest) if (found := references.parse(text)) is not None
    }
