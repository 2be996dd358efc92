"""Strict decoding of base64url and JSON objects for JOSE.

The standard library accepts several encodings of one token; here each value has exactly one.
"""

import base64
import json
import re
from typing import Any, NoReturn

from fhir_bulk_middleware.fhir.nesting import deeper_than

__all__ = ["from_base64url", "json_object", "to_base64url"]

_DEPTH = 32
"""Maximum nesting of headers, claims and key sets."""

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


def from_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2).

    Raises:
        ValueError: a character outside the alphabet, an impossible length, or non-zero trailing bits.
    """
    if _ALPHABET.fullmatch(text) is None:
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:
        raise ValueError("base64url with stray bits")
    return data


def to_base64url(data: bytes) -> str:
    """Encode as base64url without padding; the inverse of `from_base64url`."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: not UTF-8, not a JSON object, nested too deep, a duplicate member, or a number outside JSON such as NaN.
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
