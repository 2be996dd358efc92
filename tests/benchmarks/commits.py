"""Counts what a server and its workers make durable: commits that changed a database, and fsyncs of files and folders.

Each process appends a byte for each to one file, if it is there when the process begins.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["Commits", "count_commits"]

_NAME = "commits"
_JOBS, _OTHER, _FILE = b"j", b"o", b"f"


class Commits:
    """What was counted below a folder; to be made before the processes that count.

    Args:
        folder: the one of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / _NAME
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._file.write_bytes(b"")

    @property
    def jobs(self) -> int:
        """Of the job store."""
        return self._file.read_bytes().count(_JOBS)

    @property
    def everything(self) -> int:
        """Of all databases, and of files and folders."""
        return len(self._file.read_bytes())


def count_commits(folder: Path) -> None:
    """Let this process count from now on, if somebody wants it; to be called once."""
    if not (folder / _NAME).exists():
        return
    descriptor = os.open(folder / _NAME, os.O_WRONLY | os.O_APPEND)
    write_here, fsync = Database.write_here, os.fsync

    def counted(database: Database, change: Callable[[sqlite3.Connection], Any]) -> Any:
        wrote = False

        def seen(connection: sqlite3.Connection) -> Any:
            nonlocal wrote
            before = connection.total_changes
            result = change(connection)
            wrote = connection.total_changes != before
            return result

        result = write_here(database, seen)
        if wrote:
            os.write(descriptor, _JOBS if database.path.name == "jobs.db" else _OTHER)
        return result

    def counted_fsync(fd: Any) -> None:
        fsync(fd)
        os.write(descriptor, _FILE)

    Database.write_here = counted  # type: ignore[method-assign, assignment]  # for the rest of this process
    os.fsync = counted_fsync
