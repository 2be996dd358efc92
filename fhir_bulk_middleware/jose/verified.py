"""Tokens that were verified a moment ago, so that a polling client does not pay for its signature each time."""

import hashlib
from dataclasses import dataclass, field

from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.principal import Principal

__all__ = ["VerifiedTokens", "digest"]


def digest(token: str) -> bytes:
    """By what a token is remembered: nobody can get the token back from it."""
    return hashlib.sha256(token.encode()).digest()


@dataclass(slots=True)
class VerifiedTokens:
    """Principals by the digest of their token. Rejected tokens are not remembered.

    All entries were verified with one key set: an entry for another set empties the cache first, a question for another finds
    nothing.

    Attributes:
        lifetime: seconds for which an entry is good, and never past the token's `exp`, leeway or not.
        size: entries at most; the oldest goes first.
    """

    lifetime: float = 60
    size: int = 1024
    _keys: KeySet | None = field(default=None, init=False)
    _entries: dict[bytes, tuple[Principal, Instant, Instant]] = field(default_factory=dict, init=False)

    def __contains__(self, token_digest: bytes) -> bool:
        return token_digest in self._entries

    def find(self, token_digest: bytes, keys: KeySet, now: Instant) -> Principal | None:
        """The principal of a token that was verified with these very keys less than a lifetime ago."""
        entry = self._entries.get(token_digest)
        if entry is None or self._keys is not keys:
            return None
        principal, begin, end = entry
        return principal if begin <= now < end else None

    def add(self, token_digest: bytes, principal: Principal, keys: KeySet, now: Instant) -> None:
        """Remember a token that was verified with these keys at `now`."""
        if self._keys is not keys:
            self._keys = keys
            self._entries.clear()
        self._entries.pop(token_digest, None)  # so that it moves to the young end
        self._entries[token_digest] = (principal, now, min(after(now, self.lifetime), principal.expires_at))
        if len(self._entries) > self.size:
            del self._entries[next(iter(self._entries))]
