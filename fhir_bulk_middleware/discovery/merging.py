"""Adding to a CapabilityStatement without taking anything from it."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

__all__ = ["merged"]

Same = Callable[[Mapping[str, Any]], object]
"""By what two entries of a list are told to be the same."""


def merged(theirs: Mapping[str, Any], ours: Mapping[str, Any], everywhere: Mapping[str, Any]) -> dict[str, Any]:
    """A host's CapabilityStatement with what is ours added; whatever the host says stays, and stays first.

    Doing it again changes nothing.

    Args:
        theirs: the host's.
        ours: a CapabilityStatement of the same shape with one `rest`.
        everywhere: what is added to each resource type that the host lists.

    Raises:
        ValueError: it is no CapabilityStatement, or a list in it is none.
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
    """Two operations are the same if their definition is, whatever version of it is named (CS-04)."""
    return str(operation.get("definition", "")).partition("|")[0]


def _codes(concept: Mapping[str, Any]) -> object:
    return sorted(str(coding.get("code")) for coding in concept.get("coding", ()))


_RESOURCE_LISTS: Mapping[str, Same] = {
    "interaction": lambda entry: entry.get("code"),
    "searchParam": lambda entry: entry.get("name"),
    "operation": _definition,
}


def _server(statement: dict[str, Any]) -> dict[str, Any]:
    """The `rest` of the server; a statement without one gets one."""
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
