"""Tests of a string or a URI against an element, and texts as a string search compares them."""

import unicodedata
from collections.abc import Iterator
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test, members
from fhir_bulk_middleware.fhir.values import TextValue

_NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
_ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")
_PUNCTUATION = {number: None for number in range(128) if unicodedata.category(chr(number))[0] == "P"}


def fold(text: str) -> str:
    """The text without case, accents and punctuation, and with single spaces; it may be empty."""
    if text.isascii():
        return " ".join(text.lower().translate(_PUNCTUATION).split())
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (character for character in plain if unicodedata.category(character)[0] not in {"M", "P"})
    return " ".join("".join(kept).split())


def texts_at(node: Any, key: str) -> Iterator[str]:
    """The texts under a key of an element."""
    return (text for text in members(node, key) if isinstance(text, str))


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
        yield from texts_at(node, key)


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
