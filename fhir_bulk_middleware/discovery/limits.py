"""Marking what a host lists and an export cannot do (CS-07)."""

from collections.abc import Mapping
from typing import Any

__all__ = ["mark"]

_EXTENSION = "http://hl7.org/fhir/uv/bulkdata/Extension/operation-not-supported"
"""As the IG's text has it; the published artifact may be called otherwise."""


def mark(resource: dict[str, Any], usable: frozenset[str] | None, canonical: str) -> None:
    """Mark an entry of `rest.resource`: as a whole, or those of its search parameters that `_typeFilter` does not take.

    Args:
        resource: the entry; extensions are added to it, once.
        usable: names of the parameters that can be used; None if the type is not exported at all.
        canonical: what is not supported.
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
