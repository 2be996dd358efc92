"""Ends worker processes that are stopped, or whose pool was taken over.

A worker may be ended at any time, because its leases then pass to others (law 18). A worker that is stopped (`SIGSTOP`, a frozen
terminal) within a write transaction keeps the database's write lock until it continues or is ended.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio

__all__ = ["fence", "is_alive", "is_stopped"]

_PROC = Path("/proc")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal; False if the system has no `/proc`."""
    with suppress(OSError, IndexError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def is_alive(pid: int, token: str) -> bool:
    """Whether the worker with this process id and token can work: it is there, and not stopped."""
    return _was_started_with(pid, token) and not is_stopped(pid)


async def fence(pid: int, token: str, grace: float) -> bool:
    """End the worker with this process id and token: by `SIGTERM`, or by `SIGKILL` after `grace` seconds or if it is stopped.

    False if there is no such process, or the system cannot tell. Another process that reuses the id is not touched.
    """
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return False
    try:
        if not _was_started_with(pid, token):
            return False
        _send(process, signal.SIGKILL if is_stopped(pid) else signal.SIGTERM)
        with anyio.move_on_after(grace):
            await _gone(process)
            return True
        _send(process, signal.SIGKILL)
        await _gone(process)
        return True
    finally:
        os.close(process)


def _was_started_with(pid: int, token: str) -> bool:
    with suppress(OSError):
        return token.encode() in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    return False


def _send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


async def _gone(process: int) -> None:
    """Wait until the process has ended, which frees its locks even before its parent reaps it."""
    await anyio.wait_readable(process)
