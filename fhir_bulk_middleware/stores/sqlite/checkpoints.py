"""When and how the write-ahead log of a SQLite file is copied back into it.

SQLite before 3.51.3 (but for 3.50.7 and 3.44.6) has a fault that can lose a commit or damage the file: while one connection
begins a checkpoint, another commits a transaction that starts the log over, and a later checkpoint skips part of it
(https://sqlite.org/wal.html#walresetbug). Several processes that write to one file, as ours do, can meet it, and few builds of
Python have a newer SQLite. So no connection of ours checkpoints by itself, and whoever does it holds the write lock meanwhile:
then nobody can start the log over. What other programs do to the file (a backup tool that checkpoints, the `sqlite3` shell) is
not covered.
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
    """The checkpoints that one process makes of one file.

    Each process counts its own commits, and looks how far the log has grown: it is about as long as SQLite's own checkpoints
    would leave it, times the number of processes that write.

    Args:
        path: the file.
        page_size: bytes of its pages.
    """

    def __init__(self, path: Path, page_size: int) -> None:
        self._path = path
        self._log = f"{path}-wal"
        self._growth = _PAGES * page_size
        self._commits = 0
        self._size = 0

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Make a checkpoint if it is time for one. Never fails: the commit stands, and a later one tries again."""
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
