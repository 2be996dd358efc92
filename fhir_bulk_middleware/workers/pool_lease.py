"""The lease on a folder's worker pool, which decides which server process keeps the workers (law 19)."""

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import anyio

__all__ = ["Holding", "PoolLease"]

_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A holder that stopped renewing its lease.

    Attributes:
        pid: its process id.
        workers: the names of its workers.
    """

    pid: int
    workers: tuple[str, ...]


class Holding:
    """A held lease: an open, locked file that its holder touches regularly.

    Attributes:
        predecessor: the silent holder that it was taken from; None if it was free.
    """

    def __init__(self, lease: "PoolLease", number: int, descriptor: int) -> None:
        self._lease = lease
        self._number = number
        self._descriptor = descriptor
        self.predecessor: Predecessor | None = None

    def renew(self, workers: Sequence[str]) -> bool:
        """Renew the lease and write down the holder's workers; False if another process took the lease over."""
        if self._lease.latest() != self._number:
            return False
        content = "\n".join([str(os.getpid()), *workers]).encode() + b"\n"
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))
        os.utime(self._descriptor)
        return True

    def close(self) -> None:
        """Give the lease back, at once free for others."""
        os.close(self._descriptor)


class PoolLease:
    """A lease on a pool: the numbered file with the highest number, which the holder locks and touches.

    When a holder ends, in any way, its lock is gone, and another process takes the same file. A holder that is stopped keeps its
    lock but no longer touches the file: another process then takes the next number, and the holder gives up when it continues and
    sees it. Silence is measured by the monotonic clock of the process that waits, so changes of the time do not matter.

    Args:
        folder: the folder of the pool.
        name: the identity of the adapter; a folder has one pool for each.
        patience: seconds of silence after which the lease is taken over.
    """

    def __init__(self, folder: Path, name: str, patience: float) -> None:
        self._folder = folder
        self._prefix = f"pool-{sha256(name.encode()).hexdigest()[:12]}."
        self._patience = patience

    async def taken(self) -> Holding:
        """Take the lease, as soon as it is free or its holder silent."""
        seen, since = (0, 0), time.monotonic()
        while True:
            number = self.latest()
            if (held := self._take(number or 1, create=number == 0)) is not None:
                return held
            beat = number, self._touched(number)
            if beat != seen:
                seen, since = beat, time.monotonic()
            elif time.monotonic() - since > self._patience and (held := self._take(number + 1, create=True)) is not None:
                held.predecessor = self._predecessor(number)
                return held
            await anyio.sleep(min(_LOOK, self._patience / 4))

    def latest(self) -> int:
        """The highest number taken so far; 0 if none."""
        numbers = [path.name.removeprefix(self._prefix) for path in self._folder.glob(f"{self._prefix}*")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def workers(self) -> tuple[str, ...]:
        """The names of the workers that the latest holder has written down, which may have ended with it."""
        found = self._predecessor(self.latest())
        return () if found is None else found.workers

    def _take(self, number: int, *, create: bool) -> Holding | None:
        path = self._path(number)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:  # a later holder removed it
            return None
        held = Holding(self, number, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return None
        if self.latest() != number or not _is(path, descriptor):
            held.close()
            return None
        return held

    def tidy(self, holding: Holding) -> None:
        """Remove the files of earlier numbers."""
        for path in self._folder.glob(f"{self._prefix}*"):
            number = path.name.removeprefix(self._prefix)
            if number.isdecimal() and int(number) < holding._number:  # noqa: SLF001 - of the same module
                path.unlink(missing_ok=True)

    def _predecessor(self, number: int) -> Predecessor | None:
        with suppress(OSError, ValueError):
            pid, *workers = self._path(number).read_text().split()
            return Predecessor(int(pid), tuple(workers))
        return None

    def _touched(self, number: int) -> int:
        with suppress(FileNotFoundError):
            return self._path(number).stat().st_mtime_ns
        return 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number}"


def _is(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
