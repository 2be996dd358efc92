"""The two encodings that JOSE is made of, read strictly: base64url and JSON objects.

The lenient readings of the standard library let one token be written in many ways; here each value has one spelling.
"""

import base64
import json
import re
from typing import Any, NoReturn

from fhir_bulk_middleware.fhir.nesting import deeper_than

__all__ = ["from_base64url", "json_object", "to_base64url"]

_DEPTH = 32
"""How deep headers, claims and key sets may be nested."""

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


def from_base64url(text: str) -> bytes:
    """The bytes that `text` encodes, without padding (RFC 7515, section 2).

    Raises:
        ValueError: a character of another alphabet, an impossible length, or stray bits at the end.
    """
    if _ALPHABET.fullmatch(text) is None:
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:
        raise ValueError("base64url with stray bits")
    return data


def to_base64url(data: bytes) -> str:
    """The one text that `from_base64url` reads as these bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        ValueError: no UTF-8, no JSON, no object, nested too deep, a member twice in one object, or a number that JSON has not.
    """
    text = data.decode("utf-8")
    if deeper_than(text, _DEPTH):
        raise ValueError(f"nested deeper than {_DEPTH}")
    value = json.loads(text, object_pairs_hook=_members_once, parse_constant=_no_such_number)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - of the text that was given, not of an argument's type
    return value


def _members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return members


def _no_such_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
