"""A file of lines by its descriptor: locking it, finding its last line, writing to it."""

import fcntl
import os
from pathlib import Path

from fhir_bulk_middleware.observers.audit_chain import hash_of

__all__ = ["last_line", "lock", "read", "same", "write"]

_TAIL = 64 * 1024


def lock(descriptor: int) -> bool:
    """Whether the file is locked for us alone now; never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same(descriptor: int, path: Path) -> bool:
    """Whether the path names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def last_line(descriptor: int, size: int) -> tuple[str | None, int]:
    """The hash of the last whole line before `size`, None if there is none; and how many bytes come after it."""
    reach = _TAIL
    while True:
        begin = max(size - reach, 0)
        data = read(descriptor, begin, size)
        last = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, max(last, 0))
        if begin == 0 or before >= 0:
            break
        reach *= 4
    if last < 0:
        return None, size
    return hash_of(data[before + 1 : last]), len(data) - last - 1


def read(descriptor: int, begin: int, end: int) -> bytes:
    """The bytes from `begin` up to `end`, or as many as there are."""
    chunks = []
    while begin < end and (chunk := os.pread(descriptor, end - begin, begin)):
        chunks.append(chunk)
        begin += len(chunk)
    return b"".join(chunks)


def write(descriptor: int, data: bytes) -> None:
    """Write all of it.

    Raises:
        OSError: some of it may be written.
    """
    while data:
        data = data[os.write(descriptor, data) :]
