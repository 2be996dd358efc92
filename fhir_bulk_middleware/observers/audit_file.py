"""An append-only audit file: signed JSON lines, each with the hash of the line before (law 37, SE-17).

Next to the file are its head, with the hash of the last line, and its key, which signs lines and head. `verify` detects changed,
removed, inserted, moved and truncated lines, and a missing head or key. The next event after such a fault first appends a line
`chain-broken`, which `verify` reports for ever.

Two attacks need help from outside. Anyone who can read the key can sign anything: put `key` where only the server can read it.
Anyone who restores an old copy of file and head together removes later lines: store the hash that `fhir-bulk audit anchor` prints
on another system, and pass it to `verify --expect`.

A crash is never reported as tampering. A line is durable before the head names it, so a crash leaves a head that is behind, never
one that is ahead. Bytes after the head are signed lines, or one incomplete line, which was never acknowledged.
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
    """Appends events to a file that processes of one machine can share; an `Audit`.

    Throttled polls are not recorded, so a fast client cannot fill the disk.

    An incomplete line after a crash was never acknowledged. The next append removes it and records how many bytes it removed.

    Args:
        path: the file, with mode 0600. Rotated files are in the same folder, `NAME.000001` and so on, in the same chain.
        key: the signing key: the path of a file that only the server can read, or `env:NAME`. By default a key is made next to
            the file; that protects only against users who can write to the folder but not read the server's files.
        rotate_bytes: size in bytes at which the next file begins; None for no limit.
        rotate_daily: whether each day (UTC) has a file of its own.
        sync: `always` makes a line durable before `observe` returns; `never` leaves that to the system, and a power failure can
            then look like a truncated file.
        blocking: whether to write in the calling thread, for worker processes; else in a thread of its own.
        patience: seconds to wait for the lock of another process.
        clock: returns the current time, for `rotate_daily`.
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
        """Whether the file, its head or its key exists."""
        return any(path.exists() for path in (self._path, Head.place(self._path), key_beside(self._path)))

    def recipe(self) -> Recipe:
        """The recipe of an observer of the same file, for worker processes."""
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
        """Append an event.

        Raises:
            OSError: it could not be written; TimeoutError if another process held the lock too long.
        """
        if isinstance(event, RequestRefused) and event.reason is Reason.POLLED_TOO_OFTEN:
            return
        if self._blocking:
            self.append(content(event))
        else:
            await self._commits.add(content(event))

    async def key(self) -> Key:
        """The key; generated if it does not exist.

        Raises:
            OSError: it cannot be read or written.
        """
        return await anyio.to_thread.run_sync(self._begun_key) if self._key is None else self._key

    def append(self, record: Record) -> None:
        """Append one record.

        Raises:
            OSError: as `observe`.
        """
        self.append_all([record])

    def append_all(self, records: Sequence[Record]) -> None:
        """Append records, all or none.

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
                os.ftruncate(descriptor, end.size)  # remove what a full disk left
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
        """The file with an exclusive lock. Waiting has a limit, because a stopped process may hold the lock."""
        patience = time.monotonic() + self._patience
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                while not lock(descriptor):
                    if time.monotonic() > patience:
                        raise TimeoutError(f"{self._path.name} stayed locked for {self._patience:g} seconds")
                    time.sleep(_PAUSE)
                if same(descriptor, self._path):  # else another process rotated it while this one waited
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _found_key(self) -> tuple[Key, str | None]:
        """The key, and a description of the fault if an expected key is missing."""
        place = key_beside(self._path)
        if self._where is not None or place.exists():
            return read_key(self._where or str(place)), None
        key = new_key()
        begins = nothing_there(self._path)
        if begins:  # the head is written first, so a key without a head means that the head was removed
            Head(1, 0, FIRST, self._today()).write(self._path, key, durable=True)
        keep_key(key, place)
        return key, None if begins else "the key is missing"

    def _settled(self, descriptor: int) -> "tuple[Key, _End]":
        """The end of the chain, with the rest of a crash; `broken` describes the fault if file and head disagree."""
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
        """The head of a new chain with an external key; with a generated key a head always exists."""
        if self._where is None or not nothing_there(self._path):
            raise ValueError("the head is missing")
        return Head(1, 0, FIRST, self._today())

    def _checked(self, descriptor: int, key: Key, head: Head) -> "_End":
        """The end of the chain, if the file and its head agree.

        Raises:
            ValueError: they disagree.
        """
        full = rotated(self._path, head.file)
        if full.exists():
            if same(descriptor, full):  # a crash left the file under both names
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
        """Rotate: give the full file its number, and return the next one, locked.

        The file's name always exists, so no process creates another one; processes that wait for the old file find the new one.
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
    """The position of the next line.

    Attributes:
        file: number of the file.
        size: offset in bytes.
        hash: hash of the previous line.
        day: date (UTC) of the file's first line.
        torn: bytes of an incomplete line after the position.
        broken: why head and file disagree; None if they agree.
    """

    file: int
    size: int
    hash: str
    day: str
    torn: int = 0
    broken: str | None = None


def _ends(path: Path, head: Head) -> bool:
    """Whether a rotated file ends with the line in the head."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        return size == head.size and last_line(descriptor, size) == (head.hash, 0)
    finally:
        os.close(descriptor)


def _count_rotated(path: Path) -> int:
    """The number of consecutive rotated files."""
    count = 0
    while rotated(path, count + 1).exists():
        count += 1
    return count
