"""HL7's definitions of one FHIR release, read from a generated table."""

import gzip
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from types import MappingProxyType
from typing import Any

from fhir_bulk_middleware.fhir.version import FhirVersion


@dataclass(frozen=True, slots=True)
class TypedPath:
    """A concrete JSON path in the syntax of `expression`, and the FHIR data type at it.

    `system` is the code system of a `code` whose required value set has only one; the resource itself does not name it.
    """

    path: str
    type: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a composite parameter; its paths are relative to the root."""

    type: str
    paths: tuple[TypedPath, ...]


@dataclass(frozen=True, slots=True)
class CompositeRoot:
    """A path of a composite parameter; its components must match at the same element."""

    path: str
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """One search parameter of one resource type.

    Attributes:
        name: Its name in a query.
        type: `token`, `string`, `date`, `reference`, `quantity`, `number`, `uri`, `composite` or `special`.
        paths: The paths of its values; empty for an unsupported parameter and for a composite.
        expression: The branches of HL7's FHIRPath expression that apply to this type.
        target: The types that a reference may have; `Resource` stands for all.
        roots: For a composite, its roots with their components.
        first: Whether only the first value found counts.
        holds: Whether the parameter is true if an element has a value other than `false`, and false otherwise.
        unsupported: Why it cannot be applied exactly, or None.
    """

    name: str
    type: str
    paths: tuple[TypedPath, ...]
    expression: str | None = None
    target: frozenset[str] = frozenset()
    roots: tuple[CompositeRoot, ...] = ()
    first: bool = False
    holds: bool = False
    unsupported: str | None = None


@dataclass(frozen=True, slots=True)
class RootElement:
    """A root element of a resource type; `types` has more than one entry only where `choice` holds."""

    name: str
    minimum: int
    choice: bool
    types: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Its JSON keys: for `value` of Observation these are `valueQuantity`, `valueString` and so on."""
        if not self.choice:
            return (self.name,)
        return tuple(self.name + type_[0].upper() + type_[1:] for type_ in self.types)


class Definitions:
    """The definitions of one release. The table is immutable; values are made from its rows on first use."""

    def __init__(self, version: FhirVersion, table: Mapping[str, Any]) -> None:
        self.version = version
        self._table = table
        self._parameters: dict[str, Mapping[str, SearchParameter]] = {}
        self._elements: dict[str, Mapping[str, RootElement]] = {}
        self._targets: dict[str, frozenset[str]] = {}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Package, version, licence and digests of the HL7 package that the table was generated from."""
        return MappingProxyType(self._table["provenance"])

    @cached_property
    def resource_types(self) -> frozenset[str]:
        """Every concrete resource type of the release."""
        return frozenset(self._table["elements"])

    @cached_property
    def compartment_kinds(self) -> frozenset[str]:
        """The resource types that have a compartment."""
        return frozenset(self._table["compartments"])

    def compartment_paths(self, kind: str) -> Mapping[str, tuple[str, ...]]:
        """The reference paths that put a resource into a compartment of this kind, by resource type.

        Raises:
            KeyError: If there is no such compartment.
        """
        return {type_: tuple(paths) for type_, paths in self._table["compartments"][kind].items()}

    @cached_property
    def forgotten_paths(self) -> Mapping[str, tuple[str, ...]]:
        """The paths of the search parameter `patient`, by resource type, for types that HL7's Patient compartment lacks.

        Only of reference parameters; in R4 these are Contract, Device, GuidanceResponse and Task (law 40).
        """
        return MappingProxyType({type_: tuple(paths) for type_, paths in self._table["forgotten"].items()})

    def reference_targets(self, type_: str) -> frozenset[str]:
        """The resource types that the reference elements of a type can name, at any depth and within its data types.

        A reference to any type adds nothing, and neither does an extension or a contained resource (law 40).

        Raises:
            KeyError: If the release has no such type.
        """
        found = self._targets.get(type_)
        if found is None:
            found = self._targets[type_] = frozenset(self._table["references"][type_])
        return found

    def elements(self, type_: str) -> Mapping[str, RootElement]:
        """The root elements of a resource type by name; choices without `[x]`.

        Raises:
            KeyError: If the release has no such type.
        """
        found = self._elements.get(type_)
        if found is None:
            rows = self._table["elements"][type_].items()
            found = {name: RootElement(name, minimum, choice, tuple(types)) for name, (minimum, choice, types) in rows}
            self._elements[type_] = MappingProxyType(found)
        return found

    def mandatory(self, type_: str) -> frozenset[str]:
        """The names of the mandatory root elements (minimum of 1 or more, EL-02)."""
        return frozenset(name for name, element in self.elements(type_).items() if element.minimum > 0)

    def parameters(self, type_: str) -> Mapping[str, SearchParameter]:
        """The search parameters of a resource type by name, including those that all types have.

        Raises:
            KeyError: If the release has no such type.
        """
        found = self._parameters.get(type_)
        if found is None:
            if type_ not in self.resource_types:
                raise KeyError(type_)
            shared, own = self._table["parameters"]["Resource"], self._table["parameters"].get(type_, {})
            found = MappingProxyType({name: _parameter(name, row) for name, row in {**shared, **own}.items()})
            self._parameters[type_] = found
        return found


_loaded: dict[FhirVersion, Definitions] = {}
_loading = threading.Lock()


def definitions(version: FhirVersion) -> Definitions:
    """The definitions of a release. The first call reads them (about 10 ms); later ones return the same object, in any thread."""
    found = _loaded.get(version)
    if found is None:
        with _loading:
            found = _loaded.get(version)
            if found is None:
                found = _loaded[version] = Definitions(version, _read(version))
    return found


def _read(version: FhirVersion) -> Mapping[str, Any]:
    file = resources.files(__package__).joinpath("data", f"{version.name.lower()}.json.gz")
    table: Mapping[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    return table


def _parameter(name: str, row: Mapping[str, Any]) -> SearchParameter:
    return SearchParameter(
        name=name,
        type=row["type"],
        paths=_paths(row),
        expression=row.get("expression"),
        target=frozenset(row.get("target", ())),
        roots=tuple(CompositeRoot(root["path"], tuple(map(_component, root["components"]))) for root in row.get("roots", ())),
        first=row.get("first", False),
        holds=row.get("holds", False),
        unsupported=row.get("unsupported"),
    )


def _component(row: Mapping[str, Any]) -> Component:
    return Component(row["type"], _paths(row))


def _paths(row: Mapping[str, Any]) -> tuple[TypedPath, ...]:
    return tuple(TypedPath(*path) for path in row["paths"])
