"""Tests of one value against one element, for every type of search parameter and every data type it may find."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fhir_bulk_middleware.fhir import decimals, spans
from fhir_bulk_middleware.fhir.decimals import Bounds, read_decimal
from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.folding import fold
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.values import (
    DateValue,
    NumberValue,
    QuantityValue,
    ReferenceValue,
    TextValue,
    TokenValue,
    TypedIdentifierValue,
)

Test = Callable[[Any], bool]

_NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
_ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")
_CURRENCIES = "urn:iso:std:iso:4217"


def token_test(value: TokenValue, path: TypedPath) -> Test:  # noqa: PLR0911 - a case per data type
    """Codes, ids and systems are compared letter for letter; only of a plain string is case ignored.

    FHIR lets a server be laxer about case; lax here would show, export or delete more than was asked for.
    """
    match path.type:
        case "CodeableConcept":
            coding = _pair_test(value, "code")
            return lambda node: any(coding(one) for one in members(node, "coding"))
        case "Coding":
            return _pair_test(value, "code")
        case "Identifier":
            return _pair_test(value, "value")
        case "ContactPoint":
            return lambda node: value.code in members(node, "value")
        case "boolean":
            wanted = value.code == "true"
            return lambda node: node is wanted
        case "code" if value.system is not None:
            system, code = value.system == path.system, value.code
            return lambda node: system and (code is None or node == code)
        case "string":
            folded = (value.code or "").casefold()
            return lambda node: isinstance(node, str) and node.casefold() == folded
        case _:
            return lambda node: isinstance(node, str) and node == value.code


def _pair_test(value: TokenValue, key: str) -> Test:
    system, code = value.system, value.code

    def test(node: Any) -> bool:
        if not isinstance(node, Mapping):
            return False
        if code is None:
            return bool(node.get("system") == system)
        return bool(node.get(key) == code and (system is None or (node.get("system") or "") == system))

    return test


def identifier_type_test(value: TypedIdentifierValue) -> Test:
    """`of-type`: the identifier's value, and one coding of its type."""
    coding = _pair_test(TokenValue(value.system, value.code), "code")

    def test(node: Any) -> bool:
        same = value.value in members(node, "value")
        return same and any(coding(one) for kind in members(node, "type") for one in members(kind, "coding"))

    return test


def token_text_test(value: TextValue, path: TypedPath) -> Test:
    """`:text`: the beginning of the text that goes with a code, compared as a string."""
    asked = fold(value.text)
    return lambda node: any(fold(text).startswith(asked) for text in _code_texts(node, path.type))


def _code_texts(node: Any, type_: str) -> Iterator[str]:
    if type_ == "Identifier":
        for kind in members(node, "type"):
            yield from _texts(kind, "text")
    elif type_ == "Coding":
        yield from _texts(node, "display")
    else:
        yield from _texts(node, "text")
        for coding in members(node, "coding"):
            yield from _texts(coding, "display")


def string_test(value: TextValue, modifier: str | None, path: TypedPath) -> Test:
    """The beginning, without case and accents; with `contains` any part; with `exact` the whole as it is.

    Of a name or an address each of its texts is compared by itself.
    """
    if modifier == "exact":
        return lambda node: any(text == value.text for text in _strings(node, path.type))
    asked = fold(value.text)
    if modifier == "contains":
        return lambda node: any(asked in fold(text) for text in _strings(node, path.type))
    return lambda node: any(fold(text).startswith(asked) for text in _strings(node, path.type))


def _strings(node: Any, type_: str) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for key in {"HumanName": _NAME_PARTS, "Address": _ADDRESS_PARTS}.get(type_, ()):
        yield from _texts(node, key)


def uri_test(value: TextValue, modifier: str | None, path: TypedPath) -> Test:
    """The whole URI; `above` and `below` go by path segments.

    A canonical URI is the same in any version, unless a version is asked for.
    """
    asked = value.text
    if modifier == "below":
        below = asked.rstrip("/") + "/"
        return lambda node: isinstance(node, str) and (node == asked or node.startswith(below))
    if modifier == "above":
        return lambda node: isinstance(node, str) and (node == asked or asked.startswith(node.rstrip("/") + "/"))
    if path.type == "canonical" and "|" not in asked:
        return lambda node: isinstance(node, str) and node.partition("|")[0] == asked
    return lambda node: isinstance(node, str) and node == asked


