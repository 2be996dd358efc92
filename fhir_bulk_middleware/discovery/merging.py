"""Merges two CapabilityStatements; the host's members stay unchanged."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

__all__ = ["merged"]

Same = Callable[[Mapping[str, Any]], object]
"""Returns the identity of a list entry; entries with equal identities are merged."""


def merged(theirs: Mapping[str, Any], ours: Mapping[str, Any], everywhere: Mapping[str, Any]) -> dict[str, Any]:
    """The host's CapabilityStatement with ours merged into it. The host's members stay, before ours; merging is idempotent.

    Args:
        theirs: the host's statement.
        ours: our statement, with one entry in `rest`.
        everywhere: members to add to each resource type of the host.

    Raises:
        ValueError: `theirs` is not a CapabilityStatement, or a list in it is not a list.
    """
    if theirs.get("resourceType") != "CapabilityStatement":
        raise ValueError("not a CapabilityStatement")
    statement = deepcopy(dict(theirs))
    canonicals = _list(statement, "instantiates")
    canonicals += [canonical for canonical in ours["instantiates"] if canonical not in canonicals]
    _add_rest(_server(statement), deepcopy(ours["rest"][0]), everywhere)
    return statement


def _add_rest(theirs: dict[str, Any], ours: Mapping[str, Any], everywhere: Mapping[str, Any]) -> None:
    if ours["documentation"] not in theirs.get("documentation", ""):
        theirs["documentation"] = "\n\n".join(filter(None, (theirs.get("documentation"), ours["documentation"])))
    if "security" in ours:
        _add_security(theirs.setdefault("security", {}), ours["security"])
    if "resource" in theirs or "resource" in ours:
        _add_resources(_list(theirs, "resource"), ours.get("resource", ()), everywhere)
    if "operation" in ours:
        _add_entries(_list(theirs, "operation"), ours["operation"], _definition)


def _add_resources(resources: list[Any], ours: Iterable[Mapping[str, Any]], everywhere: Mapping[str, Any]) -> None:
    for resource in resources:
        _add_resource(resource, everywhere)
    by_type = {resource.get("type"): resource for resource in resources}
    for resource in ours:
        if resource["type"] in by_type:
            _add_resource(by_type[resource["type"]], resource)
        else:
            resources.append(dict(resource))


def _add_resource(theirs: dict[str, Any], ours: Mapping[str, Any]) -> None:
    for name, same in _RESOURCE_LISTS.items():
        if name in ours:
            _add_entries(_list(theirs, name), deepcopy(ours[name]), same)
    for name in ours.keys() - _RESOURCE_LISTS.keys():
        theirs.setdefault(name, ours[name])


def _add_security(theirs: dict[str, Any], ours: Mapping[str, Any]) -> None:
    _add_entries(_list(theirs, "service"), ours["service"], _codes)
    if "extension" in ours:
        _add_entries(_list(theirs, "extension"), ours["extension"], lambda extension: extension.get("url"))


def _add_entries(theirs: list[Any], ours: Iterable[Mapping[str, Any]], same: Same) -> None:
    known = [same(entry) for entry in theirs]
    theirs += [entry for entry in ours if same(entry) not in known]


def _definition(operation: Mapping[str, Any]) -> object:
    """The canonical URL of an operation without its version: equal ones are the same operation (CS-04)."""
    return str(operation.get("definition", "")).partition("|")[0]


def _codes(concept: Mapping[str, Any]) -> object:
    return sorted(str(coding.get("code")) for coding in concept.get("coding", ()))


_RESOURCE_LISTS: Mapping[str, Same] = {
    "interaction": lambda entry: entry.get("code"),
    "searchParam": lambda entry: entry.get("name"),
    "operation": _definition,
}


def _server(statement: dict[str, Any]) -> dict[str, Any]:
    """The entry of `rest` for the server; added if it is missing."""
    several = _list(statement, "rest")
    for rest in several:
        if rest.get("mode") == "server":
            found: dict[str, Any] = rest
            return found
    several.append({"mode": "server"})
    added: dict[str, Any] = several[-1]
    return added


def _list(container: dict[str, Any], name: str) -> list[Any]:
    value = container.setdefault(name, [])
    if not isinstance(value, list) or not all(isinstance(entry, str if name == "instantiates" else dict) for entry in value):
        raise ValueError(f"{name} is not the list that it should be")
    return value
