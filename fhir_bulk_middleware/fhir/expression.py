"""Walks concrete JSON paths through parsed resources.

A path is what the definition tables hold: JSON keys joined by dots (`component.valueQuantity`), where each may carry
filters: `telecom.where(system='phone')` keeps what has that string at that (dotted) path, `subject.where(resolve() is
Patient)` keeps references to that type. Arrays are walked through. Casts, choices and unions were settled when the
table was generated, so that nothing here depends on a schema.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fhir_bulk_middleware.identifiers import RESOURCE_ID_PATTERN

Resource = Mapping[str, Any]
Test = Callable[[Any], bool]
"""Whether what stands at the end of a walk is what was looked for."""
Walk = Callable[[Resource], list[Any]]
"""From a resource (or a part of one) to everything that stands at the path, without nulls, in document order."""

_Step = Callable[[list[Any], Resource], list[Any]]

_PART = re.compile(
    r"where\(resolve\(\) is (?P<type>\w+)\)|where\((?P<path>[\w.]+)='(?P<value>[^']*)'\)|(?P<key>[A-Za-z]\w*)", re.ASCII
)
_TARGET = re.compile(rf"(?:.*/)?([A-Z][A-Za-z]*)/{RESOURCE_ID_PATTERN}(?:/_history/{RESOURCE_ID_PATTERN})?", re.ASCII)


@lru_cache(maxsize=4096)
def compile_path(path: str) -> Walk:
    """The walk of a path; the empty path leads to the resource itself.

    Raises:
        ValueError: If the path is malformed.
    """
    steps = _steps(path)

    def walk(resource: Resource) -> list[Any]:
        found: list[Any] = [resource]
        for step in steps:
            found = step(found, resource)
            if not found:
                break
        return found

    return walk


def members(node: Any, key: str) -> list[Any]:
    """What stands under a key of an element, without nulls; nothing if it is no element or has no such key."""
    value = node.get(key) if isinstance(node, Mapping) else None
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
        # `members` written out: this is the innermost loop of every write to a store
        found: list[Any] = []
        for node in nodes:
            value = node.get(key) if isinstance(node, Mapping) else None
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
    """The type a reference leads to, as far as the resource tells: by its text, its `contained`, or its `type`."""
    text = reference.get("reference")
    if isinstance(text, str):
        if text.startswith("#"):
            inside = (inner for inner in members(root, "contained") if isinstance(inner, Mapping))
            return next((inner.get("resourceType") for inner in inside if inner.get("id") == text[1:]), None)
        match = _TARGET.fullmatch(text)
        if match is not None:
            return match[1]
    return reference.get("type")
