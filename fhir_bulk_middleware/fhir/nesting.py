"""How deep JSON is nested, counted before it is parsed: parsers differ in what they take, and so do releases of Python."""

import re

__all__ = ["deeper_than"]

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL)


def deeper_than(json_text: str, depth: int) -> bool:
    """Whether objects and arrays are nested deeper than that; linear in the text.

    Of what is no JSON it says something; the parse that follows says what is wrong.
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
