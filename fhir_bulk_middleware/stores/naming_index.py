"""`NamingIndex`: the keys under which a store finds what names a resource (law 40)."""

from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.reference import References, beginnings_of, text_at
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.stores.digests import digest

__all__ = ["NamingIndex"]

_PROVENANCE = "Provenance"
_IS_PROVENANCE = b'{"resourceType":"Provenance",'
_NONE: frozenset[bytes] = frozenset()


class NamingIndex:
    """What the index has of each version.

    Args:
        version: the FHIR release of the resources.
        base_urls: the base URLs under which absolute references lead to this store.

    Attributes:
        named: what a line names (`References.named`).
    """

    def __init__(self, version: FhirVersion, base_urls: Collection[str]) -> None:
        references = References(base_urls)
        self.named = references.named
        self._owned = frozenset(type_.encode() for type_ in CompartmentMembership(version).types("Patient"))
        self._key = lru_cache(maxsize=4_096)(partial(_key, references.target, self._owned))  # these are few, and named often
        self._key_in_provenance = lru_cache(maxsize=1_024)(partial(_key, references.target, _NONE))

    def covers(self, reference: bytes, namer: str) -> bool:
        """Whether the index has the resources of a type that name this one."""
        return namer == _PROVENANCE or _type(reference) not in self._owned

    def keys(self, line: bytes) -> frozenset[int]:
        """The keys of a version by its text."""
        of, owned = (self._key_in_provenance, _NONE) if line.startswith(_IS_PROVENANCE) else (self._key, self._owned)
        # A relative reference to what has a patient, which most are, is looked at no further.
        found = [of(text_at(begin)) for begin in beginnings_of(line) if begin[: begin.find(b"/")] not in owned]
        return frozenset([key for key in found if key is not None])


def _key(target: Callable[[bytes], bytes | None], without: AbstractSet[bytes], text: bytes) -> int | None:
    """The key of what the text of a reference names; None if that is of one of the types that are left out, or elsewhere."""
    reference = target(text)
    return None if reference is None or _type(reference) in without else digest(reference)


def _type(reference: bytes) -> bytes:
    return reference.partition(b"/")[0]
