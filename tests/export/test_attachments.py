"""Relative attachment URLs are made absolute by their bytes, and nothing else is touched."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.export.attachments import absolute, may_attach
from fhir_bulk_middleware.fhir.version import FhirVersion

BASE = "https://ehr.example/fhir"

_texts = st.sampled_from(
    [
        "Binary/1",
        "Binary/",
        "binary/1",
        "/Binary/1",
        "x",
        '"url":"Binary/1',
        '\\","url":"Binary/1',
        "\\",
        '{"url":"Binary/1"}',
        "é",
    ]
) | st.text(max_size=5)
_values = st.recursive(
    _texts | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["url", "curl", 'x"url', "valueUrl", "contentType", "extension"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def walked(value: Any) -> Any:
    """The same, by a parser."""
    if isinstance(value, list):
        return [walked(item) for item in value]
    if isinstance(value, dict):
        return {
            name: f"{BASE}/{item}" if name == "url" and isinstance(item, str) and item.startswith("Binary/") else walked(item)
            for name, item in value.items()
        }
    return value


@given(st.lists(st.dictionaries(st.sampled_from(["content", "url", "photo"]), _values, max_size=3), max_size=3), st.booleans())
def test_bytes_are_replaced_where_a_parser_would_replace_them(resources: list[dict[str, Any]], ascii_only: bool) -> None:
    lines = "".join(json.dumps(item, separators=(",", ":"), ensure_ascii=ascii_only) + "\n" for item in resources)
    found = absolute(lines.encode(), BASE).decode()
    assert [json.loads(line) for line in found.split("\n")[:-1]] == [walked(item) for item in resources]


def test_a_page_without_any_is_the_same_object() -> None:
    page = b'{"resourceType":"Patient","id":"1"}\n' * 10
    assert absolute(page, BASE) is page


@pytest.mark.parametrize(
    ("type_", "version", "expected"),
    [
        ("DocumentReference", FhirVersion.R4, True),
        ("Patient", FhirVersion.R4, True),
        ("Observation", FhirVersion.R4, False),
        ("Observation", FhirVersion.R5, True),
        ("Encounter", FhirVersion.R5, False),
    ],
)
def test_only_types_that_can_hold_an_attachment_are_searched(type_: str, version: FhirVersion, expected: bool) -> None:
    assert may_attach(type_, version) is expected
