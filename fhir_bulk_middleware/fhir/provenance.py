"""The targets of a Provenance resource."""

from collections.abc import Callable, Mapping
from typing import Any

from fhir_bulk_middleware.fhir.reference import Reference

__all__ = ["targets"]


def targets(resource: Mapping[str, Any], parse: Callable[[str], Reference | None]) -> frozenset[tuple[str, str]]:
    """Type and id of each resource of this server in `Provenance.target`; empty for resources of other types.

    The version in a target is ignored.
    """
    entries = resource.get("target") if resource.get("resourceType") == "Provenance" else None
    found = set()
    for entry in entries if isinstance(entries, list) else ():
        text = entry.get("reference") if isinstance(entry, Mapping) else None
        reference = parse(text) if isinstance(text, str) else None
        if reference is not None:
            found.add((reference.type, reference.id))
    return frozenset(found)
