"""Digests of references, as the integers that indexes of the resource file have for keys."""

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["digest", "digest_of_owners"]


def digest(text: bytes) -> int:
    """63 bits that stand for a text."""
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1


def digest_of_owners(owners: Iterable[str]) -> int:
    """63 bits that stand for a set of compartments; 0 for none."""
    return digest(text) if (text := "\n".join(sorted(owners)).encode()) else 0
