"""Strings as PostgreSQL keeps them, and digests for indexes.

A `text` column holds any character but U+0000, so strings with one are written with the control character U+0010 (data link
escape) and a digit. Strings without these two characters, which are practically all, are written as they are.
"""

import hashlib
import json

__all__ = ["digest", "from_stored", "stored"]

_ESCAPE, _NULL = "\x10", "\x00"
_ESCAPED_ESCAPE, _ESCAPED_NULL = _ESCAPE + "1", _ESCAPE + "0"


def stored(value: object) -> object:
    """A value as a column takes it."""
    if isinstance(value, str) and (_NULL in value or _ESCAPE in value):
        return value.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_NULL, _ESCAPED_NULL)
    return value


def from_stored(value: object) -> object:
    """The value that `stored` was given."""
    if isinstance(value, str) and _ESCAPE in value:
        return value.replace(_ESCAPED_NULL, _NULL).replace(_ESCAPED_ESCAPE, _ESCAPE)
    return value


def digest(*texts: str) -> bytes:
    """The SHA-256 that stands for these texts in an index, whose rows hold 2,700 bytes at most."""
    return hashlib.sha256(json.dumps(texts).encode()).digest()
