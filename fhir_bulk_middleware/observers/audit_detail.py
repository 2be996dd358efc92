"""Patients and criteria in events: keyed digests, or clear text (law 37)."""

import logging
from collections.abc import Awaitable, Callable, Iterable

from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.observers.audit_chain import Key, new_key

__all__ = ["AuditDetail"]

_log = logging.getLogger("fhir_bulk_middleware")


class AuditDetail:
    """Replaces identifiers of patients for events.

    A digest is the first half of an HMAC-SHA256 with a secret key. Without the key nobody can find a patient by hashing all
    possible ids; with the key an auditor computes the digest of a patient and searches for it.

    Args:
        key: returns the key; None for a random key of this process.
        clear: whether identifiers stay in clear text.
    """

    def __init__(self, key: Callable[[], Awaitable[Key]] | None = None, *, clear: bool = False) -> None:
        self._source = key
        self._clear = clear
        self._key: Key | None = None

    async def patients(self, references: Iterable[str]) -> tuple[str, ...]:
        """References (`Patient/123`), sorted."""
        known = sorted(references)
        if self._clear or not known:
            return tuple(known)
        key = await self._made()
        return tuple(sorted(key.digest(reference) for reference in known))

    async def criteria(self, criteria: Iterable[Criteria]) -> tuple[str, ...]:
        """Queries as text, `Observation?code=...&status=...`; parameter names are always in clear text."""
        found = [(each.type, each.parameters) for each in criteria]
        if not self._clear and found:
            key = await self._made()
            found = [(type_, tuple((name, key.digest(value)) for name, value in pairs)) for type_, pairs in found]
        return tuple(f"{type_}?{'&'.join(f'{name}={value}' for name, value in pairs)}" for type_, pairs in found)

    async def _made(self) -> Key:
        if self._key is not None:
            return self._key
        try:
            self._key = new_key() if self._source is None else await self._source()
        except OSError:
            # Not cached: the next request tries to read the key again.
            _log.exception("cannot read the audit key; the digests of this event use a random key")
            return new_key()
        return self._key
