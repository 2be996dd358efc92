"""`_elements`: reduces resources to some of their root members, whose bytes stay as they are (EL-01 to EL-03).

Numbers are not parsed, so that decimals keep their digits. Uses msgspec if it is installed, else the scanner of json, which is
several times slower and gives the same bytes.
"""

import json
from collections.abc import Callable, Collection, Iterator
from json import decoder, scanner
from typing import Any

__all__ = ["keep_elements_of"]

_FIRST = ("resourceType", "id", "meta")
_TAG = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'
_ONLY_TAG = b'"tag":[' + _TAG + b"]}"
_LAST_TAG = b"," + _ONLY_TAG
_BRACE = ord("}")
_BLANKS = " \t\n\r"
_scanner: Any = scanner  # the parts of json's parser, older than its types
_scan = _scanner.make_scanner(json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str))
_string: Any = vars(decoder)["scanstring"]

KeepElements = Callable[[bytes], tuple[bytes, int]]
"""Reduces lines to the elements that are kept. All of them end with a newline. Also returns how many resources it found in them,
which are more than lines if one has two."""


def keep_elements_of(keys: Collection[str], *, fast: bool = True) -> KeepElements:
    """A function that reduces lines to these root members, in a fixed order after the canonical beginning.

    Args:
        keys: the members to keep; `resourceType`, `id` and `meta` are always kept.
        fast: use msgspec if it is installed.
    """
    order = (*_FIRST, *sorted(frozenset(keys).difference(_FIRST)))
    return (fast and _by_msgspec(order)) or _by_scanning(order)


def _by_scanning(order: tuple[str, ...]) -> KeepElements:
    def keep_elements(lines: bytes) -> tuple[bytes, int]:
        found = [reduced(line) for line in lines[:-1].split(b"\n")]
        return b"".join(found), len(found)

    def reduced(line: bytes) -> bytes:
        found = dict(_members(line.decode()))
        found["meta"] = tagged(found.get("meta", "{}").encode()).decode()
        kept = ",".join(f'"{key}":{found[key]}' for key in order if key in found)
        return f"{{{kept}}}\n".encode()

    return keep_elements


def _by_msgspec(order: tuple[str, ...]) -> KeepElements | None:
    try:
        import msgspec  # noqa: PLC0415 - an optional extra
    except ImportError:
        return None
    names = {f"m{number}": key for number, key in enumerate(order)}  # a member may be called `class` or `for`
    kept: Any = msgspec.defstruct(
        "Kept",
        [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in names],
        rename=names,
        gc=False,
    )
    # Many lines at a time: a call for each would cost as much as its work.
    decode, encode, raw = msgspec.json.Decoder(kept).decode_lines, msgspec.json.Encoder().encode_lines, msgspec.Raw
    without = raw(b"{}")

    def keep_elements(lines: bytes) -> tuple[bytes, int]:
        found: list[Any] = decode(lines)
        for one in found:
            meta = one.m2
            one.m2 = raw(tagged(bytes(without if meta is msgspec.UNSET else meta)))
        return encode(found), len(found)

    return keep_elements


def tagged(meta: bytes) -> bytes:
    """The text of a `meta` with the tag SUBSETTED added (EL-03)."""
    if meta[-1] == _BRACE and b'"tag"' not in meta and b"\\u" not in meta:
        rest = meta[:-1].rstrip()
        return rest + (_ONLY_TAG if rest == b"{" else _LAST_TAG)
    members = dict(_members(meta.decode())) if meta.startswith(b"{") else {}
    tags = json.loads(members.get("tag", "[]"))
    if not isinstance(tags, list) or not tags:
        members["tag"] = f"[{_TAG.decode()}]"
    elif not any(isinstance(tag, dict) and tag.items() >= json.loads(_TAG).items() for tag in tags):
        members["tag"] = f"{members['tag'][:-1]},{_TAG.decode()}]"
    return ("{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in members.items()) + "}").encode()


def _members(text: str) -> Iterator[tuple[str, str]]:
    """The members of a JSON object, with the text of each value.

    Raises:
        ValueError: the text is not a JSON object.
    """
    at = _past(text, 0, "{")
    if text[at : at + 1] == "}":
        _end(text, at + 1)
        return
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"character {at}: not JSON")
        name, at = _string(text, at + 1)
        start = at = _past(text, at, ":")
        try:
            _, at = _scan(text, at)
        except StopIteration as stop:
            raise ValueError(f"character {stop.value}: not JSON") from None
        yield name, text[start:at]
        while text[at : at + 1] in _BLANKS and at < len(text):
            at += 1
        if text[at : at + 1] == "}":
            _end(text, at + 1)
            return
        at = _past(text, at, ",")


def _end(text: str, at: int) -> None:
    """Make sure that nothing stands behind the object."""
    if text[at:].strip(_BLANKS):
        raise ValueError(f"character {at}: more than one JSON value")


def _past(text: str, at: int, mark: str) -> int:
    """The position after a mark and the blanks around it."""
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    if text[at : at + 1] != mark:
        raise ValueError(f"character {at}: not JSON")
    at += 1
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at
