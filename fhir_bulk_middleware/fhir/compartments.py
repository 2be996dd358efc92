"""The compartments of a resource: by HL7's CompartmentDefinitions, and by the search parameter `patient` where they forgot it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.expression import Walk, compile_path, first_key
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.version import FhirVersion

_FORGOTTEN_IN = "Patient"  # the kind whose definitions forgot types

_Plan = tuple[tuple[str, Walk, frozenset[str]], ...]


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
        for first, walk, wanted in plan:
            for node in walk(resource) if first in resource else ():
                text = node.get("reference") if type(node) is dict or isinstance(node, Mapping) else None
                reference = self.parse(text) if isinstance(text, str) else None
                if reference is not None and reference.type in wanted:
                    found.add(str(reference))
        own = resource.get("id")
        if type_ in kinds and isinstance(own, str):
            found.add(f"{type_}/{own}")
        return frozenset(found)

    def _plan(self, type_: str, kinds: Sequence[str]) -> _Plan:
        """The paths of a type's references, each once, with the compartment kinds that the path counts for."""
        wanted: dict[str, set[str]] = {}
        for kind in kinds:
            for path in self.paths(kind).get(type_, ()):
                wanted.setdefault(path, set()).add(kind)
        return tuple((first_key(path), compile_path(path), frozenset(types)) for path, types in wanted.items())
