"""The compartments of a resource: by HL7's CompartmentDefinitions, and by the search parameter `patient` where they forgot it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from typing import Any

from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.reference import Reference, References
from fhir_bulk_middleware.fhir.version import FhirVersion

_FORGOTTEN_IN = "Patient"  # the kind whose definitions forgot types

_Visit = Callable[[Any, set[str]], None]
"""Adds the compartments that the references in an element, or in a list of them, put a resource into."""

_Plan = tuple[tuple[str, _Visit], ...]
"""The members of an element in which such references are."""

_Find = Callable[[str], tuple[str, str] | None]
"""The type of the resource that the text of a reference names, and its relative reference; None as in `References.parse`."""


class CompartmentMembership:
    """Compartment membership for one release and one server.

    The generated tables have the paths of each search parameter that a CompartmentDefinition names. A resource is in the
    compartment `Patient/1` if one of those paths has a reference to `Patient/1` of this server. A resource of the
    compartment's own type is also in its own compartment. References in contained resources do not count.

    Some types have a search parameter `patient` and are not in HL7's Patient compartment, such as R4's Device and Task. Their
    resources lie in the compartment of that patient (law 40).

    Args:
        version: The release that the resources are written in.
        base_urls: The base URLs under which absolute references are this server's own.

    Attributes:
        parse: Parses a literal reference with these base URLs.
    """

    def __init__(self, version: FhirVersion, base_urls: Iterable[str] = ()) -> None:
        self._definitions = definitions(version)
        self.parse = References(base_urls).parse
        self._find = lru_cache(maxsize=8_192)(partial(_found, self.parse))  # the resources of a patient come one after the other
        self._last: frozenset[str] = frozenset()
        self._plans: dict[tuple[str, tuple[str, ...]], _Plan] = {}

    @property
    def kinds(self) -> frozenset[str]:
        """The resource types that have a compartment, such as `Patient`."""
        return self._definitions.compartment_kinds

    def types(self, kind: str) -> frozenset[str]:
        """The resource types that can be in a compartment of this kind, including the kind itself.

        Raises:
            KeyError: If there is no such compartment.
        """
        return frozenset(self.paths(kind)) | {kind}

    def paths(self, kind: str) -> Mapping[str, tuple[str, ...]]:
        """The reference paths that put a resource into a compartment of this kind, by resource type.

        Raises:
            KeyError: If there is no such compartment.
        """
        defined = self._definitions.compartment_paths(kind)
        return {**defined, **self._definitions.forgotten_paths} if kind == _FORGOTTEN_IN else defined

    def of(self, resource: Mapping[str, Any], kinds: Sequence[str] = ("Patient",)) -> frozenset[str]:
        """The resource's compartments of these kinds, as relative references such as `Patient/123`.

        A resource without a type, or of a type that the release does not have, is in none.

        Raises:
            KeyError: If there is no such compartment.
        """
        type_ = resource.get("resourceType", "")
        key = (type_, tuple(kinds))
        plan = self._plans.get(key)
        if plan is None:
            if type_ not in self._definitions.resource_types:
                return frozenset()
            plan = self._plans[key] = self._plan(type_, kinds)
        found: set[str] = set()
        for member, visit in plan:
            if (value := resource.get(member)) is not None:
                visit(value, found)
        own = resource.get("id")
        if type_ in kinds and isinstance(own, str):
            found.add(f"{type_}/{own}")
        last = self._last
        if found != last:
            last = self._last = frozenset(found)
        return last  # one object for the resources of a patient, which come one after the other

    def _plan(self, type_: str, kinds: Sequence[str]) -> _Plan:
        """The paths of a type's references, each once, with the compartment kinds that the path counts for."""
        wanted: dict[str, set[str]] = {}
        for kind in kinds:
            for path in self.paths(kind).get(type_, ()):
                wanted.setdefault(path, set()).add(kind)
        return _plan(wanted, self._find)


def _plan(paths: Mapping[str, AbstractSet[str]], find: _Find) -> _Plan:
    """The plan of paths, which are names of members joined by dots; steps that several paths share are made once."""
    by_first: dict[str, dict[str, AbstractSet[str]]] = {}
    for path, kinds in paths.items():
        first, _, rest = path.partition(".")
        by_first.setdefault(first, {})[rest] = kinds
    return tuple(
        (first, _visit(rests.get("", frozenset()), _plan({rest: kinds for rest, kinds in rests.items() if rest}, find), find))
        for first, rests in by_first.items()
    )


def _visit(kinds: AbstractSet[str], below: _Plan, find: _Find) -> _Visit:
    def visit(value: Any, found: set[str]) -> None:
        for node in value if isinstance(value, list) else (value,):
            if type(node) is not dict and not isinstance(node, Mapping):  # the first is much faster
                continue
            if kinds and isinstance(text := node.get("reference"), str):
                named = find(text)
                if named is not None and named[0] in kinds:
                    found.add(named[1])
            for member, inner in below:
                if (inside := node.get(member)) is not None:
                    inner(inside, found)

    return visit


def _found(parse: Callable[[str], Reference | None], text: str) -> tuple[str, str] | None:
    reference = parse(text)
    return None if reference is None else (reference.type, str(reference))
