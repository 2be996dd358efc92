"""What a Provenance resource is about."""

from collections.abc import Callable, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.reference import Reference

__all__ = ["targets"]


def targets(resource: Mapping[str, Any], parse: Callable[[str], Reference | None]) -> frozenset[tuple[str, str]]:
    """Type and id of each resource of this server that a Provenance names as its target; of any other resource, nothing.

    A target that names a version is about the resource, as far as an export can tell.
    """
    entries = resource.get("target") if resource.get("resourceType") == "Provenance" else None
    found = set()
    for entry in entries if isinstance(entries, list) else ():
        text = entry.get("reference") if isinstance(entry, Mapping) else None
        reference = parse(text) if isinstance(text, str) else None
        if reference is not None:
            found.add((reference.type, reference.id))
    return frozenset(found)
