"""An append-only audit file: signed JSON lines, each with the hash of the line before (law 37, SE-17).

Beside the file lie its head, which names the last line, and its key, which signs lines and head. So it shows when a line was
changed, removed, put in, moved or cut off, and when head or key are missing. Whatever does not fit is written down as a line of
its own (`chain-broken`) before the next event, and stays an error of `verify` for ever.

Two things need help from outside. Who can read the key can sign anything: give `key` a place that only the server can read. Who
puts back an old copy of file and head together undoes what came after it: keep the hash that `fhir-bulk audit anchor` prints
somewhere else, and give it to `verify --expect`.

A crash never looks like tampering. A line is on the disk before the head names it, so a crash leaves a head that is behind, never
one that is ahead; what stands behind it is signed, or is the unfinished rest of one line, which nobody was told was recorded.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import anyio.to_thread
from pydantic import JsonValue

from fhir_bulk_middleware.contract.events import Event, RequestRefused, content
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Clock, Precision, render, system_clock
from fhir_bulk_middleware.observers.audit_chain import (
    FIRST,
    Head,
    Key,
    hash_of,
    keep_key,
    key_beside,
    new_key,
    nothing_there,
    read_key,
    rotated,
    sync_folder,
)
from fhir_bulk_middleware.observers.audit_check import Broken, Verified, verify
from fhir_bulk_middleware.observers.group_commit import GroupCommit
from fhir_bulk_middleware.observers.line_file import last_line, lock, read, same, write
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["AuditFile", "Broken", "Verified", "verify"]

Record = Mapping[str, JsonValue]

_PATIENCE = 3.0
_PAUSE = 0.002
_ROTATE_BYTES = 64 * 1024 * 1024
_MOST_FILES = 999_999


class AuditFile:
    """Appends events; any number of processes on one machine may share the file. It is an audit: see `Audit`.

    Not a line is each poll that came too soon: a client in a hurry would fill the disk with them.

    A line that a crash left unfinished was never acknowledged: the next append removes it, and says how many bytes it removed.

    Args:
        path: the file. Nobody but its owner may read it. Full files lie beside it, `NAME.000001` and so on, in the same chain.
        key: what signs the lines: the path of a file that only the server can read, or `env:NAME`. Without it a key is made
            beside the file, which stops whoever can write there but not read the server's files, and nobody else.
        rotate_bytes: how large a file may become before the next one is begun; None for any size.
        rotate_daily: whether each day (UTC) has a file of its own.
        sync: `always`, so that a line survives a power cut once `observe` has returned; `never` leaves that to the system, and
            a power cut can then look like a cut file.
        blocking: whether to write straight away, which is right in a worker process; else in a thread.
        patience: seconds to wait for another process that has the file locked.
        clock: what day it is.
    """

    essential: Final = True

    def __init__(
        self,
        path: Path | str,
        *,
        key: Path | str | None = None,
        rotate_bytes: int | None = _ROTATE_BYTES,
        rotate_daily: bool = False,
        sync: Literal["always", "never"] = "always",
        blocking: bool = False,
        patience: float = _PATIENCE,
        clock: Clock = system_clock,
    ) -> None:
        self._path = Path(path).absolute()
        self._where = None if key is None else str(key)
        self._rotate_bytes = rotate_bytes
        self._rotate_daily = rotate_daily
        self._sync: Literal["always", "never"] = sync
        self._blocking = blocking
        self._patience = patience
        self._clock = clock
        self._key: Key | None = None
        self._commits = GroupCommit(self.append_all)

    @property
    def begun(self) -> bool:
        """Whether there is anything of it on the disk; a file that somebody deleted has a head or a key still."""
        return any(path.exists() for path in (self._path, Head.place(self._path), key_beside(self._path)))

    def recipe(self) -> Recipe:
        """The same file, in a worker process."""
        arguments: dict[str, JsonValue] = {
            "path": str(self._path),
            "key": self._where,
            "rotate_bytes": self._rotate_bytes,
            "rotate_daily": self._rotate_daily,
            "sync": self._sync,
            "blocking": True,
            "patience": self._patience,
        }
        return Recipe(f"{__name__}:AuditFile", arguments)

    async def observe(self, event: Event) -> None:
        """Append it.

        Raises:
            OSError: it could not be written; TimeoutError if another process kept the file locked.
        """
        if isinstance(event, RequestRefused) and event.reason is Reason.POLLED_TOO_OFTEN:
            return
        if self._blocking:
            self.append(content(event))
        else:
            await self._commits.add(content(event))

    async def key(self) -> Key:
        """The key, made now if there is none yet.

        Raises:
            OSError: it cannot be read or made.
        """
        return await anyio.to_thread.run_sync(self._begun_key) if self._key is None else self._key

    def append(self, record: Record) -> None:
        """Append one record.

        Raises:
            OSError: as `observe`.
        """
        self.append_all([record])

    def append_all(self, records: Sequence[Record]) -> None:
        """Append records, all or none of them.

        Raises:
            OSError: as `observe`.
        """
        with ExitStack() as open_files:
            descriptor = open_files.enter_context(self._locked())
            key, end = self._settled(descriptor)
            if end.torn:
                os.ftruncate(descriptor, end.size)
                records = [{**records[0], "removedUnfinishedBytes": end.torn}, *records[1:]]
            if end.broken is not None:
                records = [self._own("chain-broken", why=end.broken), *records]
            elif self._full(end):
                descriptor, end = self._rotated(descriptor, key, end, open_files)
            lines = []
            hash_ = end.hash
            for record in records:
                line = key.signed("line", {"previous": hash_, **record})
                hash_ = hash_of(line)
                lines.append(line + b"\n")
            text = b"".join(lines)
            durable = self._sync == "always"
            try:
                write(descriptor, text)
                if durable:
                    os.fsync(descriptor)
                    if not end.size:
                        sync_folder(self._path.parent)
                Head(end.file, end.size + len(text), hash_, end.day).write(self._path, key, durable=durable)
            except OSError:
                os.ftruncate(descriptor, end.size)  # what a full disk left of it
                raise
            self._key = key

    def _begun_key(self) -> Key:
        place = key_beside(self._path)
        if self._where is not None or place.exists():
            return read_key(self._where or str(place))
        with self._locked():
            return self._found_key()[0]

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, to ourselves. Another process that was stopped while it had the lock must not stop us too."""
        patience = time.monotonic() + self._patience
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                while not lock(descriptor):
                    if time.monotonic() > patience:
                        raise TimeoutError(f"{self._path.name} stayed locked for {self._patience:g} seconds")
                    time.sleep(_PAUSE)
                if same(descriptor, self._path):  # else it was rotated while we waited
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _found_key(self) -> tuple[Key, str | None]:
        """The key; and what is wrong where there should have been one."""
        place = key_beside(self._path)
        if self._where is not None or place.exists():
            return read_key(self._where or str(place)), None
        key = new_key()
        begins = nothing_there(self._path)
        if begins:  # the head comes first, so that a key without a head is one whose head was taken away
            Head(1, 0, FIRST, self._today()).write(self._path, key, durable=True)
        keep_key(key, place)
        return key, None if begins else "the key is missing"

    def _settled(self, descriptor: int) -> "tuple[Key, _End]":
        """Where the chain ends, with what a crash left; and what is wrong if that is not where the head says."""
        known = self._key
        key, broken = (known, None) if known is not None else self._found_key()
        if broken is None:
            try:
                head = Head.read(self._path, key) or self._first_head()
                return key, self._checked(descriptor, key, head)
            except ValueError as error:
                broken = str(error)
        size = os.fstat(descriptor).st_size
        last, torn = last_line(descriptor, size)
        return key, _End(_count_rotated(self._path) + 1, size - torn, last or FIRST, self._today(), torn, broken)

    def _first_head(self) -> Head:
        """What a chain begins from, under a key that came from outside; with a key of ours a head is always there."""
        if self._where is None or not nothing_there(self._path):
            raise ValueError("the head is missing")
        return Head(1, 0, FIRST, self._today())

    def _checked(self, descriptor: int, key: Key, head: Head) -> "_End":
        """The end, if the file and its head agree.

        Raises:
            ValueError: they do not.
        """
        full = rotated(self._path, head.file)
        if full.exists():
            if same(descriptor, full):  # a crash left the file both names
                full.unlink()
            elif _ends(full, head):
                head = Head(head.file + 1, 0, head.hash, self._today())
            else:
                raise ValueError(f"{full.name} does not end with the line that the head names")
        size = os.fstat(descriptor).st_size
        torn = last_line(descriptor, size)[1]
        if size - torn < head.size:
            raise ValueError(f"the file ends {head.size - size + torn} bytes before the line that the head names")
        if head.size and last_line(descriptor, head.size) != (head.hash, 0):
            raise ValueError("the last line is not the one that the head names")
        hash_ = head.hash
        for line in read(descriptor, head.size, size - torn).splitlines():
            record = key.opened("line", line)
            if record is None or record.get("previous") != hash_:
                raise ValueError("behind the line that the head names there is one that was not written here")
            hash_ = hash_of(line)
        return _End(head.file, size - torn, hash_, head.day, torn)

    def _full(self, end: "_End") -> bool:
        if not end.size or end.file >= _MOST_FILES:
            return False
        too_large = self._rotate_bytes is not None and end.size >= self._rotate_bytes
        return too_large or (self._rotate_daily and end.day != self._today())

    def _rotated(self, descriptor: int, key: Key, end: "_End", open_files: ExitStack) -> "tuple[int, _End]":
        """The next file, locked, with its first line; the full one has its number.

        The name of the file is there at every moment, so nobody makes another one; and who waits for the old one finds the new.
        """
        beside = self._path.with_name(f".{self._path.name}.next")
        beside.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        following = os.open(beside, flags, 0o600)
        open_files.callback(os.close, following)
        fcntl.flock(following, fcntl.LOCK_EX | fcntl.LOCK_NB)
        line = key.signed("line", {"previous": end.hash, **self._own("chain-continued", file=end.file + 1)})
        write(following, line + b"\n")
        if self._sync == "always":
            os.fsync(descriptor)
            os.fsync(following)
        os.link(self._path, rotated(self._path, end.file))
        beside.replace(self._path)
        if self._sync == "always":
            sync_folder(self._path.parent)
        return following, _End(end.file + 1, len(line) + 1, hash_of(line), self._today())

    def _own(self, event: str, **more: JsonValue) -> dict[str, JsonValue]:
        return {"event": event, "at": render(self._clock(), Precision.MICROSECONDS), **more}

    def _today(self) -> str:
        return render(self._clock(), Precision.SECONDS)[:10]


@dataclass(frozen=True, slots=True)
class _End:
    """Where the next line goes.

    Attributes:
        file: number of the file.
        size: its bytes up to there.
        hash: of the line before.
        day: on which the file was begun.
        torn: bytes of an unfinished line behind it.
        broken: why head and file do not agree; None if they do.
    """

    file: int
    size: int
    hash: str
    day: str
    torn: int = 0
    broken: str | None = None


def _ends(path: Path, head: Head) -> bool:
    """Whether a full file ends with the line that the head names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        return size == head.size and last_line(descriptor, size) == (head.hash, 0)
    finally:
        os.close(descriptor)


def _count_rotated(path: Path) -> int:
    """How many full files there are, without a hole."""
    count = 0
    while rotated(path, count + 1).exists():
        count += 1
    return count
