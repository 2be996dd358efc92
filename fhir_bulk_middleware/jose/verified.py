"""Cache of verified tokens, which saves a polling client the signature check."""

import hashlib
from dataclasses import dataclass, field

from fhir_bulk_middleware.caps import TOKENS_BYTES, TOKENS_REMEMBERED
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jose.keys import KeySet

__all__ = ["VerifiedTokens", "digest"]


def digest(token: str) -> bytes:
    """The cache key of a token, from which the token cannot be recovered."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(slots=True)
class VerifiedTokens:
    """Principals by the digest of their token. Rejected tokens are not cached.

    All entries belong to one key set: an entry for another set clears the cache, and a lookup for another finds nothing.

    Attributes:
        lifetime: seconds for which an entry is valid, at most until the token's `exp` without leeway.
            size: maximum number of entries; the oldest are dropped.
            size_bytes: maximum size of all claims as text; the oldest are dropped. A token with larger claims is not cached.
    """

    lifetime: float = 60
    size: int = TOKENS_REMEMBERED
    size_bytes: int = TOKENS_BYTES
    _keys: KeySet | None = field(default=None, init=False)
    _entries: dict[bytes, tuple[Principal, Instant, Instant, int]] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)

    def __contains__(self, token_digest: bytes) -> bool:
        return token_digest in self._entries

    def find(self, token_digest: bytes, keys: KeySet, now: Instant) -> Principal | None:
        """The principal of a token that was verified with this key set object within the lifetime."""
        entry = self._entries.get(token_digest)
        if entry is None or self._keys is not keys:
            return None
        principal, begin, end, _ = entry
        return principal if begin <= now < end else None

    def add(self, token_digest: bytes, principal: Principal, keys: KeySet, now: Instant) -> None:
        """Cache a token that was verified with these keys at `now`."""
        if self._keys is not keys:
            self._keys = keys
            self._entries.clear()
            self._bytes = 0
        self._forget(token_digest)  # so that it moves to the end
        size = len(repr(principal.claims))
        if size > self.size_bytes:
            return
        self._bytes += size
        self._entries[token_digest] = (principal, now, min(after(now, self.lifetime), principal.expires_at), size)
        while len(self._entries) > self.size or self._bytes > self.size_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, token_digest: bytes) -> None:
        entry = self._entries.pop(token_digest, None)
        if entry is not None:
            self._bytes -= entry[3]
