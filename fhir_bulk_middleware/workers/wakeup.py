"""Wake-up pipes, by which any process on the machine tells the workers of a folder that there may be work.

Each worker makes a named pipe in the folder, and `notify` writes a byte into each. A lost wake-up only delays work until the
worker looks by itself, so nothing here needs to be reliable.
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
        found, us = self._folder.lstat(), os.geteuid()
        ours = stat.S_ISDIR(found.st_mode) and us in {0, found.st_uid} and not found.st_mode & stat.S_IWOTH
        if not ours:
            raise PermissionError(f"{self._folder} must be a folder that belongs to this user and that not everybody can write")

    def notify(self) -> None:
        """Wake every worker. Never blocks or raises."""
        with suppress(OSError), os.scandir(self._folder) as pipes:
            for pipe in pipes:
                with suppress(OSError):  # full: a wake-up is pending; no reader: its worker has ended
                    _touch(pipe.path)

    @contextmanager
    def subscribed(self, name: str) -> Generator["WakeUp"]:
        """This worker's wake-up pipe, removed on exit."""
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
        """Remove the pipe of a worker that has ended."""
        pipe = self._folder / name
        with suppress(OSError):
            if stat.S_ISFIFO(pipe.lstat().st_mode):  # not a pipe, so not ours to remove
                pipe.unlink()

    def take_dead_down(self) -> None:
        """Remove pipes without a reader, left by workers of an earlier pool."""
        with suppress(OSError):
            for pipe in list(self._folder.iterdir()):
                try:
                    _touch(str(pipe))
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        self.take_down(pipe.name)


class WakeUp:
    """One worker's wake-up pipe, read by its event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def wait(self, seconds: float) -> None:
        """Wait for a wake-up, at most so long. One that came before counts."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, woken.set)
        try:
            with anyio.move_on_after(seconds):
                await woken.wait()
        finally:
            loop.remove_reader(self._descriptor)
        self._drain()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass


def _touch(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # not a pipe, so not written to
            os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
