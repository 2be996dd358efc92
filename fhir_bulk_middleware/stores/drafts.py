"""Drafts: resources with everything that a store can compute before it writes them."""

from collections.abc import Mapping
from typing import NamedTuple

from fhir_bulk_middleware.fhir.canonical import Canonical, canonical_and_content
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.group import MEMBER_KINDS
from fhir_bulk_middleware.fhir.provenance import targets
from fhir_bulk_middleware.fhir.search.parameter_index import Key, ParameterIndex
from fhir_bulk_middleware.stores.naming_index import NamingIndex

__all__ = ["Draft", "draft"]


class Draft(NamedTuple):
    """A resource with everything that can be computed before the transaction begins.

    Attributes:
        canonical: its text, except for version and instant.
        owners: its compartments.
        targets: the targets of a Provenance, as type and id.
        names: the keys of what it names (`NamingIndex`).
        keys: its keys in the parameter index.
        last_updated: the author's `meta.lastUpdated`, unchecked; None if it is missing.
    """

    canonical: Canonical
    owners: frozenset[str]
    targets: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[int] = frozenset()
    keys: tuple[Key, ...] = ()
    last_updated: str | None = None


def draft(
    resource: bytes | str | Mapping[str, object],
    compartments: CompartmentMembership,
    index: NamingIndex,
    parameters: ParameterIndex,
    resource_id: str | None = None,
) -> Draft:
    """Prepare a resource for writing.

    Args:
        resource: as in `canonical`.
        compartments: of the store.
        index: of the store.
        parameters: of the store.
        resource_id: replaces the id in the resource.

    Raises:
        ValueError: as `canonical`.
    """
    form, content = canonical_and_content(resource, resource_id=resource_id)
    last_updated = content["meta"].get("lastUpdated") if "meta" in content else None
    return Draft(
        form,
        compartments.of(content, MEMBER_KINDS),
        targets(content, compartments.parse),
        index.keys(b"".join(form.parts[2:])),  # no version and no instant names anything
        parameters.keys(content),
        last_updated if isinstance(last_updated, str) else None,
    )
