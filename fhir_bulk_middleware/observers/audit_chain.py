"""Elements of an audit file: signed lines, the head with the hash of the last line, and the key that signs both (law 37)."""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

__all__ = [
    "FIRST",
    "Head",
    "Key",
    "hash_of",
    "keep_key",
    "key_beside",
    "new_key",
    "nothing_there",
    "read_key",
    "rotated",
    "sync_folder",
]

FIRST = "0" * 64
"""The previous hash in the first line of a chain."""

_MAC = re.compile(rb',"mac":"([0-9a-f]{64})"\}\Z')
_SHORTEST_SECRET = 32
_LONGEST_HEAD = 4096
_ENVIRONMENT = "env:"


def hash_of(line: bytes) -> str:
    """The hash of a line without its newline, which the next line contains."""
    return hashlib.sha256(line).hexdigest()


@dataclass(frozen=True, slots=True)
class Key:
    """A secret for signing lines and heads and for digests of identifiers.

    Each use has its own prefix, so that a signature for one use is invalid for another.

    Attributes:
        secret: 32 bytes or more.
    """

    secret: bytes = field(repr=False)

    def signed(self, use: str, content: Mapping[str, JsonValue]) -> bytes:
        """A JSON object with its signature as the last member, `mac`."""
        text = json.dumps(content, separators=(",", ":")).encode()
        return text[:-1] + b',"mac":"' + self._mac(use, text).encode() + b'"}'

    def opened(self, use: str, text: bytes) -> dict[str, JsonValue] | None:
        """The object that was passed to `signed`; None if the signature is invalid for this key and use."""
        found = _MAC.search(text)
        if found is None:
            return None
        bare = text[: found.start()] + b"}"
        if not hmac.compare_digest(found[1], self._mac(use, bare).encode()):
            return None
        content = json.loads(bare)
        return content if isinstance(content, dict) else None

    def digest(self, text: str) -> str:
        """A digest of an identifier: 128 bits. Without the key a guessed identifier cannot be checked against it."""
        return self._mac("digest", text.encode(errors="surrogatepass"))[:32]

    def _mac(self, use: str, text: bytes) -> str:
        return hmac.new(self.secret, use.encode() + b"\0" + text, hashlib.sha256).hexdigest()


def key_beside(path: Path) -> Path:
    """The path of the key of an audit file without an explicit `key`."""
    return path.with_name(f"{path.name}.key")


def rotated(path: Path, number: int) -> Path:
    """The path of a rotated file."""
    return path.with_name(f"{path.name}.{number:06d}")


def read_key(where: str) -> Key:
    """Read the key from a file or an environment variable (`env:NAME`).

    Raises:
        OSError: it is missing, other users can read the file, or the secret is too short; the message says what to do.
    """
    if where.startswith(_ENVIRONMENT):
        name = where.removeprefix(_ENVIRONMENT)
        secret = os.environ.get(name, "").strip().encode()
        said = f"the environment variable {name}"
    else:
        secret = _private(Path(where))
        said = where
    if len(secret) < _SHORTEST_SECRET:
        raise PermissionError(f"{said} holds no audit key: put at least {_SHORTEST_SECRET} characters of secret there")
    return Key(secret)


def new_key() -> Key:
    """Generate a key of 256 random bits."""
    return Key(secrets.token_hex(32).encode())


def keep_key(key: Key, path: Path) -> None:
    """Write a key to a new file, atomically and durably."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    _write_new(beside, key.secret, durable=True)
    beside.replace(path)
    sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class Head:
    """The signed end of a chain, in a file of its own, which reveals truncation.

    Attributes:
        file: number of the file with the last line, from 1.
        size: size of that file in bytes up to the end of the last line.
        hash: the hash of the last line.
        day: the date (UTC) of the first line of that file.
    """

    file: int
    size: int
    hash: str
    day: str

    @staticmethod
    def place(path: Path) -> Path:
        """The path of the head of an audit file."""
        return path.with_name(f"{path.name}.head")

    @classmethod
    def read(cls, path: Path, key: Key) -> "Head | None":
        """Read the head of an audit file; None if it does not exist.

        Raises:
            ValueError: the file is not a head, or the key did not sign it.
        """
        text = cls._text(path)
        if text is None:
            return None
        match key.opened("head", text):
            case {"file": int(file), "size": int(size), "hash": str(hash_), "day": str(day)}:
                return cls(file, size, hash_, day)
        raise ValueError("the key did not sign the head")

    @classmethod
    def empty(cls, path: Path) -> bool:
        """Whether the head is missing or names no line; its signature is not checked."""
        text = cls._text(path)
        if text is None:
            return True
        try:
            return bool(json.loads(text)["size"] == 0)
        except (ValueError, KeyError, TypeError):
            return False

    def write(self, path: Path, key: Key, *, durable: bool) -> None:
        """Replace the head atomically. Call it after the lines are durable, so that a head never names a missing line.

        Raises:
            OSError: it could not be written; the old head remains.
        """
        place = self.place(path)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        text = key.signed("head", {"file": self.file, "size": self.size, "hash": self.hash, "day": self.day})
        _write_new(beside, text, durable=durable)
        beside.replace(place)
        if durable:
            sync_folder(place.parent)

    @classmethod
    def _text(cls, path: Path) -> bytes | None:
        try:
            with cls.place(path).open("rb") as file:
                return file.read(_LONGEST_HEAD)
        except FileNotFoundError:
            return None


def nothing_there(path: Path) -> bool:
    """Whether the folder has no file of this audit, except its key."""
    try:
        return not path.stat().st_size and not rotated(path, 1).exists() and Head.empty(path)
    except FileNotFoundError:
        return not rotated(path, 1).exists() and Head.empty(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise PermissionError(f"{path} holds an audit key and others may open it: chmod 600 {path.name}")
        return file.read(_LONGEST_HEAD).strip()


def _write_new(path: Path, text: bytes, *, durable: bool) -> None:
    """Write a new file with mode 0600."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while text:
            text = text[os.write(descriptor, text) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
