"""Tests of a token against an element: codes, identifiers, contact points, booleans."""

from collections.abc import Iterator, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test, members
from fhir_bulk_middleware.fhir.texts import fold, texts_at
from fhir_bulk_middleware.fhir.values import TextValue, TokenValue, TypedIdentifierValue


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
            yield from texts_at(kind, "text")
    elif type_ == "Coding":
        yield from texts_at(node, "display")
    else:
        yield from texts_at(node, "text")
        for coding in members(node, "coding"):
            yield from texts_at(coding, "display")


def reference_identifier_test(value: TokenValue) -> Test:
    """`:identifier`: the identifier that a reference carries."""
    identifier = _pair_test(value, "value")
    return lambda node: any(identifier(one) for one in members(node, "identifier"))
