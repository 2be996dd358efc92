"""The canonical text of a resource: the form that stores keep and that an export copies without parsing it.

A resource is made canonical once, when it is written (law 17):

- one line of compact UTF-8 JSON, without a raw newline;
- it begins `{"resourceType":"X","id":"Y","meta":{"versionId":"3","lastUpdated":"..."`, with the store's own version and instant;
- all other members follow in the author's order, with numbers to the digit (`1.10`, `1e3`: precision counts);
- only characters that JSON requires to be escaped are, each in one way, so that a text can be searched by its bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from fhir_bulk_middleware.fhir.nesting import deeper_than
from fhir_bulk_middleware.instant import Instant, Precision, render

__all__ = ["DEPTH", "Canonical", "canonical", "canonical_and_content"]

DEPTH = 64
"""Maximum nesting of objects and arrays, including the resource itself; HL7's examples stay below 20."""

_TYPE = re.compile(r"[A-Z][A-Za-z]{0,63}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)

# Numbers pass through the parser as text behind a mark that no other text can contain, since lone surrogates are refused first.
_MARK = "\udc00"
_MARKED = re.compile(f'"{_MARK}([^"]*)"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_FIRST = ("resourceType", "id", "meta")
_OURS = ("versionId", "lastUpdated")

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Canonical:
    """A resource in canonical form, without the version and the instant that a store assigns when it writes.

    Attributes:
        type: its `resourceType`.
        id: its `id`.
    """

    type: str
    id: str
    _head: str = field(repr=False)
    _tail: str = field(repr=False)

    def text(self, version: int, last_updated: Instant) -> bytes:
        """The canonical line as UTF-8, without a final newline; `lastUpdated` has microseconds (law 1)."""
        return f'{self._head}"versionId":"{version}","lastUpdated":"{_rendered(last_updated)}"{self._tail}'.encode()


@lru_cache(maxsize=1)  # a transaction writes many resources at one instant
def _rendered(instant: Instant) -> str:
    return render(instant, Precision.MICROSECONDS)


def canonical(resource: bytes | str | Mapping[str, Any], *, resource_id: str | None = None) -> Canonical:
    """The canonical form of a resource.

    Args:
        resource: JSON text, or parsed JSON. A float from `json.loads` has already lost its last digits; use
            `parse_float=Decimal` to keep them.
        resource_id: replaces the id in the resource.

    Raises:
        ValueError: the text is not one JSON object in UTF-8; an object has a duplicate name; a lone surrogate; nesting deeper
            than `DEPTH`; `resourceType` or `id` is missing or malformed, or `meta` is not an object. The message names the
            part, never a value.
    """
    return canonical_and_content(resource, resource_id=resource_id)[0]


def canonical_and_content(
    resource: bytes | str | Mapping[str, Any], *, resource_id: str | None = None
) -> tuple[Canonical, Mapping[str, Any]]:
    """As `canonical`, with the parsed resource, in which references can be found. Numbers in it are marked text."""
    author = _text(resource)
    content = _parsed(author)
    meta, rest = content.get("meta", {}), _unmarked(_members(content, without=_FIRST))
    _refuse_duplicates(author, content, rest)
    if resource_id is not None:
        content["id"] = resource_id
    type_, id_ = content.get("resourceType"), content.get("id")
    if not isinstance(type_, str) or _TYPE.fullmatch(type_) is None:
        raise ValueError("resourceType: must be the name of a resource type")
    if not isinstance(id_, str) or _ID.fullmatch(id_) is None:
        raise ValueError("id: must be 1 to 64 of A-Z, a-z, 0-9, '-' and '.'")
    if not isinstance(meta, dict):
        raise ValueError("meta: must be an object")  # noqa: TRY004 - it is the text that is wrong, not the argument
    form = Canonical(
        type=type_,
        id=id_,
        _head=f'{{"resourceType":"{type_}","id":"{id_}","meta":{{',
        _tail=f"{_unmarked(_members(meta, without=_OURS))}}}{rest}}}",
    )
    return form, content


def _text(resource: bytes | str | Mapping[str, Any]) -> str:
    if isinstance(resource, str):
        if not resource.isascii():
            _refuse_half_pairs(resource)
        return resource
    if isinstance(resource, bytes):
        try:
            return resource.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {error.start}: not UTF-8") from None
    try:
        text = json.dumps(dict(resource), ensure_ascii=False, allow_nan=False, default=_marked_decimal)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH}") from None
    _refuse_half_pairs(json.dumps(dict(resource), ensure_ascii=False, default=lambda _: 0) if _MARK in text else text)
    return _unmarked(text)


def _marked_decimal(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return f"{_MARK}{value}"
    raise ValueError(f"a {type(value).__name__} is no JSON value")


def _parsed(text: str) -> dict[str, Any]:
    if deeper_than(text, DEPTH):
        raise ValueError(f"nested deeper than {DEPTH}")
    if "\\u" in text and _SURROGATE.search(text) is not None:
        _refuse_escaped_half_pairs(text)
    try:
        content = _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"character {error.pos}: not JSON: {error.msg}") from None
    if not isinstance(content, dict):
        raise ValueError("a resource is a JSON object")  # noqa: TRY004 - it is the text that is wrong
    return content


def _mark(digits: str) -> str:
    return _MARK + digits


def _unmarked(text: str) -> str:
    return "".join(_MARKED.split(text)) if _MARK in text else text


def _refuse_duplicates(author: str, content: dict[str, Any], rest: str) -> None:
    """Refuse an object with a duplicate name.

    The parser drops one of two duplicates, so the re-encoded text is shorter than the author's. White space in the author's text
    has the same effect. Only if the text became shorter is it parsed again with a check of each object.
    """
    first = sum(len(name) + 4 + len(_unmarked(_encode(content[name]))) for name in _FIRST if name in content)
    if first + len(rest) + 1 < len(author.rstrip("\n")):
        _decode_strictly(author)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_shown(twice)}: stands twice in one object")
    return members


def _shown(name: str) -> str:
    """A member's name for an error message; a name that is not like an element's could be personal data and is not repeated."""
    return name if re.fullmatch(r"_?[A-Za-z]{1,64}", name, re.ASCII) else "a name"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _refuse_half_pairs(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character") from None


def _refuse_escaped_half_pairs(text: str) -> None:
    r"""Refuse a `\u` escape of a lone surrogate; a pair of them is one character."""
    try:
        parsed = json.loads(text, parse_int=str)
    except ValueError:
        return  # the parse that follows says what is wrong
    _refuse_half_pairs(json.dumps(parsed, ensure_ascii=False))


def _members(content: Mapping[str, Any], *, without: tuple[str, ...]) -> str:
    """The other members as JSON, without the braces, with a leading comma."""
    rest = {name: value for name, value in content.items() if name not in without}
    return "," + _encode(rest)[1:-1] if rest else ""


_decode = json.JSONDecoder(parse_float=_mark, parse_int=_mark, parse_constant=_refuse_constant).decode
_decode_strictly = json.JSONDecoder(object_pairs_hook=_object, parse_int=str).decode
