"""`FileOutputStore`: parts as files, in one folder for each job."""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

import aiofiles
import anyio
import anyio.to_thread
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from fhir_bulk_middleware.contract.output_store import Link, OutputSink
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.identifiers import is_job_id
from fhir_bulk_middleware.stores.output_keys import split_key
from fhir_bulk_middleware.stores.prompt_open import open_promptly
from fhir_bulk_middleware.streams.ahead import ahead
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["FileOutputStore"]

T = TypeVar("T")
P = ParamSpec("P")

_CHUNK = 256 * 1024
_TRIES = 20
_MARK = ".job-store"
_CAN_SAY = hasattr(os, "RWF_NOWAIT")


class FileOutputStore:
    """An `OutputStore` in a folder of a local or shared file system.

    A part is written under a temporary name and renamed when it is sealed, after file, name and folder were synced (law 30), so
    a reader sees all of a part or nothing. The folder's mode keeps other users of the machine out.

    Args:
        folder: the folder; created if missing.
        blocking: whether to call the file system in the calling thread, as in a worker process; otherwise calls go through
            threads, so that the server's loop never waits for a disk.
    """

    def __init__(self, folder: Path | str, *, blocking: bool = False) -> None:
        self._folder = Path(folder).absolute()
        self._blocking = blocking
        self._prompt = False  # whether the file system has read without waiting

    def recipe(self) -> Recipe:
        """How to open the same folder in a worker process."""
        return Recipe(f"{__name__}:FileOutputStore", {"folder": str(self._folder), "blocking": True})

    async def bind(self, store: str) -> bool:
        """See `OutputStore.bind`. The binding is the file `.job-store` in the folder."""
        return await self._call(_bind, self._folder, store)

    async def free_bytes(self) -> int:
        """See `SupportsFreeSpace`: what the file system has left for this user."""
        # Abandoned on cancellation: a disk that hangs must not keep the server from stopping.
        return (await anyio.to_thread.run_sync(shutil.disk_usage, self._folder, abandon_on_cancel=True)).free

    @asynccontextmanager
    async def create(self, key: str) -> AsyncGenerator[OutputSink]:
        """Begin a part."""
        job_id, name = split_key(key)
        draft = await self._call(_Draft, self._folder / job_id, name)
        try:
            yield _BlockingSink(draft) if self._blocking else _ThreadedSink(draft)
        finally:
            with anyio.CancelScope(shield=True):  # a cancelled writer leaves nothing behind either
                await self._call(draft.leave)

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `OutputStore.read`; chunks have at most 256 kB.

        What is in the page cache is read in the event loop, which takes less time than to start a thread, and once that was so, a
        file whose name is cached is opened there, too; from the first chunk that must be waited for, a thread reads.
        """
        split_key(key)
        path = self._folder / key
        if self._blocking:
            with path.open("rb", buffering=0) as here:
                here.seek(start)
                while length > 0 and (chunk := here.read(min(_CHUNK, length))):
                    length -= len(chunk)
                    yield chunk
            return
        file = open_promptly(path) if self._prompt else None
        if file is None:
            file = await anyio.to_thread.run_sync(partial(FileIO, path))
        try:
            reading = _Reading(file.fileno(), start, length)
            while reading.at_hand() and (chunk := reading()):
                self._prompt = True
                yield chunk
                await asyncio.sleep(0)  # others get their turn in the loop
            if reading.left > 0:
                async with closing(ahead(reading)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            file.close()

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        """See `SupportsLinking`. Links are hard, so the file system counts the keys of a file, and frees it with the last one."""
        return await self._call(_link, self._folder, links)

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """See `OutputStore.discard`. Open files stay readable until they are closed."""
        if not is_job_id(job_id):
            raise ValueError("not a job's id")
        if keep:
            await self._call(_remove_files, self._folder / job_id, {split_key(key)[1] for key in keep})
        else:
            await self._call(_remove_folder, self._folder / job_id)

    async def jobs(self) -> AsyncIterator[str]:
        """Ids of the jobs that have a folder; other entries are ignored."""
        for name in await self._call(_names, self._folder):
            if is_job_id(name):
                yield name

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._blocking:
            return function(*args, **kwargs)
        # Not abandoned on cancellation: a disk operation ends before anything is cleaned up.
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


class _Draft:
    """A part under a temporary name, which no key can have."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._place = folder / name
        self._beside = folder / f".tmp-{name}-{secrets.token_hex(4)}"
        self.file = self._open()
        self._sealed = False

    def _open(self) -> BufferedWriter:
        for _ in range(_TRIES):
            # Another writer may leave the folder empty and remove it at any moment, also while `mkdir` looks whether it is one.
            with suppress(FileNotFoundError, FileExistsError):
                return self._made()
        return self._made()

    def _made(self) -> BufferedWriter:
        self.make_folder(self._folder)
        return self._beside.open("xb")

    @staticmethod
    def make_folder(folder: Path) -> None:
        """Make the folder of a job, which nobody else on the machine can read."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def seal(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._beside.replace(self._place)
        self._sealed = True
        _sync_folder(self._folder)
        _sync_folder(self._folder.parent)

    def leave(self) -> None:
        if self._sealed:
            return
        with suppress(OSError):  # a full disk refuses the last bytes again; they are not wanted any more
            self.file.close()
        self._beside.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: other parts are there
            self._folder.rmdir()


@dataclass(slots=True)
class _Reading:
    """Reads a range of a file, one chunk per call."""

    descriptor: int
    offset: int
    left: int

    def __call__(self) -> bytes | None:
        """The next chunk, None after the last one."""
        if self.left <= 0:
            return None
        chunk = os.pread(self.descriptor, min(_CHUNK, self.left), self.offset)
        self.offset += len(chunk)
        self.left -= len(chunk)
        return chunk or None

    def at_hand(self) -> bool:
        """Whether the next chunk is in the page cache, judged by its first and last byte.

        False if that cannot be determined, since not every operating system or file system supports it.
        """
        if self.left <= 0 or not _CAN_SAY:
            return False
        probe = bytearray(1)
        last = self.offset + min(_CHUNK, self.left) - 1
        try:
            first_is = os.preadv(self.descriptor, [probe], self.offset, os.RWF_NOWAIT)
            return bool(first_is and os.preadv(self.descriptor, [probe], last, os.RWF_NOWAIT))
        except OSError:  # it would wait, or cannot say
            return False


class _BlockingSink:
    def __init__(self, draft: _Draft) -> None:
        self._draft = draft

    async def write(self, data: bytes) -> None:
        self._draft.file.write(data)

    async def seal(self) -> None:
        self._draft.seal()


class _ThreadedSink:
    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self._file: AsyncBufferedIOBase = aiofiles.threadpool.wrap(draft.file)
        self._pending: list[bytes] = []
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:  # compressed pages are small, and a thread costs the same for few bytes as for many
            await self._drain()

    async def seal(self) -> None:
        await self._drain()
        await anyio.to_thread.run_sync(self._draft.seal)

    async def _drain(self) -> None:
        data, self._pending, self._size = b"".join(self._pending), [], 0
        await self._file.write(data)


def _link(folder: Path, links: Sequence[Link]) -> set[str]:
    """Make hard links, and make them durable.

    Only sealed parts have keys, so no file that is being written is ever linked. An existing name is never replaced.
    """
    made: set[str] = set()
    folders: set[Path] = set()
    for source, key, stored_size in links:
        (source_id, source_name), (job_id, name) = split_key(source), split_key(key)
        place = folder / job_id / name
        # Another job may end, and a file system may refuse (no hard links, too many of them): then there is no link.
        with suppress(OSError):
            _Draft.make_folder(place.parent)
            place.hardlink_to(folder / source_id / source_name)
            if place.stat().st_size != stored_size:
                place.unlink()
                continue
            made.add(key)
            folders.add(place.parent)
    try:
        for each in (*sorted(folders), *([folder] if folders else ())):
            _sync_folder(each)
    except FileNotFoundError:  # the job ended meanwhile, and its files were discarded
        return set()
    return made


def _bind(folder: Path, store: str) -> bool:
    """Write the mark under another name and link it, so that one of several writers wins and no reader sees half of it."""
    mark = folder / _MARK
    with suppress(FileNotFoundError):
        return mark.read_text() == store
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{_MARK}-{secrets.token_hex(4)}"
    try:
        with draft.open("x") as file:
            file.write(store)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            mark.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(folder)
    return mark.read_text() == store


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_folder(folder: Path) -> None:
    for _ in range(_TRIES):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            last = error  # a writer added a file meanwhile
        else:
            return
    raise last


def _remove_files(folder: Path, keep: Collection[str]) -> None:
    for name in _names(folder):
        if name not in keep:
            (folder / name).unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
