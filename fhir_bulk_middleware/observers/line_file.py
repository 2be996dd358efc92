"""Operations on the descriptor of a line file: lock, find the last line, read, write."""

import fcntl
import os
from pathlib import Path

from fhir_bulk_middleware.observers.audit_chain import hash_of

__all__ = ["last_line", "lock", "read", "same", "write"]

_TAIL = 64 * 1024


def lock(descriptor: int) -> bool:
    """Try to take an exclusive lock without waiting; whether it succeeded."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def last_line(descriptor: int, size: int) -> tuple[str | None, int]:
    """The hash of the last complete line before `size` (None if there is none), and the number of bytes after it."""
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
    """The bytes from `begin` to `end`, or fewer at the end of the file."""
    chunks = []
    while begin < end and (chunk := os.pread(descriptor, end - begin, begin)):
        chunks.append(chunk)
        begin += len(chunk)
    return b"".join(chunks)


def write(descriptor: int, data: bytes) -> None:
    """Write all bytes.

    Raises:
        OSError: some bytes may have been written.
    """
    while data:
        data = data[os.write(descriptor, data) :]
