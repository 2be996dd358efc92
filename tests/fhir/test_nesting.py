"""How deep JSON is nested does not depend on the parser or on Python's release (law 38)."""

import json
from typing import Any

import pytest
from house import House
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.canonical import DEPTH, canonical
from fhir_bulk_middleware.fhir.nesting import deeper_than

JSON = st.recursive(
    st.none() | st.booleans() | st.text('{}[]"\\a\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{[]}"\\', max_size=3), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    match value:
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case _:
            return 0


@given(JSON, st.integers(0, 6), st.booleans())
def test_the_depth_is_that_of_the_parsed_value(value: Any, depth: int, blanks: bool) -> None:
    text = json.dumps(value, indent=2 if blanks else None)
    assert deeper_than(text, depth) == (depth_of(value) > depth)


@pytest.mark.parametrize("levels", [DEPTH, 500, 5_000, 200_000])
def test_a_resource_that_is_nested_too_deeply_is_refused_alike_on_every_python(levels: int) -> None:
    text = '{"resourceType":"Patient","id":"1","x":' + "[" * levels + "]" * levels + "}"
    with pytest.raises(ValueError, match=f"nested deeper than {DEPTH}"):
        canonical(text)


def test_strings_full_of_brackets_are_no_nesting() -> None:
    text = json.dumps({"resourceType": "Patient", "id": "1", "x": '[{"\\' * 1_000})
    assert not deeper_than(text, 1)
    canonical(text)


@pytest.mark.anyio
async def test_a_kick_off_whose_body_is_nested_deeply_is_refused_as_malformed(house: House) -> None:
    body = '{"resourceType":"Parameters","parameter":' + "[" * 5_000 + "]" * 5_000 + "}"
    headers = {"Prefer": "respond-async", "Content-Type": "application/fhir+json"}
    response = await house.ask("POST", "/$export", headers=headers, content=body)
    assert response.status_code == 400
