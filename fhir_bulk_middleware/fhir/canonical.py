"""The canonical text of a resource: the form that stores keep and that an export copies without parsing it.

A resource is made canonical once, when it is written (law 17):

- one line of compact UTF-8 JSON, without a raw newline;
- it begins `{"resourceType":"X","id":"Y","meta":{"versionId":"3","lastUpdated":"..."`, with the store's own version and instant;
- all other members follow in the author's order, with numbers to the digit (`1.10`, `1e3`: precision counts);
- only characters that JSON requires to be escaped are, each in one way, so that a text can be searched by its bytes.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, NamedTuple, NoReturn, Protocol

from fhir_bulk_middleware.fhir.nesting import deeper_than
from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN
from fhir_bulk_middleware.instant import Instant, Precision, render

__all__ = ["DEPTH", "Canonical", "ResourceModel", "canonical", "canonical_and_content"]

DEPTH = 64
"""Maximum nesting of objects and arrays, including the resource itself; HL7's examples stay below 20."""

_TYPE = re.compile(r"[A-Z][A-Za-z]{0,63}", re.ASCII)
_ID = re.compile(RESOURCE_ID_PATTERN, re.ASCII)

# Numbers pass through the parser as text behind a mark that no other text can contain, since lone surrogates are refused first.
_MARK = "\udc00"
_MARKED = re.compile(f'"{_MARK}([^"]*)"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_FIRST = ("resourceType", "id", "meta")
_META = b',"meta":{'
_BEFORE_META = len(_META) - 1
_OURS = ("versionId", "lastUpdated")

_Encode = Callable[[Mapping[str, Any]], bytes]
_Parsed = tuple[dict[str, Any], _Encode, bytes | None]
"""The content of a resource, what encodes its parts, and its text if that is what the encoder makes of the content."""

_Formed = tuple["Canonical", Mapping[str, Any]]

_LEAVES = frozenset({str, bool, int, type(None)})
_NUMBERS = frozenset({float, Decimal})
_SMALL, _LARGE = 1e-4, 1e16
"""Between these, no encoder writes a float with an exponent."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class Canonical(NamedTuple):
    """A resource in canonical form, without the version and the instant that a store assigns when it writes.

    Attributes:
        type: its `resourceType`.
        id: its `id`.
        head: what the text has before the version.
        tail: what the text has after the instant.
    """

    type: str
    id: str
    head: bytes
    tail: bytes

    def __repr__(self) -> str:
        return f"Canonical(type={self.type!r}, id={self.id!r})"

    def text(self, version: int | str | None, last_updated: Instant) -> bytes:
        """The canonical line as UTF-8, without a final newline; `lastUpdated` has microseconds (law 1).

        Args:
            version: becomes `versionId`; None leaves it out, for a storage without versions.
            last_updated: becomes `lastUpdated`.

        Raises:
            ValueError: the version is no FHIR id.
        """
        if isinstance(version, int):
            return b'%b"versionId":"%d","lastUpdated":"%b"%b' % (self.head, version, _rendered(last_updated), self.tail)
        return b'%b%b"lastUpdated":"%b"%b' % (self.head, _versioned(version), _rendered(last_updated), self.tail)


def _versioned(version: str | None) -> bytes:
    if version is None:
        return b""
    if _ID.fullmatch(version) is None:
        raise ValueError("versionId: must be 1 to 64 of A-Z, a-z, 0-9, '-' and '.'")
    return b'"versionId":"%b",' % version.encode()


class ResourceModel(Protocol):
    """A resource as a pydantic model, such as those of `fhir.resources`."""

    def model_dump_json(self, *, by_alias: bool, exclude_none: bool) -> str:
        """The resource as JSON text, as `pydantic.BaseModel.model_dump_json` gives it."""
        ...


Resource = bytes | str | Mapping[str, Any] | ResourceModel


@lru_cache(maxsize=256)
def _type(name: str) -> str | None:
    """The name of a resource type, as one object for all resources of the type; None if it is malformed."""
    return None if _TYPE.fullmatch(name) is None else name


@lru_cache(maxsize=1)  # a transaction writes many resources at one instant
def _rendered(instant: Instant) -> bytes:
    return render(instant, Precision.MICROSECONDS).encode()


def canonical(resource: Resource, *, resource_id: str | None = None) -> Canonical:
    """The canonical form of a resource.

    Args:
        resource: JSON text, parsed JSON, or a pydantic model. A float from `json.loads` has already lost its last digits; use
            `parse_float=Decimal` to keep them.
        resource_id: replaces the id in the resource.

    Raises:
        TypeError: it is none of these, such as None.
        ValueError: the text is not one JSON object in UTF-8; an object has a duplicate name; a lone surrogate; nesting deeper
            than `DEPTH`; `resourceType` or `id` is missing or malformed, or `meta` is not an object. The message names the
            part, never a value.
    """
    return canonical_and_content(resource, resource_id=resource_id)[0]


def canonical_and_content(
    resource: Resource, *, resource_id: str | None = None, fast: bool = True
) -> tuple[Canonical, Mapping[str, Any]]:
    """As `canonical`, with the parsed resource, in which references can be found. Numbers in it are placeholders.

    Args:
        resource: as in `canonical`.
        resource_id: as in `canonical`.
        fast: use msgspec if it is installed; it takes a fifth of the time for text that has the canonical form already, and half
            of it for parsed JSON.
    """
    if not isinstance(resource, (bytes, str)):
        if isinstance(resource, Mapping):
            return _mapped(resource, resource_id, fast=fast) or _form(*_checked(resource), resource_id)
        if not hasattr(resource, "model_dump_json"):
            raise TypeError(f"a {type(resource).__name__} is no resource: give a dict, JSON text or a pydantic model")
        resource = resource.model_dump_json(by_alias=True, exclude_none=True)
    compact = _compact(resource) if fast else None
    return _form(*_checked(resource), resource_id) if compact is None else _form(*compact, resource_id)


def _form(content: dict[str, Any], encode: _Encode, text: bytes | None, resource_id: str | None) -> _Formed:
    type_, meta = content.get("resourceType"), content.get("meta", {})
    id_ = content.get("id") if resource_id is None else resource_id
    type_ = _type(type_) if isinstance(type_, str) else None
    if type_ is None:
        raise ValueError("resourceType: must be the name of a resource type")
    if not isinstance(id_, str) or _ID.fullmatch(id_) is None:
        raise ValueError("id: must be 1 to 64 of A-Z, a-z, 0-9, '-' and '.'")
    if not isinstance(meta, dict):
        raise ValueError("meta: must be an object")  # noqa: TRY004 - it is the text that is wrong, not the argument
    head = f'{{"resourceType":"{type_}","id":"{id_}"'.encode()
    rest = None
    if text is not None and text.startswith(head):  # the usual case: what follows is not encoded again
        begin = len(head)
        if "meta" not in content:
            rest = text[begin:-1]
        elif text.startswith(_META, begin):
            rest = text[begin + _BEFORE_META + len(encode(meta)) : -1]
    if rest is None:
        rest = _members(content, _FIRST, encode)
    content["id"] = id_
    return Canonical(type_, id_, head + _META, b"".join((_members(meta, _OURS, encode), b"}", rest, b"}"))), content


def _mapped(resource: Mapping[str, Any], resource_id: str | None, *, fast: bool) -> _Formed | None:
    """The form of parsed JSON that can be encoded as it is, without being parsed again; None for any other."""
    content = dict(resource)
    if not _plain(content, DEPTH):
        return None
    codec = _msgspec() if fast else None
    try:
        return _form(content, _encoded_plain if codec is None else codec[1], None, resource_id)
    except (ValueError, OverflowError):  # half of a surrogate pair, or a fault that the slow way words
        return None


def _plain(container: dict[str, Any] | list[Any], depth: int) -> bool:
    """Whether all values are of JSON's own types, with names that are text, and nested at most `depth` deep.

    Also whether each number is finite and is written alike with and without msgspec. Names that are no text may become the same
    text, which would then stand twice in one object.
    """
    if not depth:
        return False
    values: Iterable[Any] = container
    if isinstance(container, dict):
        for name in container:
            if type(name) is not str:
                return False
        values = container.values()
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict or kind is list:
            if not _plain(value, depth - 1):
                return False
        elif kind not in _LEAVES and not (kind in _NUMBERS and _written_alike(value)):
            return False
    return True


def _written_alike(number: float | Decimal) -> bool:
    """Whether a number is finite, and if it is a float, is written without an exponent, of which encoders have several forms."""
    if isinstance(number, Decimal):
        return number.is_finite()
    return _SMALL <= abs(number) < _LARGE or number == 0


def _compact(resource: bytes | str) -> _Parsed | None:
    """The content of a text that msgspec encodes to the same bytes again; None for any other text.

    The same bytes prove that no name is duplicated, and that there is no white space and no escape that JSON does not require.
    """
    codec = _msgspec()
    if codec is None:
        return None
    decode, encode = codec
    try:
        text = resource if isinstance(resource, bytes) else resource.encode()
        if deeper_than(text, DEPTH):
            return None
        text = text.rstrip(b"\n")
        content = decode(text)
        same = isinstance(content, dict) and encode(content) == text
    except (ValueError, OverflowError):
        return None
    return (content, encode, text) if same else None


@cache
def _msgspec() -> tuple[Callable[[bytes], Any], _Encode] | None:
    """The decoder and encoder of msgspec, with which floats keep their digits; None if it is not installed."""
    try:
        import msgspec  # noqa: PLC0415 - an optional extra
    except ImportError:
        return None
    return msgspec.json.Decoder(float_hook=msgspec.Raw).decode, msgspec.json.Encoder(decimal_format="number").encode


def _encoded_plain(content: Mapping[str, Any]) -> bytes:
    """JSON of content that is `_plain`.

    Raises:
        ValueError: a text has half of a surrogate pair.
    """
    text = _encode_plain(content)
    if _MARK in text:
        _refuse_half_pairs(_encode_without_decimals(content))  # else a text could pass for a decimal
    return _unmarked(text).encode()


def _checked(resource: bytes | str | Mapping[str, Any]) -> _Parsed:
    """The content of any sound resource; numbers are marked text."""
    author = _text(resource)
    content = _parsed(author)
    _refuse_duplicates(author, content)
    return content, _encoded, None


def _encoded(content: Mapping[str, Any]) -> bytes:
    return _unmarked(_encode(content)).encode()


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
    raise ValueError(f"a {type(value).__name__} is no JSON value: write it as text")


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


def _refuse_duplicates(author: str, content: dict[str, Any]) -> None:
    """Refuse an object with a duplicate name.

    The parser drops one of two duplicates, so the re-encoded text is shorter than the author's. White space in the author's text
    has the same effect. Only if the text became shorter is it parsed again with a check of each object.
    """
    if len(_unmarked(_encode(content))) < len(author.rstrip("\n")):
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


def _members(content: Mapping[str, Any], without: tuple[str, ...], encode: _Encode) -> bytes:
    """The other members as JSON, without the braces, with a leading comma."""
    rest = dict(content)
    for name in without:
        rest.pop(name, None)
    return b"," + encode(rest)[1:-1] if rest else b""


_encode_plain = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, separators=(",", ":"), default=lambda decimal: f"{_MARK}{decimal}"
).encode
_encode_without_decimals = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=lambda _decimal: 0).encode
_decode = json.JSONDecoder(parse_float=_mark, parse_int=_mark, parse_constant=_refuse_constant).decode
_decode_strictly = json.JSONDecoder(object_pairs_hook=_object, parse_int=str).decode
