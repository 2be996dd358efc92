"""Marks types and search parameters that exports do not support (CS-07)."""

from collections.abc import Mapping
from typing import Any

__all__ = ["mark"]

_EXTENSION = "http://hl7.org/fhir/uv/bulkdata/Extension/operation-not-supported"
"""The URL in the IG's text; the published artifact may have another."""


def mark(resource: dict[str, Any], usable: frozenset[str] | None, canonical: str) -> None:
    """Mark an entry of `rest.resource`: the whole entry, or its search parameters that `_typeFilter` does not support.

    Args:
        resource: the entry; extensions are added to it, once.
        usable: names of the supported parameters; None if the type is not exported.
        canonical: URL of the unsupported feature.
    """
    if usable is None:
        _add(resource, canonical)
        return
    for parameter in resource.get("searchParam", ()):
        if parameter.get("name") not in usable:
            _add(parameter, canonical)


def _add(entry: dict[str, Any], canonical: str) -> None:
    extensions = entry.setdefault("extension", [])
    if not any(_says(extension, canonical) for extension in extensions):
        extensions.append({"url": _EXTENSION, "valueCanonical": canonical})


def _says(extension: Mapping[str, Any], canonical: str) -> bool:
    return extension.get("url") == _EXTENSION and extension.get("valueCanonical") == canonical
