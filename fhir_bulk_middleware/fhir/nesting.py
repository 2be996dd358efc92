"""Checks the nesting depth of JSON before it is parsed, since the limits of parsers and Python releases differ."""

import re
from itertools import accumulate

__all__ = ["deeper_than"]

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL)
_BRACKETS = b"{}[]"
_OTHERS = bytes(set(range(256)) - {*_BRACKETS, *b'"'})
_ALIKE = bytes.maketrans(b"[]", b"{}")
_STEPS = {ord("{"): 1, ord("}"): -1}


def deeper_than(json_text: str | bytes, depth: int) -> bool:
    """Whether objects and arrays are nested deeper than `depth`, in time linear in the text.

    For text that is not JSON the result is arbitrary; the parser that runs next refuses it.
    """
    data = json_text.encode(errors="replace") if isinstance(json_text, str) else json_text
    marks = data.translate(_ALIKE, _OTHERS)
    if marks.count(b"{") <= depth:  # those in strings too
        return False
    if b"\\" in data:
        marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(_ALIKE, _OTHERS)
    brackets = _brackets(marks)
    if brackets is None:
        brackets = b"".join(match[0] for match in _TOKEN.finditer(data) if match[0] in _BRACKETS).translate(_ALIKE)
    return not _closes_within(brackets, depth) and max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth


def _closes_within(brackets: bytes, depth: int) -> bool:
    """Whether all brackets are gone after the innermost pairs were removed `depth` times; those of most resources are soon."""
    for _ in range(depth):
        if not brackets:
            return True
        before, brackets = len(brackets), brackets.replace(b"{}", b"")
        if len(brackets) == before:
            return False
    return not brackets


def _brackets(marks: bytes) -> bytes | None:
    """The braces among braces and quotes; None if a string has one in it, which costs a look at each string.

    Without escapes and all characters but brackets, a string is two neighbouring quotes. A bracket in a string keeps its quotes
    apart, and at least one stays.
    """
    brackets = marks.replace(b'""', b"")
    return None if b'"' in brackets else brackets
