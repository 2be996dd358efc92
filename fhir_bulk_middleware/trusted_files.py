"""Checks that no other user of the machine can read or change a file: a private key, public keys, the folder of a server's state.

Files of root are trusted like the process's own, since root can do anything anyway.
"""

import os
import shlex
import stat
import tempfile
from pathlib import Path

__all__ = ["UntrustedFileError", "check_folder", "check_not_written_by_others", "make_private", "read_private"]

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFileError(ValueError):
    """Another user can read or write a file or folder, or owns it. The message says how to repair that."""


def read_private(path: str | os.PathLike[str]) -> bytes:
    """The content of a secret file.

    Raises:
        UntrustedFileError: the file belongs to another user, or others may read or write it.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())  # of the open file, since the path may point to another one by now
        _check_owner(path, status)
        if status.st_mode & _GROUP_AND_OTHERS:
            raise UntrustedFileError(
                f"{os.fspath(path)} is a private key that other users may read or write (mode {_mode(status)}). If nobody has: "
                f"chmod 600 {_quoted(path)}. Else remove it; a new key is made, and tokens signed with the old one are void."
            )
        return file.read()


def make_private(path: str | os.PathLike[str], data: bytes) -> bool:
    """Create a durable file that only its owner may read, atomically. False if the file already exists.

    If several processes do so at the same time, one succeeds.

    Raises:
        OSError: it cannot be created.
    """
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, target)
        except FileExistsError:
            return False
    finally:
        Path(name).unlink()
    _sync(target.parent)
    return True


def check_not_written_by_others(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """Refuse a file that other users may write; for public keys, which they may read.

    Raises:
        UntrustedFileError: others may write the file.
    """
    if status.st_mode & _WRITE_BY_OTHERS:
        raise UntrustedFileError(
            f"{os.fspath(path)} may be written by other users (mode {_mode(status)}), who could put keys of theirs into it. "
            f"Look what is in it, and then: chmod go-w {_quoted(path)}"
        )


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder in which other users can create files.

    Raises:
        UntrustedFileError: the folder belongs to another user, or others may write it.
        OSError: there is no such folder.
    """
    status = Path(path).stat()
    _check_owner(path, status)
    if status.st_mode & _WRITE_BY_OTHERS:
        raise UntrustedFileError(
            f"{os.fspath(path)} may be written by other users (mode {_mode(status)}), who could put keys and data into it. "
            f"Look what is in it, and then: chmod go-w {_quoted(path)}"
        )


def _check_owner(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if status.st_uid not in {os.geteuid(), 0}:
        raise UntrustedFileError(
            f"{os.fspath(path)} belongs to another user (uid {status.st_uid}; this process is uid {os.geteuid()}), "
            f"who can change it at will. Look what is in it, and then: chown {os.geteuid()} {_quoted(path)}; or name another one."
        )


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _quoted(path: str | os.PathLike[str]) -> str:
    return shlex.quote(os.fspath(path))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
