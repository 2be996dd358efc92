"""Ending worker processes that nobody can rely on any more: stopped ones, and those of a pool that was taken over.

A worker may be ended at any moment: leases bring its work to others (law 18). One that was stopped (`SIGSTOP`, a frozen terminal)
in the middle of a write goes on holding the database's write lock, and no one can write until it goes on or is ended.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio

__all__ = ["fence", "is_stopped"]

_PROC = Path("/proc")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal; False where the system does not say."""
    with suppress(OSError, IndexError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


async def fence(pid: int, token: str, grace: float) -> bool:
    """End the worker that was started with this token: with `SIGTERM`, by force after `grace` seconds or if it is stopped.

    False if there is no such process (any more), or the system cannot tell; a process that has taken over the id is not touched.
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
    """Wait until it has ended; its locks are free then, also if its parent has not looked after it yet."""
    await anyio.wait_readable(process)
