"""Opens a file in the event loop, if that cannot wait for a disk."""

import os
import sys
from collections.abc import Callable
from functools import cache
from io import FileIO
from pathlib import Path

__all__ = ["open_promptly"]

_OPENAT2 = 437
"""The number of the system call, for which neither Python nor the C library has a function."""

_HERE = -100  # AT_FDCWD: a relative path begins at the working directory
_RESOLVE_CACHED = 0x20


def open_promptly(path: Path) -> FileIO | None:
    """The file, opened for reading, if the system finds the file without reading a disk (`RESOLVE_CACHED`, Linux 5.12).

    A thread would cost twenty times as much. A file system that asks another machine or a process when a file is opened may wait
    all the same, so call this only for one that has read without waiting (`RWF_NOWAIT`), which none of those can.

    Returns:
        None if it would have to wait, cannot say, or fails. The caller then opens the file in a thread, and gets the exception.
    """
    if sys.platform != "linux":
        return None
    descriptor = _opener()(os.fsencode(path))
    return None if descriptor < 0 else FileIO(descriptor)


@cache
def _opener() -> Callable[[bytes], int]:
    import ctypes  # noqa: PLC0415 - a worker process starts sooner without it, and never opens like this

    class How(ctypes.Structure):
        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    call = ctypes.CDLL(None).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(How), ctypes.c_size_t)
    call.restype = ctypes.c_long
    how = ctypes.byref(How(os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_CACHED))
    size = ctypes.sizeof(How)

    def opened(path: bytes) -> int:
        return int(call(_OPENAT2, _HERE, path, how, size))

    return opened
