"""What HL7 defines for one release, read from the generated table."""

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
    """A concrete JSON path, as `expression` reads it, and the FHIR data type that stands there.

    A `code` whose required value set draws from one code system has that as its `system`: the resource does not tell
    it.
    """

    path: str
    type: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a composite parameter, its paths relative to the composite's root."""

    type: str
    paths: tuple[TypedPath, ...]


@dataclass(frozen=True, slots=True)
class CompositeRoot:
    """A place whose parts are matched together."""

    path: str
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """One search parameter of one resource type.

    Attributes:
        name: Its name in a query.
        type: `token`, `string`, `date`, `reference`, `quantity`, `number`, `uri`, `composite` or `special`.
        paths: Where its values stand; none if it is `unsupported` or a composite.
        expression: HL7's own FHIRPath, only the branches that speak of this type.
        target: The types a reference may lead to; `Resource` stands for all.
        roots: Of a composite, the places and their components.
        first: Only the first value found counts.
        holds: Its one value is a boolean: a value is there and is not `false`.
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
        """The JSON keys it may stand under: `value` of Observation may be `valueQuantity`, `valueString` and more."""
        if not self.choice:
            return (self.name,)
        return tuple(self.name + type_[0].upper() + type_[1:] for type_ in self.types)


class Definitions:
    """The definitions of one release. Never changed after loading; rows become values when first asked for."""

    def __init__(self, version: FhirVersion, table: Mapping[str, Any]) -> None:
        self.version = version
        self._table = table
        self._parameters: dict[str, Mapping[str, SearchParameter]] = {}
        self._elements: dict[str, Mapping[str, RootElement]] = {}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Package, version, licence and digests of what the table was made from."""
        return MappingProxyType(self._table["provenance"])

    @cached_property
    def resource_types(self) -> frozenset[str]:
        """Every concrete resource type of the release."""
        return frozenset(self._table["elements"])

    @cached_property
    def compartment_kinds(self) -> frozenset[str]:
        """The types that have a compartment."""
        return frozenset(self._table["compartments"])

    def compartment_paths(self, kind: str) -> Mapping[str, tuple[str, ...]]:
        """By resource type, the reference paths that put it into a compartment of this kind.

        Raises:
            KeyError: If there is no such compartment.
        """
        return {type_: tuple(paths) for type_, paths in self._table["compartments"][kind].items()}

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
        """The names of the root elements that must be there (minimum of 1 or more, EL-02)."""
        return frozenset(name for name, element in self.elements(type_).items() if element.minimum > 0)

    def parameters(self, type_: str) -> Mapping[str, SearchParameter]:
        """The search parameters of a resource type by name, those of every type included.

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
    """The definitions of a release: read at the first call (some 10 ms), then the same object, in any thread."""
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
