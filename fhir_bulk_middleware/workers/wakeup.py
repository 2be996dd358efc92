"""Wake-ups: how any process on the machine tells the workers of a folder that there may be work.

Each worker makes a named pipe of its own in the folder; `notify` writes a byte into each. A wake-up that is missed delays work
by one poll, so nothing here has to be certain, only cheap.
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
    """The pipes of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder, and make sure that nobody else on the machine can put anything into it.

        Raises:
            OSError: it cannot be made, or what is there belongs to somebody else.
        """
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        found, us = self._folder.lstat(), os.geteuid()
        ours = stat.S_ISDIR(found.st_mode) and us in {0, found.st_uid} and not found.st_mode & stat.S_IWOTH
        if not ours:
            raise PermissionError(f"{self._folder} must be a folder that belongs to this user and that not everybody can write")

    def notify(self) -> None:
        """Wake every worker. Never blocks, never fails."""
        with suppress(OSError), os.scandir(self._folder) as pipes:
            for pipe in pipes:
                with suppress(OSError):  # full: it has been rung; no reader: its worker is gone
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
        """Remove the pipe of a worker that died before it could."""
        pipe = self._folder / name
        with suppress(OSError):
            if stat.S_ISFIFO(pipe.lstat().st_mode):  # whatever else lies there is not ours to remove
                pipe.unlink()

    def take_dead_down(self) -> None:
        """Remove what workers of an earlier pool left: pipes that nobody listens to."""
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
        """Wait until it is rung, at most so long. Rings that came before count."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, rung.set)
        try:
            with anyio.move_on_after(seconds):
                await rung.wait()
        finally:
            loop.remove_reader(self._descriptor)
        self._hush()

    def _hush(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass


def _touch(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # whatever else lies there is not written to
            os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
