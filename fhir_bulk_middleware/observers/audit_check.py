"""Whether an audit file, with all that were rotated away before it, is as it was written."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fhir_bulk_middleware.observers.audit_chain import FIRST, Head, Key, hash_of, key_beside, nothing_there, read_key, rotated

__all__ = ["Broken", "Verified", "anchor", "audit_key", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that holds.

    Attributes:
        lines: how many, in all its files.
        head: the hash of the last line.
        unfinished: bytes behind it that a crash left of a line nobody was told of; the next event removes them.
        files: how many files there are.
    """

    lines: int
    head: str
    unfinished: int = 0
    files: int = 1


@dataclass(frozen=True, slots=True)
class Broken:
    """A chain that does not hold.

    Attributes:
        line: the first line that does not fit, from 1.
        why: what is wrong with it.
        file: the name of the file that it is in, or should be in.
    """

    line: int
    why: str
    file: str = ""


def audit_key(path: Path, where: str | None) -> Key:
    """The key of an audit file.

    Raises:
        OSError: it is not where it should be, cannot be read, or is none.
    """
    return read_key(where or str(key_beside(path)))


def anchor(path: Path, where: str | None) -> str:
    """The hash of the last line that the head names: what to keep elsewhere, for `verify` to ask for.

    Raises:
        ValueError: there is no head, or the key did not sign it.
        OSError: as `audit_key`.
    """
    head = Head.read(path, audit_key(path, where))
    if head is None:
        raise ValueError("the head is missing")
    return head.hash


def verify(path: Path, *expected: str, key: str | None = None, after: str | None = None) -> Verified | Broken:
    """Follow the chain from its first line to the one that the head names.

    The files may be written to meanwhile: what comes after the end that was found at first is not looked at.

    Args:
        path: the file that is written to; the full ones are found beside it.
        *expected: hashes that were printed earlier; for each there must be a line that has it.
        key: where the key lies, None for beside the file.
        after: the hash of the last line of full files that were moved away; None if all must be there.

    Raises:
        OSError: a file cannot be read; FileNotFoundError if there is nothing of an audit at all.
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
        # The file that is written to is opened first: if it is rotated before the others are counted it is looked at twice.
        active = _File.opened(path, path, stack)
        return _Chain(path, secret, head, set(expected), after).followed(active, stack)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the chain, as long as it was when it was opened."""

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
        """Its lines with their newlines, the last perhaps without."""
        with os.fdopen(os.dup(self.descriptor), "rb") as file:
            left = self.size
            file.seek(0)
            while left > 0 and (line := file.readline(left)):
                left -= len(line)
                yield line


class _Chain:
    """The way along the files."""

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
        """All files with their numbers, in order."""
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
            if active is not None and file.same(active):  # rotated since, or a crash left the file both names
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
