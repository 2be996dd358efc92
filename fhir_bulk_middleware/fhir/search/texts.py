"""Tests of a string or a URI against an element, and texts as a string search compares them."""

import unicodedata
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test, members

_NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
_ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")
_PUNCTUATION = {number: None for number in range(128) if unicodedata.category(chr(number))[0] == "P"}


def fold(text: str) -> str:
    """The text without case, accents and punctuation, and with single spaces; it may be empty."""
    if text.isascii():
        return " ".join(text.lower().translate(_PUNCTUATION).split())
    return " ".join("".join(map(_folded, text)).split())


@lru_cache(maxsize=4_096)
def _folded(character: str) -> str:
    """A character without case and accents, empty for what is not compared.

    One by one: a decomposition puts the accents of a text in order, in time that grows with the square of how many follow each
    other (law 38), and here their order does not matter, for none of them is kept.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in plain if unicodedata.category(part)[0] not in {"M", "P"})


def texts_at(node: Any, key: str) -> Iterator[str]:
    """The texts under a key of an element."""
    return (text for text in members(node, key) if isinstance(text, str))


def string_test(values: Collection[str], modifier: str | None, path: TypedPath) -> Test:
    """The beginning, without case and accents; with `contains` any part; with `exact` the whole as it is.

    Of a name or an address each of its texts is compared by itself.
    """
    if modifier == "exact":
        exact = frozenset(values)
        return lambda node: any(text in exact for text in _strings(node, path.type))
    asked = tuple(map(fold, values))
    if modifier == "contains":
        return lambda node: any(part in folded for folded in map(fold, _strings(node, path.type)) for part in asked)
    return lambda node: any(fold(text).startswith(asked) for text in _strings(node, path.type))


def _strings(node: Any, type_: str) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for key in {"HumanName": _NAME_PARTS, "Address": _ADDRESS_PARTS}.get(type_, ()):
        yield from texts_at(node, key)


def uri_test(values: Collection[str], modifier: str | None, path: TypedPath) -> Test:
    """The whole URI; `above` and `below` go by path segments.

    A canonical URI is the same in any version, unless a version is asked for.
    """
    asked = frozenset(values)
    if modifier == "below":
        below = tuple(text.rstrip("/") + "/" for text in asked)
        return lambda node: isinstance(node, str) and (node in asked or node.startswith(below))
    if modifier == "above":
        return lambda node: (
            isinstance(node, str) and (node in asked or any(text.startswith(node.rstrip("/") + "/") for text in asked))
        )
    if path.type == "canonical":
        unversioned = frozenset(text for text in asked if "|" not in text)
        versioned = asked - unversioned
        return lambda node: isinstance(node, str) and (node in versioned or node.partition("|")[0] in unversioned)
    return lambda node: isinstance(node, str) and node in asked
