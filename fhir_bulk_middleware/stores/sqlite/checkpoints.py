"""Checkpoints of a SQLite file, made so that a fault of older SQLite versions cannot lose a commit.

SQLite before 3.51.3 (but for 3.50.7 and 3.44.6) has a fault that can lose a commit or damage the file: while one connection
begins a checkpoint, another commits a transaction that starts the log over, and a later checkpoint skips part of it
(https://sqlite.org/wal.html#walresetbug). Several processes that write to one file, as ours do, can meet it, and few builds of
Python have a newer SQLite. So automatic checkpoints are off, and a checkpoint is made while a second connection holds the write
lock, so that no commit can start the log over meanwhile. Checkpoints that other programs make (a backup tool, the `sqlite3`
shell) are not covered.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

__all__ = ["Checkpoints"]

_COMMITS = 200
_PAGES = 1_000
_PATIENCE = 1.0


class Checkpoints:
    """The checkpoints that one process makes of one file, by its own commits and by the growth of the log.

    The log gets about as long as with SQLite's automatic checkpoints, times the number of processes that write.

    Args:
        path: the file.
        page_size: the size of its pages in bytes.
    """

    def __init__(self, path: Path, page_size: int) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._growth = _PAGES * page_size
        self._commits = 0
        self._size = 0

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Make a checkpoint if one is needed. Never raises, because the commit is done; a later call tries again."""
        self._commits += 1
        size = 0
        with suppress(OSError):
            size = os.stat(self._log).st_size  # noqa: PTH116 - after each commit
        if self._commits >= _COMMITS or size - self._size >= self._growth:
            with suppress(sqlite3.Error):  # busy, or the disk is full
                self._make(connection)
                self._commits, self._size = 0, size

    def _make(self, connection: sqlite3.Connection) -> None:
        with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                holder.rollback()
