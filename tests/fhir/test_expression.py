"""Walking concrete paths through parsed resources."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.expression import compile_path

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "1",
    "active": False,
    "name": [{"family": "Ng", "given": ["A", None, "B"]}, {"given": ["C"]}, None],
    "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "e"}, {"value": "none"}],
    "extension": [{"url": "http://x.org/a(b).c", "valueString": "s"}, {"url": "http://x.org/d", "valueString": "t"}],
    "contained": [{"resourceType": "Practitioner", "id": "p"}],
    "generalPractitioner": [
        {"reference": "Practitioner/1"},
        {"reference": "Organization/2"},
        {"reference": "#p"},
        {"reference": "#missing"},
        {"reference": "https://other.example.org/fhir/Practitioner/3/_history/4"},
        {"type": "Practitioner", "identifier": {"value": "5"}},
        {"reference": "urn:uuid:6", "type": "Practitioner"},
        {"display": "somebody"},
    ],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", ["1"]),
        ("active", [False]),
        ("birthDate", []),
        ("name.family", ["Ng"]),
        ("name.given", ["A", "B", "C"]),
        ("name.given.deeper", []),
        ("id.deeper", []),
        ("telecom.where(system='phone').value", ["1"]),
        ("telecom.where(system='fax')", []),
        ("extension.where(url='http://x.org/a(b).c').valueString", ["s"]),
        ("", [PATIENT]),
    ],
)
def test_a_path_leads_to_every_value_at_it(path: str, expected: list[Any]) -> None:
    assert compile_path(path)(PATIENT) == expected


def test_a_type_filter_keeps_the_references_to_that_type() -> None:
    found = compile_path("generalPractitioner.where(resolve() is Practitioner)")(PATIENT)
    assert found == [PATIENT["generalPractitioner"][index] for index in (0, 2, 4, 5, 6)]


@pytest.mark.parametrize("path", [".", "a.", ".a", "a..b", "a b", "a[0]", "a.where(b)", "a.where(b=c)", "a.first()", "1a", "a'"])
def test_a_malformed_path_does_not_compile(path: str) -> None:
    with pytest.raises(ValueError, match="malformed path"):
        compile_path(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "reference", "type"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "contained"]), JSON, max_size=3),
    st.sampled_from(["a", "a.b", "a.b.a", "a.where(b='x')", "a.where(resolve() is Patient)", "a.b.where(resolve() is Patient)"]),
)
def test_no_shape_of_a_resource_makes_a_walk_fail(resource: dict[str, Any], path: str) -> None:
    assert None not in compile_path(path)(resource)
