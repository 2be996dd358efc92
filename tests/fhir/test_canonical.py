"""The canonical text of a resource: one line, one beginning, the author's digits, and nothing but what the author wrote."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fhir_bulk_middleware.fhir.canonical import DEPTH, ResourceModel, canonical, canonical_and_content
from fhir_bulk_middleware.instant import parse

NOON = parse("2024-05-06T12:00:00.000007Z")
HEAD = '{"resourceType":"Observation","id":"o-1","meta":{"versionId":"3","lastUpdated":"2024-05-06T12:00:00.000007Z"'


def text_of(resource: bytes | str | Mapping[str, Any] | ResourceModel) -> str:
    return canonical(resource).text(3, NOON).decode()


def observation(rest: str, meta: str = "{}") -> str:
    return f'{{"resourceType":"Observation","meta":{meta},"id":"o-1"{rest}}}'


def test_type_id_and_meta_come_first_and_the_rest_keeps_its_order() -> None:
    text = text_of(b' {"z": 1,\n "id" :"o-1","a":[ {} , [],null, true ],"resourceType":"Observation", "_id": {"x":"y"}}')
    assert text == HEAD + '},"z":1,"a":[{},[],null,true],"_id":{"x":"y"}}'


def test_version_and_instant_are_the_store_s_and_the_other_meta_members_stay() -> None:
    meta = '{"source":"#1","versionId":"77","profile":["p"],"lastUpdated":"1999-01-01T00:00:00Z"}'
    assert text_of(observation("", meta)) == HEAD + ',"source":"#1","profile":["p"]}}'


@pytest.mark.parametrize("fast", [True, False])
def test_meta_is_found_wherever_it_stands(fast: bool) -> None:
    """Compact text that begins as canonical text does is kept where it is; what comes before `meta` is not taken for it."""
    written = b'{"resourceType":"Observation","id":"o-1","z":[1,2,3],"meta":{"source":"#1"},"a":true}'
    found, _ = canonical_and_content(written, fast=fast)
    assert found.text(3, NOON).decode() == HEAD + ',"source":"#1"},"z":[1,2,3],"a":true}'


def test_an_id_that_is_given_wins() -> None:
    found, content = canonical_and_content({"resourceType": "Patient", "id": "theirs"}, resource_id="ours")
    assert (found.id, content["id"]) == ("ours", "ours")
    assert found.text(1, NOON).startswith(b'{"resourceType":"Patient","id":"ours","meta":{')


@pytest.mark.parametrize(
    "digits",
    [
        "1.10",
        "1e3",
        "1E+3",
        "-0",
        "-0.0",
        "42.12345678901234567",
        "0.1e-400",
        "1e400",
        "9" * 30,
        pytest.param("7" * 5000, id="5000"),
    ],
)
def test_numbers_keep_their_digits(digits: str) -> None:
    assert text_of(observation(f',"v":[{digits}, {{"w": {digits}}}]')) == HEAD + f'}},"v":[{digits},{{"w":{digits}}}]}}'


def test_decimals_of_a_parser_that_keeps_them_are_kept() -> None:
    assert text_of({"resourceType": "Observation", "id": "o-1", "v": [Decimal("1.10"), 3, 2.5]}) == HEAD + '},"v":[1.10,3,2.5]}'


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (r"Patient\/1", "Patient/1"),
        (r"\u0050atient", "Patient"),
        (r"\u00e9\u2028\ud83d\ude00", "\u00e9\u2028\U0001f600"),
        ("\u2028\u2029\u0085", "\u2028\u2029\u0085"),
        (r"a\n\r\t\b\f\u000b\"\\", r"a\n\r\t\b\f\u000b\"\\"),
        (r"\\ud800 is text", r"\\ud800 is text"),
        (r"\u0031.5", "1.5"),
    ],
)
def test_text_is_escaped_only_where_json_demands_it(written: str, kept: str) -> None:
    assert text_of(observation(f',"v":"{written}"')) == HEAD + f'}},"v":"{kept}"}}'


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"resourceType":"Patient","id":"1"} {}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"resourceType":"Patient","id":"\xff"}', "byte 32: not UTF-8"),
        ('{"resourceType":"Patient"}'.encode("utf-16"), "not UTF-8"),
        (b'{"id":"1"}', "resourceType"),
        (b'{"resourceType":"pat","id":"1"}', "resourceType"),
        (b'{"resourceType":7,"id":"1"}', "resourceType"),
        (b'{"resourceType":"Patient"}', "id:"),
        (b'{"resourceType":"Patient","id":7}', "id:"),
        (b'{"resourceType":"Patient","id":"a b"}', "id:"),
        (b'{"resourceType":"Patient","id":"1\\n"}', "id:"),
        (b'{"resourceType":"Patient","id":"1","meta":null}', "meta:"),
        (observation(',"a":{"b":1,"b":2}'), "b: stands twice"),
        (observation(',"id":"o-1"'), "id: stands twice"),
        (observation(',"v":NaN'), "NaN"),
        (observation(',"v":-Infinity'), "-Infinity"),
        (observation(',"v":01'), "not JSON"),
        (observation(',"v":"a\nb"'), "not JSON"),
        (observation(r',"v":"\ud800"'), "surrogate"),
        (observation(r',"v":"\udc001.5"'), "surrogate"),
        (observation(r',"\udc00":1'), "surrogate"),
        (observation(',"v":"\udc001.5"'), "surrogate"),
        (observation(',"v":' + "[" * DEPTH + "]" * DEPTH), "nested deeper"),
        (observation(',"v":' + "[" * 200_000), "nested deeper"),
    ],
)
def test_what_is_not_one_sound_resource_is_refused_and_named(resource: bytes | str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        canonical(resource)


@pytest.mark.parametrize(
    "value", [float("nan"), Decimal("NaN"), object(), {1, 2}, "\ud800", "\udc001.5", [Decimal(1), "\udc001.5"]]
)
def test_a_mapping_with_what_json_does_not_know_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogate"):
        canonical({"resourceType": "Patient", "id": "1", "v": value})


@pytest.mark.parametrize("depth", [DEPTH, 100_000])
@pytest.mark.parametrize("fast", [True, False])
def test_a_mapping_that_is_nested_too_deeply_is_refused(depth: int, fast: bool) -> None:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper"):
        canonical_and_content({"resourceType": "Patient", "id": "1", "v": value}, fast=fast)


@pytest.mark.parametrize("fast", [True, False])
def test_a_mapping_whose_names_become_the_same_text_is_refused(fast: bool) -> None:
    with pytest.raises(ValueError, match="stands twice"):
        canonical_and_content({"resourceType": "Patient", "id": "1", "v": [{1: "a", "1": "b"}]}, fast=fast)


def test_a_mapping_stays_as_it_is() -> None:
    author = {"resourceType": "Patient", "id": "theirs", "meta": {"versionId": "9"}}
    canonical(author, resource_id="ours")
    assert author == {"resourceType": "Patient", "id": "theirs", "meta": {"versionId": "9"}}


def test_a_pydantic_model_is_read_by_its_aliases_and_without_what_is_unset() -> None:
    class Contact(BaseModel):
        value: str
        ext: str | None = Field(default=None, alias="_value")

    class Patient(BaseModel):
        resource_type: str = Field(default="Patient", alias="resourceType")
        id: str
        telecom: list[Contact]
        active: bool | None = None

    model = Patient.model_validate({"id": "1", "telecom": [{"value": "\u00e9", "_value": "x"}, {"value": "y"}]})
    assert text_of(model).partition(',"telecom"')[2] == ':[{"value":"\u00e9","_value":"x"},{"value":"y"}]}'


def test_a_model_of_fhir_resources_keeps_its_order_and_its_primitive_extensions() -> None:
    patient = pytest.importorskip("fhir.resources.R4B.patient").Patient
    members = {"id": "1", "birthDate": "1970-03", "_birthDate": {"extension": [{"url": "u", "valueDecimal": 1.5}]}}
    rest = text_of(patient.model_validate(members)).partition('Z"},')[2]
    assert rest == '"birthDate":"1970-03","_birthDate":{"extension":[{"url":"u","valueDecimal":1.5}]}}'


@pytest.mark.parametrize(
    ("version", "shown"), [(7, '"versionId":"7",'), ("W-1.a", '"versionId":"W-1.a",'), (None, ""), ("0" * 64, None)]
)
def test_a_storage_may_have_versions_of_its_own_or_none(version: int | str | None, shown: str | None) -> None:
    text = canonical({"resourceType": "Patient", "id": "1"}).text(version, NOON).decode()
    shown = f'"versionId":"{version}",' if shown is None else shown
    assert text == f'{{"resourceType":"Patient","id":"1","meta":{{{shown}"lastUpdated":"2024-05-06T12:00:00.000007Z"}}}}'


@pytest.mark.parametrize("version", ["", 'a"b', "a b", "x" * 65, "1\n"])
def test_a_version_that_is_no_id_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="versionId"):
        canonical({"resourceType": "Patient", "id": "1"}).text(version, NOON)


@pytest.mark.parametrize("room", [":", ": "])
def test_a_name_that_stands_twice_is_found_with_and_without_room_between_the_words(room: str) -> None:
    for text in (
        '{"resourceType":"Patient","id":"1","id":"1"}',
        '{"resourceType":"Patient","id":"1","meta":{"tag":[],"tag":[]}}',
    ):
        with pytest.raises(ValueError, match="stands twice"):
            canonical(text.replace(":", room))


def test_a_message_does_not_repeat_what_may_be_a_person_s() -> None:
    with pytest.raises(ValueError, match=r"^a name: stands twice") as raised:
        canonical(observation(',"Jane Doe":1,"Jane Doe":2'))
    assert "Jane" not in str(raised.value)


def test_nesting_up_to_the_bound_is_fine() -> None:
    assert text_of(observation(',"v":' + "[" * (DEPTH - 1) + "]" * (DEPTH - 1)))


CHARACTERS = st.characters(exclude_categories=["Cs"])
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True).map(Decimal)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(CHARACTERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda name: name not in {"resourceType", "id", "meta"})


class Literal(str):
    """A number by its digits: equal only to the same digits."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and str(self) == str(other)

    __hash__ = str.__hash__


