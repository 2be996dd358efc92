"""The resource types that the reference elements of each resource type can name."""

from collections.abc import Iterable, Mapping

from .lowering import Element, LoweringError, Schema

_ANY = "Resource"
_UNCOUNTED = frozenset({"Extension", _ANY})
"""Types of elements whose content is not looked into: extensions and contained resources may hold a reference to any type."""


def tabulate_references(schema: Schema, types: Iterable[str]) -> dict[str, list[str]]:
    """By resource type, the target types of its reference elements at any depth, those of its data types included.

    A reference to any type (`Resource`, or no target profile) and extensions add nothing.

    Raises:
        LoweringError: If a target is no resource type: it must not be left out.
    """
    concrete = frozenset(types)
    table = {}
    for type_ in sorted(concrete):
        found = _targets(type_, schema) - {_ANY}
        if unknown := found - concrete:
            raise LoweringError(f"a reference of {type_} names {', '.join(sorted(unknown))}, which is no resource type")
        table[type_] = sorted(found)
    return table


def _targets(type_: str, schema: Schema) -> set[str]:
    found: set[str] = set()
    seen, waiting = {type_}, [type_]
    while waiting:
        elements: Mapping[str, Element] = schema.get(waiting.pop(), {})
        for element in elements.values():
            found.update(element.targets)
            following = set(element.types) - seen - _UNCOUNTED
            seen |= following
            waiting += following
    return found