def date_test(value: DateValue, path: TypedPath) -> Test:
    """The time of the element against the time asked for."""
    compare, asked, type_ = spans.COMPARE[value.prefix], value.span, path.type

    def test(node: Any) -> bool:
        found = spans.element_span(node, type_)
        return found is not None and compare(asked, found)

    return test


def number_test(value: NumberValue) -> Test:
    """A decimal or an integer."""
    compare, asked = decimals.COMPARE[value.prefix], value.number

    def test(node: Any) -> bool:
        found = read_decimal(node)
        return found is not None and compare(asked, decimals.exactly(found))

    return test


def quantity_test(value: QuantityValue, path: TypedPath) -> Test:
    """A quantity of that unit, as recorded: units are not converted. Sampled data have no one value and never match."""
    compare, asked = decimals.COMPARE[value.amount.prefix], value.amount.number

    def test(node: Any) -> bool:
        bounds = _bounds(node, path.type, value)
        return bounds is not None and compare(asked, bounds)

    return test


def _bounds(node: Any, type_: str, value: QuantityValue) -> Bounds | None:
    """What an element of a quantity type says of its number, or None if it says nothing in the unit asked for."""
    if not isinstance(node, Mapping) or type_ == "SampledData":
        return None
    if type_ == "Range":
        sides = [node[side] for side in ("low", "high") if isinstance(node.get(side), Mapping)]
        if not sides or not all(_in_unit(side, value) for side in sides):
            return None
        low, high = ((node.get(side) or {}).get("value") for side in ("low", "high"))
        return decimals.from_to(read_decimal(low), read_decimal(high))
    number = read_decimal(node.get("value"))
    if number is None or not (_in_currency(node, value) if type_ == "Money" else _in_unit(node, value)):
        return None
    return decimals.compared(number, str(node.get("comparator", "")))


def _in_unit(node: Mapping[str, Any], value: QuantityValue) -> bool:
    if value.code is None:
        return True
    if value.system is not None:
        return node.get("system") == value.system and node.get("code") == value.code
    return value.code in {node.get("code"), node.get("unit")}


def _in_currency(node: Mapping[str, Any], value: QuantityValue) -> bool:
    return value.code is None or (value.system in {None, _CURRENCIES} and node.get("currency") == value.code)


def reference_test(value: ReferenceValue, path: TypedPath, targets: frozenset[str], references: References) -> Test:
    """The same resource of this server, however it is named; or the same foreign URL.

    An id alone means any type that the parameter may lead to. A relative value is met by a reference to any version,
    an absolute one only by a reference to none.
    """
    if path.type != "Reference":
        return uri_test(TextValue(value.url), None, path) if value.url is not None else lambda _node: False
    own = references.parse(value.url) if value.url is not None else None
    type_, id_ = (own.type, own.id) if own is not None else (value.type, value.id)

    def test(node: Any) -> bool:
        text = node.get("reference") if isinstance(node, Mapping) else None
        if not isinstance(text, str):
            return False
        if id_ is None:
            return text == value.url
        found = references.parse(text)
        if found is None or found.id != id_ or (own is not None and found.version is not None):
            return False
        return found.type == type_ if type_ is not None else not targets or bool(targets & {found.type, "Resource"})

    return test


def reference_identifier_test(value: TokenValue) -> Test:
    """`:identifier`: the identifier that a reference carries."""
    identifier = _pair_test(value, "value")
    return lambda node: any(identifier(one) for one in members(node, "identifier"))


def members(node: Any, key: str) -> list[Any]:
    """What stands under a key of an element, as a list; nothing where the element is none or has no such key."""
    value = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(value, list):
        return [item for item in value if item is not None]
    return [] if value is None else [value]


def _texts(node: Any, key: str) -> Iterator[str]:
    return (text for text in members(node, key) if isinstance(text, str))