def literal(text: str) -> Any:
    return json.loads(text, parse_float=Literal, parse_int=Literal, object_pairs_hook=lambda pairs: pairs)


def written(value: object, ascii_only: bool) -> str:
    """JSON text of a value in which numbers are `Decimal`s, with needless room and, if asked, needless escapes."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            members = (f" {json.dumps(name, ensure_ascii=ascii_only)} : {written(v, ascii_only)}" for name, v in value.items())
            return "{" + ",\n".join(members) + "}"
        case list():
            return "[" + " , ".join(written(v, ascii_only) for v in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=ascii_only).replace("/", "\\/" if ascii_only else "/")


@given(rest=st.dictionaries(NAMES, VALUES, max_size=6), compact=st.booleans())
def test_with_and_without_msgspec_the_text_is_the_same(rest: dict[str, Any], compact: bool) -> None:
    members = {"resourceType": "Observation", "id": "o-1", "meta": {"versionId": "7", "tag": []}} | rest
    author = written(members, False)
    if compact:
        author = canonical(author).text(1, NOON).decode()

    fast, slow = (canonical_and_content(author.encode(), fast=fast)[0].text(3, NOON) for fast in (True, False))

    assert fast == slow
    assert fast.startswith(HEAD.encode())


ODD = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text() | NUMBERS | st.booleans()
PARSED = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(rest=st.dictionaries(NAMES, PARSED, max_size=6))
def test_a_mapping_has_the_same_text_with_and_without_msgspec_and_as_json_text(rest: dict[str, Any]) -> None:
    """Or is refused alike. Texts may have lone surrogates here."""
    outcomes = []
    members = {"resourceType": "Observation", "id": "o-1"} | rest
    for fast in (True, False):
        try:
            outcomes.append(canonical_and_content(members, fast=fast)[0].text(3, NOON))
        except ValueError as error:
            outcomes.append(str(error).encode())
    assert outcomes[0] == outcomes[1]
    if outcomes[0].startswith(b"{"):
        assert canonical(outcomes[0]).text(3, NOON) == outcomes[0]
        if "Decimal(" not in repr(rest):
            own = json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode()[1:]
            assert outcomes[0] == HEAD.encode() + b"}" + (b"," + own if rest else b"}")


@pytest.mark.parametrize(
    "text", ['"\\u0041"', '"\\/"', '"\\u001F"', "-0", "1E400", "9" * 30, "7" * 5000, '{"a":1,"a":2}', '{"a" :1}']
)
def test_msgspec_s_reading_of_text_that_is_not_compact_is_not_used(text: str) -> None:
    outcomes = []
    for fast in (True, False):
        try:
            outcomes.append(canonical_and_content(observation(f',"v":{text}').encode(), fast=fast)[0].text(3, NOON).decode())
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(rest=st.dictionaries(NAMES, VALUES, max_size=6), at=st.integers(0, 6), ascii_only=st.booleans())
def test_the_canonical_text_says_what_the_author_said(rest: dict[str, Any], at: int, ascii_only: bool) -> None:
    members = list(rest.items())
    members[at:at] = [("id", "o-1"), ("resourceType", "Observation")]
    author = written(dict(members), ascii_only)

    line = canonical(author.encode()).text(3, NOON)

    text = line.decode()
    assert "\n" not in text
    assert text.startswith(HEAD)
    found = literal(text)
    assert [pair for pair in found if pair[0] != "meta"][2:] == [
        pair for pair in literal(author) if pair[0] not in {"id", "resourceType"}
    ]
    assert canonical(line).text(3, NOON) == line  # canonical text is its own canonical text
