"""Wake-up pipes, by which any process on the machine tells others that something may have happened.

Each listener makes a named pipe in a folder, and `notify` writes a short message into each. Two kinds of folder exist: one whose
listeners are workers, told that there may be work, and one whose listeners are servers, told which job has ended
(`fhir_bulk_middleware.jobs.endings`). A lost message only delays a listener until it looks by itself, so nothing here needs to be
reliable.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

__all__ = ["WakeUp", "WakeUps"]

_PIPE_BYTES = 64 * 1024
"""What a pipe holds on Linux."""


class WakeUps:
    """The wake-up pipes of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder, and check that no other user can write into it.

        Raises:
            OSError: it cannot be made, or belongs to another user.
        """
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._check()

    def _check(self) -> None:
        found, us = self._folder.lstat(), os.geteuid()
        ours = stat.S_ISDIR(found.st_mode) and us in {0, found.st_uid} and not found.st_mode & stat.S_IWOTH
        if not ours:
            raise PermissionError(f"{self._folder} must be a folder that belongs to this user and that not everybody can write")

    def notify(self, message: bytes = b"!") -> None:
        """Send a message to every listener. Never blocks or raises.

        Args:
            message: at most `PIPE_BUF` bytes, so that messages of several processes do not mix.
        """
        with suppress(OSError):
            self._check()
            with os.scandir(self._folder) as pipes:
                for pipe in pipes:
                    with suppress(OSError):  # full: it is awake anyway; no reader: its process has ended
                        _write(pipe.path, message)

    @contextmanager
    def subscribed(self, name: str) -> Generator["WakeUp"]:
        """A wake-up pipe of this process, removed on exit."""
        self.prepare()
        path = self._folder / name
        os.mkfifo(path, 0o600)
        try:
            # Open for both, so that there always is a writer and the pipe never reads as ended.
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            try:
                yield WakeUp(descriptor)
            finally:
                os.close(descriptor)
        finally:
            path.unlink(missing_ok=True)

    def take_down(self, name: str) -> None:
        """Remove the pipe of a process that has ended."""
        pipe = self._folder / name
        with suppress(OSError):
            if stat.S_ISFIFO(pipe.lstat().st_mode):  # not a pipe, so not ours to remove
                pipe.unlink()

    def take_dead_down(self) -> None:
        """Remove pipes without a reader, left by processes that were killed."""
        with suppress(OSError):
            for pipe in list(self._folder.iterdir()):
                try:
                    _write(str(pipe), b"")
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        self.take_down(pipe.name)


class WakeUp:
    """One wake-up pipe, read by the event loop of its process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def wait(self, seconds: float) -> bytes:
        """Wait for a message, at most so long, and return all that came, also before; empty if none did."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, woken.set)
        try:
            with anyio.move_on_after(seconds):
                await woken.wait()
        finally:
            loop.remove_reader(self._descriptor)
        return self._drain()

    def _drain(self) -> bytes:
        """What the pipe holds, read once: it holds no more, and a process that writes without end must not keep this one here."""
        try:
            return os.read(self._descriptor, _PIPE_BYTES)
        except BlockingIOError:
            return b""


def _write(path: str, message: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # not a pipe, so not written to
            os.write(descriptor, message)
    finally:
        os.close(descriptor)
