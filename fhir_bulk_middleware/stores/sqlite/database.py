"""One SQLite file: how it is opened, read and written."""

import asyncio
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.sqlite import forks
from fhir_bulk_middleware.stores.sqlite.checkpoints import Checkpoints

__all__ = ["Database", "DatabaseBusy", "DatabaseFull"]

_log = logging.getLogger("fhir_bulk_middleware")

T = TypeVar("T")

_BUSY_SECONDS = 10.0
_LOOK = 0.005
_RETRY_AFTER = 5
_FULL_RETRY_AFTER = 60
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC})
"""A full disk by its own name, and what a quota, a limit or a disk that is full in the middle of a page look like."""


class DatabaseBusy(Refused):
    """The file stayed locked by another process. Nothing was written, and the same request may succeed a moment later."""

    def __init__(self) -> None:
        super().__init__(Reason.BUSY, "The server is busy; try again in a moment.", retry_after=_RETRY_AFTER)


class DatabaseFull(Refused):
    """There was no space to write to. Nothing was written, and the same request may succeed once there is some."""

    def __init__(self) -> None:
        super().__init__(Reason.BUSY, "The server has no space left; try again later.", retry_after=_FULL_RETRY_AFTER)


class Database:
    """A file in WAL mode with one writing thread, unless it may block, and short reads from wherever they are needed.

    Opening is lazy, and a process may fork before an instance was used and after it: the parent closes its connections before it
    forks, and both open new ones. Connections that other threads of the parent use at that moment stay open there, and in the
    child are never touched: for the child's sake the parent should not fork while it serves. A point read costs some
    microseconds, less than handing it to a thread, so `reader` is used in the event loop directly; writes wait for the disk
    and go through `write`, one at a time.

    Args:
        path: the file; its folder is made if it is missing, and a new file is its user's alone.
        migrations: scripts that each lift the schema by one version; `user_version` counts those that ran.
        synchronous: `FULL` where a commit must survive power loss (law 30), `NORMAL` where it only must not corrupt.
        page_size: bytes of a page of a new file; large rows are read faster from larger pages.
        forgets: whether what is deleted is overwritten in the file, instead of standing there until its place is used again.
        blocking: whether `write` runs in the calling thread, which is right in a worker process: two threads that hand a
            transaction to each other and back cost more than the transaction.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        *,
        synchronous: Literal["FULL", "NORMAL"],
        page_size: int = 4096,
        forgets: bool = False,
        blocking: bool = False,
    ) -> None:
        self._forgets = forgets
        self.path = Path(path).absolute()
        self._migrations = tuple(migrations)
        self._synchronous = synchronous
        self._page_size = page_size
        self._blocking = blocking
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._opened: list[tuple[sqlite3.Connection, threading.Thread]] = []
        self._executor: ThreadPoolExecutor | None = None
        self._checkpoints = Checkpoints(self.path, self._page_size)

    @property
    def reader(self) -> sqlite3.Connection:
        """The calling thread's own connection, for reads. Rows are tuples; text is `str`.

        Raises:
            DatabaseBusy: it is not open yet, and the file stayed locked.
        """
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            return connection
        with _told():
            return self._connection()

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in one write transaction; durable when this returns.

        An exception rolls back. A caller that is cancelled stops waiting; the transaction still ends as a whole.

        Raises:
            DatabaseBusy: the file stayed locked for ten seconds.
            DatabaseFull: the disk is full.
            sqlite3.Error: as the database has it.
        """
        if self._blocking:
            return self.write_here(change)
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{self.path.stem}")
            written = asyncio.get_running_loop().run_in_executor(self._executor, self.write_here, change)
        return await written

    async def aside(self, work: Callable[[], T]) -> T:
        """Do what takes a while, but for writing, where it keeps no event loop waiting: in a thread, unless this may block."""
        return work() if self._blocking else await asyncio.to_thread(work)

    def write_here(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """As `write`, in the calling thread: for worker processes and loaders, where blocking is welcome."""
        with _told(), self._transaction() as connection:
            return change(connection)

    def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        self._end_writing()
        with self._lock:
            for connection, _ in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()

    def before_fork(self) -> None:
        """Close what this thread uses, and what no thread uses any more.

        SQLite counts the locks of a process in memory that a child inherits. A child that opens a file which its parent has open
        believes to hold locks that it does not hold, and others may then remove the log under its feet.
        """
        self._end_writing()
        with self._lock:
            here = threading.current_thread()
            unused = [(connection, thread) for connection, thread in self._opened if thread is here or not thread.is_alive()]
            for connection, _ in unused:
                connection.close()
            self._opened = [opened for opened in self._opened if opened not in unused]
            self._local.__dict__.pop("connection", None)

    def after_fork(self) -> None:
        """Begin anew in the child. What threads of the parent left open is kept as it is: closing it could harm the parent."""
        forks.abandon([connection for connection, _ in self._opened])
        self._begin()

    def _end_writing(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()  # without the lock: its last write may be about to open its connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()  # also after a commit that failed: a transaction left open would block every later one
            raise
        self._checkpoints.after_commit(connection)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
            with self._lock:
                self._opened.append((connection, threading.current_thread()))
        return connection

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _make_private(self.path)
        # Closed by `close` from another thread, used by its own thread only.
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size={self._page_size}")
            _log_ahead(connection)
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA secure_delete={'ON' if self._forgets else 'OFF'}")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        latest = len(self._migrations)
        if connection.execute("PRAGMA user_version").fetchone()[0] == latest:
            return
        connection.execute("BEGIN IMMEDIATE")  # one process migrates; the others wait here and find it done
        try:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > latest:
                raise RuntimeError(
                    f"{self.path.name} was written by a newer version of this package (schema {version} > {latest})"
                )
            for script in self._migrations[version:]:
                for statement in script.split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={latest}")
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _make_private(path: Path) -> None:
    """Make an empty file that no other user of the machine can read, unless there is one; SQLite's own beside it follow its mode.

    Made under another name and linked, for whoever closes a file that is open through SQLite here releases SQLite's locks on it.
    """
    if path.exists():
        return
    with suppress(OSError):  # a folder that is read-only or cannot link, a file that is there by now: the rest is SQLite's
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(descriptor)
        try:
            os.link(name, path)
        finally:
            Path(name).unlink()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode. SQLite does not wait here: of several who switch a new file at once, it refuses some as locked."""
    patience = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > patience:
                raise
            time.sleep(_LOOK)
        else:
            return


@contextmanager
def _told() -> Iterator[None]:
    """Tell a lock that outlasted our patience, and a full disk, from what cannot be mended by waiting."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in _BUSY:  # the rest of the code says which kind
            raise DatabaseBusy from error
        if error.sqlite_errorcode in _FULL:
            _log.error("a database could not be written: %s", error)
            raise DatabaseFull from error
        raise
