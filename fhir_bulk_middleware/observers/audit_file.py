"""An append-only audit file: one JSON object a line, each with the hash of the line before.

What the chain shows: whether a line was changed, removed, put in, moved or cut. The head, a small file beside it, names the last
line, and so shows lines that are missing at the end. Who can write both files can make a new chain; to show that too, keep the
hash that `verify` prints somewhere else now and then, and give it to `verify` again.
"""

import fcntl
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio.to_thread
from pydantic import JsonValue

from fhir_bulk_middleware.events import Event, RequestRefused, content
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.protocols import Recipe

__all__ = ["AuditFile", "Broken", "Verified", "verify"]

FIRST = "0" * 64
"""What the first line names as the hash of the line before."""

_TAIL = 64 * 1024
_PATIENCE = 3.0
_PAUSE = 0.002


class AuditFile:
    """Appends events; any number of processes on one machine may share the file.

    Not a line is each poll that came too soon: a client in a hurry would fill the disk with them.

    A line that a crash left unfinished was never acknowledged: the next append removes it, and says how many bytes it removed.

    Args:
        path: the file. Nobody but its owner may read it.
        sync: `always`, so that a line survives a power cut once `observe` has returned; `never` leaves that to the system.
            Refusals are never waited for: they disclose nothing, and anybody can cause any number of them.
        blocking: whether to write straight away, which is right in a worker process; else in a thread.
    """

    def __init__(self, path: Path | str, *, sync: Literal["always", "never"] = "always", blocking: bool = False) -> None:
        self._path = Path(path).absolute()
        self._sync: Literal["always", "never"] = sync
        self._blocking = blocking

    def recipe(self) -> Recipe:
        """The same file, in a worker process."""
        return Recipe(f"{__name__}:AuditFile", {"path": str(self._path), "sync": self._sync, "blocking": True})

    async def observe(self, event: Event) -> None:
        """Append it.

        Raises:
            OSError: it could not be written; TimeoutError if another process kept the file locked.
        """
        if isinstance(event, RequestRefused) and event.reason is Reason.POLLED_TOO_OFTEN:
            return
        sync = self._sync == "always" and not isinstance(event, RequestRefused)
        append = functools.partial(self.append, content(event), sync=sync)
        if self._blocking:
            append()
        else:
            await anyio.to_thread.run_sync(append)

    def append(self, record: dict[str, JsonValue], *, sync: bool = True) -> None:
        """Append one record.

        Raises:
            OSError: as `observe`.
        """
        with self._locked() as descriptor:
            last, torn = _end(descriptor)
            if torn:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - torn)
                record = {**record, "removedUnfinishedBytes": torn}
            head = _Head.read(self._path)
            count = (head.count if head and head.hash == last else _count(self._path)) + 1
            line = json.dumps({"previous": last, **record}, ensure_ascii=False, separators=(",", ":")).encode()
            _write(descriptor, line + b"\n")
            if sync:
                os.fsync(descriptor)
            _Head(count, _hash(line)).write(self._path)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, to ourselves. Another process that was stopped while it had the lock must not stop us too."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            patience = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > patience:
                        raise TimeoutError(f"{self._path.name} stayed locked") from None
                    time.sleep(_PAUSE)
            yield descriptor
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that holds.

    Attributes:
        lines: how many.
        head: the hash of the last line.
    """

    lines: int
    head: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A chain that does not hold.

    Attributes:
        line: the first line that does not fit, from 1.
        why: what is wrong with it.
    """

    line: int
    why: str


def verify(path: Path, expected: str | None = None) -> Verified | Broken:
    """Follow the chain from its first line.

    Args:
        path: the file.
        expected: a hash that was printed earlier; one of the lines must have it.

    Raises:
        OSError: the file cannot be read.
    """
    head = _Head.read(path)
    wanted = {expected} if expected else set[str]()
    previous, number, last_of_head = FIRST, 0, head is None or (head.count == 0 and head.hash == FIRST)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            why = _wrong(raw, previous)
            if why is not None:
                return Broken(number, why)
            previous = _hash(raw[:-1])
            wanted.discard(previous)
            if head is not None and head.count == number:
                if head.hash != previous:
                    return Broken(number, "it is not the line that the head names")
                last_of_head = True
    if not last_of_head:
        return Broken(number + 1, f"it is missing; the head names {head.count if head else 0} lines")
    if wanted:
        return Broken(number + 1, "no line has the hash that was expected")
    return Verified(number, previous)


def _wrong(raw: bytes, previous: str) -> str | None:
    if not raw.endswith(b"\n"):
        return "it is unfinished"
    try:
        record = json.loads(raw)
    except ValueError:
        return "it is not JSON"
    if not isinstance(record, dict) or "previous" not in record:
        return "it is no audit record"
    if record["previous"] != previous:
        return "it does not follow the line before it"
    return None


@dataclass(frozen=True, slots=True)
class _Head:
    """Which line is the last."""

    count: int
    hash: str

    @classmethod
    def read(cls, path: Path) -> "_Head | None":
        try:
            found = json.loads(_head_path(path).read_bytes())
            return cls(int(found["lines"]), str(found["hash"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Replace the head as a whole. It comes after the line, so it never promises one that is not there."""
        place = _head_path(path)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps({"lines": self.count, "hash": self.hash}).encode())
        finally:
            os.close(descriptor)
        beside.replace(place)


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _count(path: Path) -> int:
    """How many lines there are: needed only when the head does not know."""
    with path.open("rb") as file:
        return sum(raw.endswith(b"\n") for raw in file)


def _end(descriptor: int) -> tuple[str, int]:
    """The hash of the last whole line, and how many bytes of an unfinished one follow it."""
    size = os.fstat(descriptor).st_size
    reach = _TAIL
    while True:
        begin = max(size - reach, 0)
        data = os.pread(descriptor, size - begin, begin)
        last = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, max(last, 0))
        if begin == 0 or before >= 0:
            break
        reach *= 4
    if last < 0:
        return FIRST, size
    return _hash(data[before + 1 : last]), len(data) - last - 1


def _write(descriptor: int, data: bytes) -> None:
    """All of it; what a full disk left of it is taken back."""
    begin = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, begin)
        raise
