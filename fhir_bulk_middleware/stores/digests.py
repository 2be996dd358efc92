"""Digests of references, as the integers that indexes of the resource file have for keys."""

from functools import lru_cache
from hashlib import blake2b

__all__ = ["digest", "digest_of_owners"]


@lru_cache(maxsize=4_096)  # most of what is named is named often
def digest(text: bytes) -> int:
    """63 bits that stand for a text."""
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1


@lru_cache(maxsize=256)  # the resources of a patient come one after the other
def digest_of_owners(owners: frozenset[str]) -> int:
    """63 bits that stand for a set of compartments; 0 for none."""
    return digest(text) if (text := "\n".join(sorted(owners)).encode()) else 0
