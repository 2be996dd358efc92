"""`NamingIndex`: the keys under which a store finds what names a resource (law 40)."""

from collections.abc import Collection

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.reference import References
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.digests import digest

__all__ = ["NamingIndex"]

_PROVENANCE = "Provenance"
_IS_PROVENANCE = b'{"resourceType":"Provenance",'


class NamingIndex:
    """What the index has of each version.

    Args:
        version: the FHIR release of the resources.
        base_urls: the base URLs under which absolute references lead to this store.

    Attributes:
        named: what a line names (`References.named`).
    """

    def __init__(self, version: FhirVersion, base_urls: Collection[str]) -> None:
        self.named = References(base_urls).named
        self._owned = frozenset(type_.encode() for type_ in CompartmentMembership(version).types("Patient"))

    def covers(self, reference: bytes, namer: str) -> bool:
        """Whether the index has the resources of a type that name this one."""
        return namer == _PROVENANCE or reference.partition(b"/")[0] not in self._owned

    def keys(self, line: bytes) -> frozenset[int]:
        """The keys of a version by its text."""
        namer = _PROVENANCE if line.startswith(_IS_PROVENANCE) else ""
        return frozenset(digest(reference) for reference in self.named(line) if self.covers(reference, namer))
