"""Evaluates concrete JSON paths on parsed resources.

The definition tables have such paths: JSON keys joined by dots (`component.valueQuantity`), each with optional filters.
`telecom.where(system='phone')` keeps elements with that string at that (dotted) path, `subject.where(resolve() is Patient)` keeps
references to that type. A path goes through all items of an array. The generator of the tables resolves casts, choices and
unions, so that evaluation needs no schema.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

Resource = Mapping[str, Any]
Test = Callable[[Any], bool]
"""Whether an element at the end of a path matches."""
Walk = Callable[[Resource], list[Any]]
"""From a resource (or a part of one) to all values at the path, without nulls, in document order."""

_Step = Callable[[list[Any], Resource], list[Any]]

_PART = re.compile(
    r"where\(resolve\(\) is (?P<type>\w+)\)|where\((?P<path>[\w.]+)='(?P<value>[^']*)'\)|(?P<key>[A-Za-z]\w*)", re.ASCII
)
_KEY = re.compile(r"[A-Za-z]\w*", re.ASCII)
_TARGET = re.compile(rf"(?:.*/)?([A-Z][A-Za-z]*)/{RESOURCE_ID_PATTERN}(?:/_history/{RESOURCE_ID_PATTERN})?", re.ASCII)


@lru_cache(maxsize=4096)
def compile_path(path: str) -> Walk:
    """Compile a path; the empty path gives the resource itself.

    Raises:
        ValueError: If the path is malformed.
    """
    if _KEY.fullmatch(path):  # most paths; the same as one step, and faster
        return lambda resource: members(resource, path)
    steps = _steps(path)

    def walk(resource: Resource) -> list[Any]:
        found: list[Any] = [resource]
        for step in steps:
            found = step(found, resource)
            if not found:
                break
        return found

    return walk


def first_key(path: str) -> str:
    """The member of a resource with which a path begins; a resource without it has nothing at the path.

    Raises:
        ValueError: If the path begins with none.
    """
    part = _PART.match(path)
    if part is None or part["key"] is None:
        raise ValueError(f"malformed path {path!r}")
    return part["key"]


def root_keys(path: str) -> frozenset[str]:
    """The members of a resource that a path reads: its first one, and `contained` if it asks for the type of a reference.

    Raises:
        ValueError: If the path begins with none.
    """
    return frozenset({first_key(path), "contained"} if "resolve()" in path else {first_key(path)})


def members(node: Any, key: str) -> list[Any]:
    """The values under a key of an element, without nulls; empty if there is no such key or the node is not an element."""
    value = node.get(key) if type(node) is dict or isinstance(node, Mapping) else None  # the first is much faster
    if isinstance(value, list):
        return [item for item in value if item is not None]
    return [] if value is None else [value]


def _steps(path: str) -> list[_Step]:
    steps, position = [], 0
    while path and position <= len(path):
        part = _PART.match(path, position)
        if part is None or path[part.end() : part.end() + 1] not in {"", "."}:
            raise ValueError(f"malformed path {path!r}")
        steps.append(_step(part))
        position = part.end() + 1
    return steps


def _step(part: re.Match[str]) -> _Step:
    if part["type"]:
        return _references_to(part["type"])
    if part["path"]:
        return _having(part["path"], part["value"])
    return _member(part["key"])


def _member(key: str) -> _Step:
    def step(nodes: list[Any], _root: Resource) -> list[Any]:
        # `members` inlined: this is the innermost loop of each write to a store
        found: list[Any] = []
        for node in nodes:
            value = node.get(key) if type(node) is dict or isinstance(node, Mapping) else None
            if isinstance(value, list):
                found += [item for item in value if item is not None]
            elif value is not None:
                found.append(value)
        return found

    return step


def _having(path: str, value: str) -> _Step:
    walk = compile_path(path)

    def step(nodes: list[Any], _root: Resource) -> list[Any]:
        return [node for node in nodes if value in walk(node)]

    return step


def _references_to(type_: str) -> _Step:
    def step(nodes: list[Any], root: Resource) -> list[Any]:
        return [node for node in nodes if isinstance(node, Mapping) and _target_type(node, root) == type_]

    return step


def _target_type(reference: Resource, root: Resource) -> str | None:
    """The type of a reference's target as stated in the resource: by its text, a contained resource, or `Reference.type`."""
    text = reference.get("reference")
    if isinstance(text, str):
        if text.startswith("#"):
            inside = (inner for inner in members(root, "contained") if isinstance(inner, Mapping))
            return next((inner.get("resourceType") for inner in inside if inner.get("id") == text[1:]), None)
        match = _TARGET.fullmatch(text)
        if match is not None:
            return match[1]
    return reference.get("type")
