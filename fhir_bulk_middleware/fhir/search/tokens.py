"""Tests of elements against tokens: codes, identifiers, contact points, booleans."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test, members
from fhir_bulk_middleware.fhir.search.texts import fold, texts_at
from fhir_bulk_middleware.fhir.search.values import TextValue, TokenValue, TypedIdentifierValue


def token_test(values: Collection[TokenValue], path: TypedPath) -> Test:  # noqa: PLR0911 - a case per data type
    """Compare codes, ids and systems with case; only plain strings without.

    FHIR allows a server to ignore case. That would show, export or delete more than the client requested.
    """
    codes = frozenset(value.code for value in values)
    match path.type:
        case "CodeableConcept":
            coding = _pair_test(values, "code")
            return lambda node: any(map(coding, members(node, "coding")))
        case "Coding":
            return _pair_test(values, "code")
        case "Identifier":
            return _pair_test(values, "value")
        case "ContactPoint":
            return lambda node: any(isinstance(one, str) and one in codes for one in members(node, "value"))
        case "boolean":
            wanted = {code == "true" for code in codes}
            return lambda node: isinstance(node, bool) and node in wanted
        case "code":
            meant = frozenset(value.code for value in values if value.system is None or value.system == path.system)
            return lambda node: (isinstance(node, str) and node in meant) or (None in meant and node is not None)
        case "string":
            folded = frozenset((code or "").casefold() for code in codes)
            return lambda node: isinstance(node, str) and node.casefold() in folded
        case _:
            return lambda node: isinstance(node, str) and node in codes


def _pair_test(values: Collection[TokenValue], key: str) -> Test:
    """Test code and system of an element: any code of a system, a code of any system, or a code of one system or none."""
    systems = frozenset(value.system for value in values if value.code is None)
    codes = frozenset(value.code for value in values if value.system is None)
    pairs = frozenset((value.system, value.code) for value in values if value.system is not None)

    def test(node: Any) -> bool:
        if type(node) is not dict and not isinstance(node, Mapping):  # the first is much faster
            return False
        code, system = node.get(key), node.get("system")
        if systems and isinstance(system, str) and system in systems:
            return True
        if not isinstance(code, str):
            return False
        return code in codes or ("" if system is None else system if isinstance(system, str) else None, code) in pairs

    return test


def identifier_type_test(values: Collection[TypedIdentifierValue]) -> Test:
    """`:of-type`: compare the identifier's value and one coding of its type."""
    codings: dict[str, list[TokenValue]] = {}
    for value in values:
        codings.setdefault(value.value, []).append(TokenValue(value.system, value.code))
    tests = {text: _pair_test(several, "code") for text, several in codings.items()}

    def test(node: Any) -> bool:
        found = [tests[text] for text in members(node, "value") if isinstance(text, str) and text in tests]
        return any(coding(one) for coding in found for kind in members(node, "type") for one in members(kind, "coding"))

    return test


def token_text_test(values: Collection[TextValue], path: TypedPath) -> Test:
    """`:text`: compare the beginning of the code's display text, as a string search does."""
    asked = tuple(fold(value.text) for value in values)
    return lambda node: any(fold(text).startswith(asked) for text in _code_texts(node, path.type))


def _code_texts(node: Any, type_: str) -> Iterator[str]:
    if type_ == "Identifier":
        for kind in members(node, "type"):
            yield from texts_at(kind, "text")
    elif type_ == "Coding":
        yield from texts_at(node, "display")
    else:
        yield from texts_at(node, "text")
        for coding in members(node, "coding"):
            yield from texts_at(coding, "display")


def reference_identifier_test(values: Collection[TokenValue]) -> Test:
    """`:identifier`: compare `Reference.identifier`."""
    identifier = _pair_test(values, "value")
    return lambda node: any(identifier(one) for one in members(node, "identifier"))
