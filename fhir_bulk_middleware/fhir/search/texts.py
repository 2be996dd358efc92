"""Tests of elements against strings and URIs, and the folding of texts for string searches."""

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
    """The text in lower case, without accents and punctuation, and with single spaces; may be empty."""
    if text.isascii():
        return " ".join(text.lower().translate(_PUNCTUATION).split())
    return " ".join("".join(map(_folded, text)).split())


@lru_cache(maxsize=4_096)
def _folded(character: str) -> str:
    """A character without case and accents; empty for characters that are not compared.

    Decomposing a whole text sorts runs of accents in quadratic time (law 38). Accents are dropped here, so their order does not
    matter, and characters are decomposed one by one.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in plain if unicodedata.category(part)[0] not in {"M", "P"})


def texts_at(node: Any, key: str) -> Iterator[str]:
    """The strings under a key of an element."""
    return (text for text in members(node, key) if isinstance(text, str))


def string_test(values: Collection[str], modifier: str | None, path: TypedPath) -> Test:
    """Compare the beginning without case and accents; with `contains` any part; with `exact` the unchanged whole.

    For a HumanName or an Address each of its strings is compared separately.
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
    """Compare the whole URI; `above` and `below` compare by path segments.

    A value without a version matches a canonical URI of any version.
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
