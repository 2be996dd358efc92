"""Checks the nesting depth of JSON before it is parsed, since the limits of parsers and Python releases differ."""

import re

__all__ = ["deeper_than"]

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL)


def deeper_than(json_text: str, depth: int) -> bool:
    """Whether objects and arrays are nested deeper than `depth`, in time linear in the text.

    For text that is not JSON the result is arbitrary; the parser that runs next refuses it.
    """
    if json_text.count("{") + json_text.count("[") <= depth:
        return False
    level = 0
    for match in _TOKEN.finditer(json_text):
        mark = match[0]
        if mark in {"{", "["}:
            level += 1
            if level > depth:
                return True
        elif mark in {"}", "]"}:
            level -= 1
    return False
