"""Connections and transactions of one SQLite file."""

import asyncio
import logging
import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_ROOM = 64 * 1024
"""KiB of the cache of a load; with SQLite's own 2 MB each write would read pages of the indexes again."""
_RETRY_AFTER = 5
_FULL_RETRY_AFTER = 60
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC})
"""The errors of a full disk, a quota, a size limit, and a disk that fills up in the middle of a page."""


class DatabaseBusy(Refused):
    """The file stayed locked by another process. Nothing was written; a retry may succeed a moment later."""

    def __init__(self) -> None:
        super().__init__(Reason.BUSY, "The server is busy; try again in a moment.", retry_after=_RETRY_AFTER)


class DatabaseFull(Refused):
    """The disk is full. Nothing was written; a retry may succeed once there is space."""

    def __init__(self) -> None:
        super().__init__(Reason.BUSY, "The server has no space left; try again later.", retry_after=_FULL_RETRY_AFTER)


class Database:
    """A file in WAL mode, with one writing thread and a reading connection for each thread.

    A point read costs some microseconds, less than a switch of threads, so `reader` is used in the event loop directly. Writes
    wait for the disk and go through `write`, one at a time.

    Files are opened on first use, and closed by `close` or with the object. The process may fork at any time: the parent closes
    its connections before, and both processes open new ones. Connections that other threads of the parent use at that moment stay
    open in the parent and are never used in the child; a server should not fork while it serves, because the child inherits their
    locks.

    Args:
        path: the file. A missing folder is made, and a new file is readable by its user only.
        migrations: one script for each version of the schema; `user_version` counts those that ran.
        synchronous: `FULL` if commits must survive power loss (law 30), `NORMAL` if the file must only not be corrupted.
        page_size: page size of a new file in bytes; large rows are read faster from larger pages.
        forgets: whether deleted content is overwritten in the file at once.
        blocking: whether `write` runs in the calling thread, as in a worker process, where switching threads costs more than the
            transaction.
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
        self._opened: list[tuple[sqlite3.Connection, threading.Thread]] = []  # always this list: the finalizer has it
        self._finalizer = weakref.finalize(self, _close, self._opened)
        self._finalizer.atexit = False
        self._executor: ThreadPoolExecutor | None = None
        self._checkpoints = Checkpoints(self.path, self._page_size)

    @property
    def reader(self) -> sqlite3.Connection:
        """The calling thread's connection, for reads. Rows are tuples.

        Raises:
            DatabaseBusy: the connection is new, and the file stayed locked for ten seconds.
        """
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            return connection
        with _told():
            return self._connection()

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in one write transaction, which is durable when this returns.

        An exception rolls back. If the caller is cancelled, the transaction still commits or rolls back as a whole.

        Raises:
            DatabaseBusy: the file stayed locked for ten seconds.
            DatabaseFull: the disk is full.
            sqlite3.Error: any other error of the database.
        """
        if self._blocking:
            return self.write_here(change)
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{self.path.stem}")
            written = asyncio.get_running_loop().run_in_executor(self._executor, self.write_here, change)
        return await written

    async def aside(self, work: Callable[[], T]) -> T:
        """Run slow work that writes nothing: in a thread, or in the calling one if this instance is `blocking`."""
        return work() if self._blocking else await asyncio.to_thread(work)

    def write_here(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """As `write`, in the calling thread, which is blocked: for worker processes and loaders."""
        with _told(), self._transaction() as connection:
            return change(connection)

    @contextmanager
    def roomy(self) -> Iterator[None]:
        """Give the calling thread's connection a larger cache, for many writes to all parts of the file."""
        with _told():
            connection = self._connection()
        (pages,) = connection.execute("PRAGMA cache_size").fetchone()
        connection.execute(f"PRAGMA cache_size={-_ROOM}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA cache_size={pages}")

    def close(self) -> None:
        """Close all connections. The next use opens new ones."""
        self._end_writing()
        with self._lock:
            _close(self._opened)
            self._opened.clear()
            self._local = threading.local()

    def before_fork(self) -> None:
        """Close the connections of this thread and of threads that have ended.

        SQLite counts the locks of a process in memory that a child inherits. A child that opens a file while its parent has it
        open believes it holds the parent's locks, and other processes may then remove the log that the child reads.
        """
        self._end_writing()
        with self._lock:
            here = threading.current_thread()
            used = [(connection, thread) for connection, thread in self._opened if thread is not here and thread.is_alive()]
            _close(opened for opened in self._opened if opened not in used)
            self._opened[:] = used
            self._local.__dict__.pop("connection", None)

    def after_fork(self) -> None:
        """Start afresh in the child, without closing the parent's connections, which could harm the parent."""
        self._finalizer.detach()
        forks.abandon([connection for connection, _ in self._opened])
        self._begin()

    def _end_writing(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()  # without the lock, because its last write may need it to open a connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.commit()
        except BaseException:  # also after a failed commit: an open transaction would block every later one
            connection.rollback()
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
        except BaseException:  # a connection that nobody gets must not stay open
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        latest = len(self._migrations)
        if connection.execute("PRAGMA user_version").fetchone()[0] == latest:
            return
        connection.execute("BEGIN IMMEDIATE")  # one process migrates; the others wait here
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
        except BaseException:  # whatever interrupts it, no half of a schema stays, and no lock
            connection.rollback()
            raise
        connection.commit()


def _close(opened: Iterable[tuple[sqlite3.Connection, threading.Thread]]) -> None:
    for connection, _ in opened:
        connection.close()


def _make_private(path: Path) -> None:
    """Make an empty file that only its user can read, unless it exists. SQLite gives its log and index files the same mode.

    The file is made under another name and linked, because closing a file that SQLite has open in this process would release
    SQLite's locks.
    """
    if path.exists():
        return
    with suppress(OSError):  # a read-only folder, no hard links, or a file made meanwhile: SQLite handles the rest
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(descriptor)
        try:
            os.link(name, path)
        finally:
            Path(name).unlink()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, with retries: SQLite refuses at once, as locked, if several connections switch a new file."""
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
    """Turn a lock that lasted too long, and a full disk, into `Refused(Reason.BUSY)`; other errors pass."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in _BUSY:  # the higher bits say which kind
            raise DatabaseBusy from error
        if error.sqlite_errorcode in _FULL:
            _log.error("a database could not be written: %s", error)
            raise DatabaseFull from error
        raise
