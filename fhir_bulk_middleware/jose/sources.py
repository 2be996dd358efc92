"""Sources of key sets: a constant, or a file that may change. For a URL see `remote`."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import anyio.to_thread

from fhir_bulk_middleware.instant import Clock, Instant, seconds_between, system_clock
from fhir_bulk_middleware.jose.keys import KeySet
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.trusted_files import check_not_written_by_others

__all__ = ["LARGEST", "FileKeys", "FixedKeys", "KeySource", "unavailable"]

LARGEST = 256 * 1024
"""Maximum size of a key set in bytes."""

_SETTLED = 2_000_000_000  # nanoseconds; the coarsest file systems have a resolution of two seconds

_logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """Protocol of a source of an issuer's keys.

    While the keys are unchanged both methods must return the same object, since verified tokens are cached by its identity.
    """

    async def keys(self) -> KeySet:
        """The current keys; called for each token, so it must be cheap.

        Raises:
            Refused: `BUSY`, if no key set is available, which is not the token's fault.
        """
        ...

    async def keys_with(self, kid: str) -> KeySet:
        """The keys after a search for `kid`; called when `keys` does not have it, which any client can cause.

        Raises:
            Refused: as `keys`.
        """
        ...


def unavailable(retry_after: int) -> Refused:
    """The refusal while no key set is available. A 401 would make clients discard valid tokens."""
    return Refused(Reason.BUSY, "The keys that tokens are checked with are not available just now.", retry_after=retry_after)


class FixedKeys:
    """A constant key set.

    Args:
        document: a JWK Set as a mapping.

    Raises:
        ValueError: it is not a JWK Set, or has no usable key.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._keys = KeySet.parse(document)
        if not self._keys.keys:
            raise ValueError("; ".join(("no key of the set can verify tokens", *self._keys.passed_over)))

    def __str__(self) -> str:
        return f"a fixed set of keys ({len(self._keys.keys)})"

    async def keys(self) -> KeySet:
        """The keys."""
        return self._keys

    async def keys_with(self, kid: str) -> KeySet:  # noqa: ARG002 - a constant set cannot get a new key
        """The same keys."""
        return self._keys


class _Version(NamedTuple):
    """Metadata that changes with a file's contents."""

    changed: int
    size: int
    inode: int


class FileKeys:
    """A key set in a file, which is read again when it changes.

    If the file cannot be read, has no key set, or other users of the machine can write it, the last good set stays valid. To
    revoke all keys write `{"keys": []}`.

    Args:
        path: the file, a JWK Set.
        interval: seconds between two checks of the file; an unknown `kid` triggers a check at once.
            clock: returns the current time.
    """

    def __init__(self, path: str | os.PathLike[str], *, interval: float = 1, clock: Clock = system_clock) -> None:
        self._path = Path(path)
        self._interval = interval
        self._clock = clock
        self._looked_at: Instant | None = None
        self._version: _Version | None = None
        self._keys: KeySet | None = None
        self._complaint: str | None = None

    def __str__(self) -> str:
        return f"the keys in {self._path}"

    async def keys(self) -> KeySet:
        """The keys of the file, checked at most `interval` seconds ago."""
        now = self._clock()
        if self._keys is None or self._looked_at is None or not 0 <= seconds_between(self._looked_at, now) < self._interval:
            return await self._look(now)
        return self._keys

    async def keys_with(self, kid: str) -> KeySet:  # noqa: ARG002 - the file is read as a whole
        """The keys of the file, checked now."""
        return await self._look(self._clock())

    async def _look(self, now: Instant) -> KeySet:
        known = self._version
        try:
            version, data = await anyio.to_thread.run_sync(_read_if_changed, self._path, known)
            if data is not None:
                self._version = version  # a bad file is not read again before it changes
                if len(data) > LARGEST:
                    raise ValueError(f"larger than {LARGEST} bytes")
                keys = KeySet.from_json(data)
                if keys != self._keys:
                    self._keys = keys
                self._complaint = None
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:  # once, not for each request
                _logger.warning("key set %s cannot be read: %s", self._path, error)
                self._complaint = str(error)
        self._looked_at = now
        if self._keys is None:
            raise unavailable(retry_after=1)
        return self._keys


def _read_if_changed(path: Path, known: _Version | None) -> tuple[_Version | None, bytes | None]:
    """The file's version and contents; None as contents if the version is the known one."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        check_not_written_by_others(path, status)
        version = _Version(status.st_mtime_ns, status.st_size, status.st_ino)
        if version == known:
            return version, None
        data = file.read(LARGEST + 1)
    # File times are coarse: a second write may not change them, so a recently written file is read again.
    settled = time.time_ns() - version.changed > _SETTLED
    return version if settled else None, data
