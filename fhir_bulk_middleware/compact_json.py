"""JSON without blanks between tokens, as in all documents, lines and records that this package writes."""

import json

__all__ = ["compact_json"]

_unicode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ascii = json.JSONEncoder(separators=(",", ":")).encode


def compact_json(value: object, *, ascii_only: bool = False) -> str:
    """`value` as JSON text on one line, without blanks between its tokens.

    Args:
        value: dicts, lists, strings, numbers, booleans and None.
        ascii_only: escape every character that is not ASCII.

    Raises:
        TypeError: JSON has no form for `value`.
    """
    return _ascii(value) if ascii_only else _unicode(value)
