"""One release's table: everything that we keep of an unpacked package, and how it is written."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fhir_bulk_middleware.fhir.version import FhirVersion

from .compartments import tabulate_compartments, tabulate_forgotten
from .lowering import Element, read_elements
from .parameters import Specification, Table, read_systems, tabulate_parameters
from .references import tabulate_references

_CANONICAL = "http://hl7.org/fhir"
_KINDS = ("CompartmentDefinition", "SearchParameter", "StructureDefinition", "ValueSet")


def table(folder: Path, version: FhirVersion) -> Table:
    """Everything that we keep of one release.

    Raises:
        ValueError: If the folder holds another release than the one asked for, or is not under CC0-1.0.
    """
    folder = folder / "package" if (folder / "package").is_dir() else folder
    package = json.loads((folder / "package.json").read_bytes())
    if package["fhirVersions"] != [version] or package["license"] != "CC0-1.0":
        raise ValueError(f"{folder} is not the CC0-1.0 package of FHIR {version}")
    sources = {kind: _read(folder, kind) for kind in _KINDS}
    definitions = [definition for definition in sources["StructureDefinition"].values() if _is_base(definition)]
    schema = {definition["type"]: read_elements(definition) for definition in definitions}
    types = sorted(d["type"] for d in definitions if d["kind"] == "resource" and not d["abstract"])
    by_url = {source["url"]: source for source in sources["SearchParameter"].values()}
    specification = Specification(by_url, schema, read_systems(sources["ValueSet"].values()))
    parameters = tabulate_parameters(specification, types)
    compartments = tabulate_compartments(sources["CompartmentDefinition"].values(), parameters)
    return {
        "provenance": _provenance(folder, package, sources),
        "fhirVersion": str(version),
        "elements": {type_: _root_elements(type_, schema[type_]) for type_ in types},
        "parameters": parameters,
        "compartments": compartments,
        "forgotten": tabulate_forgotten(compartments["Patient"], parameters),
        "references": tabulate_references(schema, types),
    }


def write(content: Table, path: Path) -> None:
    """Write a table so that equal tables are equal bytes: sorted keys, no spaces, no time stamp, no file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _read(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The HL7-canonical definitions of one kind by file name, without the specification's own `example` ones."""
    found = {}
    for path in sorted(folder.glob(f"{kind}-*.json")):
        definition = json.loads(path.read_bytes())
        if definition["url"].startswith(f"{_CANONICAL}/{kind}/") and not definition["id"].startswith("example"):
            found[path.name] = definition
    return found


def _is_base(definition: Mapping[str, Any]) -> bool:
    """Whether this is a type of FHIR itself: neither a profile of one nor a logical model."""
    return definition.get("derivation") != "constraint" and definition["kind"] != "logical"


def _provenance(folder: Path, package: Mapping[str, Any], sources: Mapping[str, Iterable[str]]) -> Table:
    """Where the table comes from. A kind's sha256 is that of its files' `sha256sum` listing, by name."""
    return {
        "package": package["name"],
        "version": package["version"],
        "licence": package["license"],
        "canonical": _CANONICAL,
        "sources": {kind: _digest(folder, sorted(names)) for kind, names in sources.items()},
    }


def _digest(folder: Path, names: Sequence[str]) -> Table:
    listing = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return {"files": len(names), "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _root_elements(type_: str, elements: Mapping[str, Element]) -> Table:
    """Root elements by name: minimum, whether it is a choice, and the types that may stand there."""
    prefix = f"{type_}."
    return {
        path.removeprefix(prefix): [element.minimum, element.choice, list(element.types)]
        for path, element in elements.items()
        if path.startswith(prefix) and "." not in path.removeprefix(prefix)
    }
