"""Where key sets come from: given once, or a file that may change. For a URL see `remote`."""

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
"""How large a key set may be, in bytes."""

_SETTLED = 2_000_000_000  # nanoseconds; the coarsest file systems tell times apart by two seconds

_logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """Where a verifier gets the issuer's keys.

    While nothing has changed both methods return the same object: verified tokens are remembered as long as it is that.
    """

    async def keys(self) -> KeySet:
        """The keys that count now; cheap, since it is asked for every token.

        Raises:
            Refused: `BUSY`, if there is no key set to be had: that is our fault, or the issuer's, and not the token's.
        """
        ...

    async def keys_with(self, kid: str) -> KeySet:
        """The keys after looking whether `kid` is among them by now; called when `keys` lacks it, and so by anybody at will.

        Raises:
            Refused: as `keys`.
        """
        ...


def unavailable(retry_after: int) -> Refused:
    """The refusal while there is no key set. A 401 would make clients throw good tokens away, and hide that we are at fault."""
    return Refused(Reason.BUSY, "The keys that tokens are checked with are not available just now.", retry_after=retry_after)


class FixedKeys:
    """A key set that never changes.

    Args:
        document: a JWK Set as a mapping.

    Raises:
        ValueError: it is none, or no key in it can verify a token.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._keys = KeySet.parse(document)
        if not self._keys.keys:
            raise ValueError("; ".join(("no key of the set can verify tokens", *self._keys.passed_over)))

    async def keys(self) -> KeySet:
        """The keys."""
        return self._keys

    async def keys_with(self, kid: str) -> KeySet:  # noqa: ARG002 - a fixed set has what it has
        """The same keys."""
        return self._keys


class _Version(NamedTuple):
    """By what a file's contents are told apart without reading them."""

    changed: int
    size: int
    inode: int


class FileKeys:
    """A key set in a file, read again when the file has changed.

    A file that cannot be read, holds no key set, or may be written by other users of the machine, leaves the last good set in
    force. To revoke all keys write `{"keys": []}`.

    Args:
        path: the file, a JWK Set.
        interval: seconds between two looks at the file; an unknown `kid` is a reason to look at once.
        clock: what time it is.
    """

    def __init__(self, path: str | os.PathLike[str], *, interval: float = 1, clock: Clock = system_clock) -> None:
        self._path = Path(path)
        self._interval = interval
        self._clock = clock
        self._looked_at: Instant | None = None
        self._version: _Version | None = None
        self._keys: KeySet | None = None
        self._complaint: str | None = None

    async def keys(self) -> KeySet:
        """The keys, as they stood in the file at most an interval ago."""
        now = self._clock()
        if self._keys is None or self._looked_at is None or not 0 <= seconds_between(self._looked_at, now) < self._interval:
            return await self._look(now)
        return self._keys

    async def keys_with(self, kid: str) -> KeySet:  # noqa: ARG002 - what the file has is read as a whole
        """The keys as they stand in the file."""
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
    """The file's version and contents, no contents if it is the known version still."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        check_not_written_by_others(path, status)
        version = _Version(status.st_mtime_ns, status.st_size, status.st_ino)
        if version == known:
            return version, None
        data = file.read(LARGEST + 1)
    # A file system's clock is coarse: what was written just now may be written again and look the same, so it is read again.
    settled = time.time_ns() - version.changed > _SETTLED
    return version if settled else None, data
