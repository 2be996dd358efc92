"""How events name patients and criteria: as digests under a key, or in clear (law 37)."""

import logging
from collections.abc import Awaitable, Callable, Iterable

from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.observers.audit_chain import Key, new_key

__all__ = ["AuditDetail"]

_log = logging.getLogger("fhir_bulk_middleware")


class AuditDetail:
    """Turns what identifies patients into what may stand in an event.

    A digest is the first half of an HMAC-SHA256 under a secret key. Without the key nobody can find a patient by hashing all ids
    that there are; with it an auditor computes the digest of the patient in question, and looks for that.

    Args:
        key: where the key comes from; None for one of this process alone.
        clear: whether nothing is digested.
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
        """Queries, one text each: `Observation?code=...&status=...`; the names of parameters are clear always."""
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
            # Not for good: the disk or the lock may be well again with the next request.
            _log.exception("the key of the audit's digests cannot be had; these digests can be compared with nothing")
            return new_key()
        return self._key
