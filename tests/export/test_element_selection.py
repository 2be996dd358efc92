"""Resources with some of their elements: the bytes of what is kept are those that were written."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.contract.job import Options
from fhir_bulk_middleware.contract.query import Everything, Page, Rows
from fhir_bulk_middleware.export.element_selection import keep_elements_of, tagged
from fhir_bulk_middleware.export.transform import Transform

TAG = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
NAMES = ["resourceType", "id", "meta", "class", "for", "import", "_birthDate", "valueQuantity", "status", "code", "m0", "é"]

_digits = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
_texts = st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0))
_values = st.recursive(
    _digits | _texts | st.sampled_from(["true", "false", "null", "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(_texts, inner, max_size=3).map(
            lambda members: "{" + ", ".join(f"{name} : {value}" for name, value in members.items()) + "}"
        )
    ),
    max_leaves=8,
)
_metas = st.sampled_from(
    [
        None,
        "{}",
        "{ }",
        '{"versionId":"1","lastUpdated":"2026-01-01T00:00:00Z"}',
        '{"versionId":"1","tag":[]}',
        '{"tag":[{"system":"s","code":"c","version":"\\"tag\\""}],"source":"x"}',
        '{"\\u0074ag":[ {"code":"c"} ] , "source":"\\\\"}',
        f'{{"tag":[{json.dumps(TAG)}]}}',
        f'{{"tag":[{json.dumps({**TAG, "display": "subsetted"})}]}}',
    ]
)


@st.composite
def _lines(draw: st.DrawFn) -> str:
    members = draw(st.dictionaries(st.sampled_from([*NAMES[3:], "other", "more"]), _values, max_size=8))
    meta = draw(_metas)
    members = {"resourceType": '"Observation"', "id": '"1"', **({} if meta is None else {"meta": meta}), **members}
    between = draw(st.sampled_from([",", " , "]))
    return "{" + between.join(f"{json.dumps(name, ensure_ascii=False)}:{value}" for name, value in members.items()) + "}"


def exact(text: str | bytes) -> Any:
    """JSON with its numbers as the text that they are."""
    return json.loads(text, parse_int=lambda digits: ("number", digits), parse_float=lambda digits: ("number", digits))


@given(_lines(), st.sets(st.sampled_from(NAMES)), st.booleans())
def test_what_is_kept_is_kept_to_the_digit_and_the_rest_is_gone(line: str, keys: set[str], fast: bool) -> None:
    """EL-01, EL-03."""
    found = exact(_reduced(line, keys, fast=fast))
    whole = exact(line)
    meta = whole.pop("meta", {})
    assert list(found)[:3] == ["resourceType", "id", "meta"]
    subset_meta = found.pop("meta")
    assert found == {name: value for name, value in whole.items() if name in keys | {"resourceType", "id"}}
    assert [tag for tag in subset_meta["tag"] if tag.items() >= TAG.items()] != []
    assert len(subset_meta["tag"]) - len(meta.get("tag", [])) in {0, 1}
    assert subset_meta["tag"][: len(meta.get("tag", []))] == meta.get("tag", [])
    assert {name: value for name, value in subset_meta.items() if name != "tag"} == {
        name: value for name, value in meta.items() if name != "tag"
    }


@given(_lines(), st.sets(st.sampled_from(NAMES)))
def test_with_and_without_msgspec_the_bytes_are_the_same(line: str, keys: set[str]) -> None:
    """Law 5: an attempt in another environment writes the same file."""
    assert _reduced(line, keys, fast=True) == _reduced(line, keys, fast=False)


@given(st.lists(_lines(), min_size=1, max_size=5), st.sets(st.sampled_from(NAMES)), st.booleans())
def test_lines_that_are_reduced_together_are_those_that_each_is_alone(lines: list[str], keys: set[str], fast: bool) -> None:
    """Law 5: where a portion of a page ends shows nowhere."""
    together = keep_elements_of(keys, fast=fast)("".join(f"{line}\n" for line in lines).encode())
    assert together == (b"".join(_reduced(line, keys, fast=fast) + b"\n" for line in lines), len(lines))


@given(_digits)
def test_a_decimal_keeps_its_digits(digits: str) -> None:
    line = f'{{"resourceType":"Observation","id":"1","meta":{{}},"valueQuantity":{{"value":{digits}}},"x":1}}'
    for fast in (True, False):
        assert f'"valueQuantity":{{"value":{digits}}}'.encode() in _reduced(line, {"valueQuantity"}, fast=fast)
    assert Decimal(digits) == json.loads(line, parse_float=Decimal, parse_int=Decimal)["valueQuantity"]["value"]


def test_a_tag_is_given_once() -> None:
    once = tagged(b'{"versionId":"1"}')
    assert tagged(once) == once


@pytest.mark.parametrize("line", ['{"id":"1"', "[]", '{"id" "1"}', '{"id":}', '{"id":"1",}', "", '{"id":"1"}{"id":"2"}'])
@pytest.mark.anyio
async def test_what_is_no_resource_is_an_error_and_never_half_a_line(line: str) -> None:
    """Law 8: two resources on a line would be two lines, of which the firewall has seen the beginning of one."""
    transform = Transform.of("Observation", Rows(Everything(), ""), Options(elements=("status",)))
    with pytest.raises(ValueError, match=r"."):
        await transform.apply(Page(f"{line}\n".encode(), 1, "1"))
    with pytest.raises(ValueError, match=r"."):
        transform.exported(line.encode())
    with pytest.raises(ValueError, match=r"."):
        keep_elements_of({"status"}, fast=False)(f"{line}\n".encode())


def _reduced(line: str, keys: set[str], *, fast: bool) -> bytes:
    lines, count = keep_elements_of(keys, fast=fast)(f"{line}\n".encode())
    assert count == 1
    assert lines.endswith(b"\n")
    return lines[:-1]
