"""Verification of an audit file and its rotated files."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fhir_bulk_middleware.observers.audit_chain import FIRST, Head, Key, hash_of, key_beside, nothing_there, read_key, rotated

__all__ = ["Broken", "Verified", "anchor", "audit_key", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A valid chain.

    Attributes:
        lines: number of lines in all files.
        head: the hash of the last line.
        unfinished: bytes of an incomplete line after a crash, which was never acknowledged; the next event removes them.
        files: number of files.
    """

    lines: int
    head: str
    unfinished: int = 0
    files: int = 1


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken chain.

    Attributes:
        line: number of the first wrong line, from 1.
        why: what is wrong with it.
        file: the name of its file.
    """

    line: int
    why: str
    file: str = ""


def audit_key(path: Path, where: str | None) -> Key:
    """Read the key of an audit file.

    Raises:
        OSError: it is missing, cannot be read, or is not a key.
    """
    return read_key(where or str(key_beside(path)))


def anchor(path: Path, where: str | None) -> str:
    """The hash in the head, to be stored on another system and passed to `verify` later.

    Raises:
        ValueError: the head is missing, or the key did not sign it.
        OSError: as `audit_key`.
    """
    head = Head.read(path, audit_key(path, where))
    if head is None:
        raise ValueError("the head is missing")
    return head.hash


def verify(path: Path, *expected: str, key: str | None = None, after: str | None = None) -> Verified | Broken:
    """Check the chain from its first line to the line in the head.

    Servers may append meanwhile; lines after the end at the start of the check are ignored.

    Args:
        path: the current file; rotated files are in the same folder.
        *expected: hashes from `anchor`; a line with each of them must exist.
        key: the path of the key or `env:NAME`; None for the default path.
        after: the hash of the last line of the rotated files that were moved away; None if no file was.

    Raises:
        OSError: a file cannot be read; FileNotFoundError if there is no audit.
    """
    if key is None and not key_beside(path).exists() and not nothing_there(path):
        return Broken(1, "the key is missing", key_beside(path).name)
    secret = audit_key(path, key)
    try:
        head = Head.read(path, secret)
    except ValueError as error:
        return Broken(1, str(error), Head.place(path).name)
    if head is None:
        return Broken(1, "the head is missing", Head.place(path).name)
    with ExitStack() as stack:
        # The current file is opened first. If it is rotated before the others are listed, it appears twice and is checked twice.
        active = _File.opened(path, path, stack)
        return _Chain(path, secret, head, set(expected), after).followed(active, stack)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the chain, up to its size when it was opened."""

    path: Path
    descriptor: int
    size: int

    @classmethod
    def opened(cls, path: Path, name: Path, stack: ExitStack) -> "_File | None":
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        stack.callback(os.close, descriptor)
        return cls(name, descriptor, os.fstat(descriptor).st_size)

    def same(self, other: "_File") -> bool:
        return os.path.samestat(os.fstat(self.descriptor), os.fstat(other.descriptor))

    def lines(self) -> Iterator[bytes]:
        """Its lines with newlines; the last may have none."""
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            left = self.size
            file.seek(0)
            while left > 0 and (line := file.readline(left)):
                left -= len(line)
                yield line


class _Chain:
    """The state of the check across files."""

    def __init__(self, path: Path, key: Key, head: Head, wanted: set[str], after: str | None) -> None:
        self._path = path
        self._key = key
        self._head = head
        self._wanted = wanted
        self._previous = after or FIRST
        self._after = after
        self._lines = 0
        self._lines_of_last = 0
        self._met_head = head.size == 0 and head.file == 1
        self._unfinished = 0

    def followed(self, active: "_File | None", stack: ExitStack) -> Verified | Broken:
        files = self._files(active, stack)
        if isinstance(files, Broken):
            return files
        for number, file in files:
            why = self._follow(number, file, last=file is files[-1][1])
            if why is not None:
                return why
        name = files[-1][1].path.name if files else self._path.name
        if not self._met_head:
            return Broken(self._lines_of_last + 1, "it is missing: the head names a line that is not there", name)
        if self._wanted:
            return Broken(self._lines_of_last + 1, "no line has a hash that was expected", name)
        return Verified(self._lines, self._previous, self._unfinished, len(files))

    def _files(self, active: "_File | None", stack: ExitStack) -> "list[tuple[int, _File]] | Broken":
        """All files with their numbers, in the order of the chain."""
        prefix = f"{self._path.name}."
        names = {path.name.removeprefix(prefix) for path in self._path.parent.glob(f"{prefix}[0-9]*")}
        numbers = sorted(int(name) for name in names if name.isdecimal() and rotated(self._path, int(name)).name == prefix + name)
        found: list[tuple[int, _File]] = []
        first = numbers[0] if numbers and self._after is not None else 1
        for number in range(first, (numbers[-1] if numbers else 0) + 1):
            place = rotated(self._path, number)
            file = _File.opened(place, place, stack)
            if file is None:
                return Broken(1, "the file is missing", place.name)
            if active is not None and file.same(active):  # rotated meanwhile, or a crash left the file under both names
                active = None
            found.append((number, file))
        if active is not None:
            found.append((found[-1][0] + 1 if found else max(first, self._head.file if self._after else 1), active))
        if found and found[-1][0] > self._head.file + 1 and found[-1][1].size:
            return Broken(1, "the head does not know this file", found[-1][1].path.name)
        return found

    def _follow(self, number: int, file: _File, *, last: bool) -> Broken | None:
        offset = self._lines_of_last = 0
        for line, raw in enumerate(file.lines(), 1):
            self._lines_of_last = line
            if not raw.endswith(b"\n") and last and self._met_head:
                self._unfinished = len(raw)
                return None
            why = self._wrong(raw, number, line)
            if why is not None:
                return Broken(line, why, file.path.name)
            self._lines += 1
            self._previous = hash_of(raw[:-1])
            self._wanted.discard(self._previous)
            offset += len(raw)
            if number == self._head.file and offset == self._head.size:
                if self._previous != self._head.hash:
                    return Broken(line, "it is not the line that the head names", file.path.name)
                self._met_head = True
        return None

    def _wrong(self, raw: bytes, number: int, line: int) -> str | None:
        if not raw.endswith(b"\n"):
            return "it is unfinished"
        record = self._key.opened("line", raw[:-1])
        if record is None:
            return "it was not written here, or was changed"
        if record.get("previous") != self._previous:
            return "it does not follow the line before it"
        if record.get("event") == "chain-broken":
            return f"the chain was broken before it: {record.get('why')}"
        continues = record.get("event") == "chain-continued" and record.get("file") == number
        if continues != (line == 1 and number > 1):
            return "a file begins with the line that continues the chain, and only there"
        return None
