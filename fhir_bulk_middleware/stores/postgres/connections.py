"""A bounded set of connections to PostgreSQL, transactions on them, and what becomes of failures.

A step that fails for a while is repeated: it was rolled back, so it is as if it never ran. The one exception is a connection that
is lost between the commit and its answer. Then the server is asked by the transaction's id whether it was committed
(`pg_xact_status`): if so the step has its result, if not it is repeated. So no step is made twice.
"""

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg

from fhir_bulk_middleware.stores.postgres import schema
from fhir_bulk_middleware.stores.postgres.failures import PoolerUnfit, PostgresBusy, in_words, is_temporary, unfit_pooler
from fhir_bulk_middleware.stores.postgres.session import Session, Tables, options

__all__ = ["Connections"]

_log = logging.getLogger("fhir_bulk_middleware")

T = TypeVar("T")

_IDLE_SECONDS = 300.0
_LIFETIME_SECONDS = 1_800.0
_PAUSE_SHORTEST, _PAUSE_LONGEST = 0.02, 1.0
_CROWDED_SECONDS = 60.0
"""How often at most the log says that steps wait for a connection in vain."""
_SILENT_SECONDS = 20.0
"""How long a server process waits for the answer to one statement, beyond its patience: PostgreSQL may be frozen."""
_SILENT_FOR_WORKERS = 300.0
"""As above for a worker process, in which a read may take long; PostgreSQL itself ends a statement that writes after a minute."""


class _Doubt(Exception):  # noqa: N818 - an outcome
    """A commit was sent, and the connection was lost before the answer."""

    def __init__(self, transaction: str) -> None:
        super().__init__(transaction)
        self.transaction = transaction


class Connections:
    """Connections of one process, opened when they are needed and closed when they have been idle for five minutes.

    Steps run in threads, at most `at_most` at a time, or, if `blocking`, in the calling thread. The process may fork: the child
    opens connections of its own.

    Args:
        dsn: the connection string, as libpq reads it.
        tables: the tables.
        at_most: the number of threads and of connections; without meaning if `blocking`, where each thread that calls has one.
        patience: seconds in which a step is repeated before it raises `PostgresBusy`.
        blocking: whether steps run in the calling thread, as in a worker process.
        prepares: whether statements that are repeated are prepared, which must find their rows by indexes.

    Raises:
        ValueError: the DSN cannot be read.
    """

    def __init__(
        self, dsn: str, tables: Tables, *, at_most: int, patience: float, blocking: bool, prepares: bool = False
    ) -> None:
        self._options = options(dsn)
        self._tables = tables
        self._at_most = at_most
        self._patience = patience
        self._limit = _SILENT_FOR_WORKERS if blocking else patience + _SILENT_SECONDS
        self._blocking = blocking
        self._prepares = prepares
        self._of_parents: list[list[Session]] = []
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._executor: ThreadPoolExecutor | None = None
        self._migrating = threading.Lock()
        self._checked = self._failing = False
        self._crowded_at = -math.inf
        self._thread = threading.local()
        """`unlimited`: whether statements of this thread may take as long as they need."""
        self._finalizer = weakref.finalize(self, _close, self._idle)
        self._finalizer.atexit = False

    async def read(self, step: Callable[[Session], T], *, snapshot: bool = False) -> T:
        """Run a step that writes nothing; with `snapshot` all that it reads is as of one instant.

        Raises:
            PostgresBusy: the server could not answer in time.
        """
        return await self._run(lambda: self._read_once(step, snapshot=snapshot))

    async def write(self, step: Callable[[Session], T]) -> T:
        """Run a step in one transaction, which is durable when this returns.

        The step may run several times; only one of them is committed. An exception rolls back. If the caller is cancelled, the
        transaction still commits or rolls back as a whole.

        Raises:
            PostgresBusy: the server could not answer in time. If the connection was lost between commit and answer and the server
                stayed away, the transaction may have been committed; the log says so.
        """
        return await self._run(lambda: self._write_once(step))

    def write_here(self, step: Callable[[Session], T]) -> T:
        """As `write`, in the calling thread, which is blocked, and with statements of any length: for loaders."""
        return self._here(lambda: self._write_once(step))

    def read_here(self, step: Callable[[Session], T]) -> T:
        """As `write_here`, for a step that writes nothing."""
        return self._here(lambda: self._read_once(step, snapshot=False))

    @contextmanager
    def lent(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in a transaction of its own, in which names are those of our schema, for `PostgresCuts`.

        Raises:
            psycopg.Error: the server failed; `patiently` and `repeated` call again what asked for the connection.
        """
        self._know_process()
        with self._session() as session, session.named() as connection:
            yield connection

    async def patiently(self, ask: Callable[[], T]) -> T:
        """As `read`, for a function that gets its connections from `lent` and writes nothing."""
        return await self._run(ask)

    async def repeated(self, ask: Callable[[], Awaitable[T]]) -> T:
        """As `patiently`, for a coroutine function that may be called several times."""
        until, pause = time.monotonic() + self._patience, _PAUSE_SHORTEST
        while True:
            try:
                return await ask()
            except psycopg.Error as error:
                if not is_temporary(error):
                    raise
                self._tell(error)
                if time.monotonic() + pause > until:
                    raise PostgresBusy from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run slow work without a connection: in a thread, or in the calling one if `blocking`."""
        return work() if self._blocking else await asyncio.to_thread(work)

    async def migrate(self) -> None:
        """Bring the schema up to date now.

        Raises:
            SchemaUnfit: see `schema`.
            PostgresBusy: the server could not answer in time.
        """
        await self.read(lambda _: None)  # each first use does

    def close(self) -> None:
        """Close the connections, after the steps that run. The next use opens new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        with self._lock:
            _close(self._idle)

    def _here(self, once: Callable[[], T]) -> T:
        self._know_process()
        self._thread.unlimited = True
        try:
            return self._repeated(once, time.monotonic() + self._patience)
        finally:
            self._thread.unlimited = False

    async def _run(self, once: Callable[[], T]) -> T:
        until = time.monotonic() + self._patience
        self._know_process()
        if self._blocking:
            return self._repeated(once, until)
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=self._at_most, thread_name_prefix="postgres")
            ran = asyncio.get_running_loop().run_in_executor(self._executor, self._repeated, once, until)
        return await ran  # if that is cancelled, a step that runs goes on to its end, and nobody asks for its result

    def _repeated(self, once: Callable[[], T], until: float) -> T:
        """Run until it succeeds; BUSY if it does not in time. A step that waited for too long for its thread is not begun."""
        if time.monotonic() > until:
            self._tell_crowded()
            raise PostgresBusy
        pause = _PAUSE_SHORTEST
        while True:
            try:
                result = once()
            except psycopg.Error as error:
                if not is_temporary(error):
                    raise
                if (sentence := unfit_pooler(error)) is not None:
                    raise PoolerUnfit(sentence) from error
                self._tell(error)
                if time.monotonic() + pause > until:
                    raise PostgresBusy from error
            else:
                if self._failing:
                    self._failing = False
                    _log.warning("PostgreSQL answers again")
                return result
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)

    def _read_once(self, step: Callable[[Session], T], *, snapshot: bool) -> T:
        with self._session() as session:
            if snapshot:
                session.begin_snapshot()
            result = step(session)
            if snapshot:
                session.commit()  # after a rollback psycopg would prepare all statements again
            return result

    def _write_once(self, step: Callable[[Session], T]) -> T:
        try:
            with self._session() as session:
                transaction = session.begin()
                result = step(session)
                try:
                    session.commit()
                except psycopg.Error as error:
                    if session.lost:
                        raise _Doubt(transaction) from error
                    raise
        except _Doubt as doubt:
            if not self._committed(doubt.transaction):
                raise psycopg.OperationalError("the connection was lost before a commit") from doubt
        return result

    def _committed(self, transaction: str) -> bool:
        """Whether a transaction was committed whose connection is lost."""
        until, pause = time.monotonic() + self._patience, _PAUSE_SHORTEST
        while True:
            try:
                with self._session() as session:
                    status = session.one("SELECT pg_xact_status(%(id)s::xid8)", {"id": transaction})
                if status in {"committed", "aborted"}:
                    return bool(status == "committed")
            except psycopg.errors.InvalidParameterValue:  # "in the future": a server took over that never received it
                return False
            except psycopg.Error as error:
                if not is_temporary(error):
                    raise
                self._tell(error)
            if time.monotonic() > until:
                self._failing = True
                _log.error(
                    "the connection to PostgreSQL was lost during a commit, and it does not say in time what became of it: a "
                    "change that is answered as busy may be made"
                )
                raise PostgresBusy
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """A connection for this thread, kept for the next step if it is fit for one."""
        session = self._taken()
        session.limit = None if getattr(self._thread, "unlimited", False) else self._limit
        try:
            if not self._checked:
                self._migrate(session)
            if self._prepares:
                session.prepare_repeated()
            yield session
        except BaseException as error:
            with suppress(psycopg.Error):  # it is rolled back with its connection
                session.rollback()
            if isinstance(error, psycopg.Error) and is_temporary(error):
                session.close()  # another connection may lead to another server
            raise
        finally:
            self._give_back(session)

    def _taken(self) -> Session:
        with self._lock:
            while self._idle:
                session = self._idle.pop()
                if not session.lost and time.monotonic() - session.opened < _LIFETIME_SECONDS:
                    return session
                session.close()
        return Session(self._options, self._tables)

    def _give_back(self, session: Session) -> None:
        session.used = time.monotonic()
        with self._lock:
            if session.lost or not session.between_transactions:
                session.close()
            else:
                self._idle.append(session)
            while self._idle and time.monotonic() - self._idle[0].used > _IDLE_SECONDS:
                self._idle.pop(0).close()

    def _migrate(self, session: Session) -> None:
        """Make the schema fit for this release, before the first step of the process."""
        with self._migrating:
            if self._checked:
                return
            if not schema.check(session, self._tables):
                session.begin()
                schema.migrate(session, self._tables)
                session.commit()
            if session.one("SELECT current_setting('synchronous_commit') = 'off'"):
                _log.warning(
                    "synchronous_commit is off for this role or database: what was answered can be lost when the server "
                    "crashes (law 30)"
                )
            self._checked = True

    def _know_process(self) -> None:
        if os.getpid() != self._process:
            self._forked()

    def _forked(self) -> None:
        """Start afresh in the child, without closing the connections, which are the parent's."""
        self._finalizer.detach()
        self._of_parents.append(self._idle)
        self._begin()

    def _tell(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            _log.warning("PostgreSQL cannot answer, and is tried again: %s", in_words(error))

    def _tell_crowded(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._crowded_at < _CROWDED_SECONDS:
                return
            self._crowded_at = now
        _log.warning(
            "a step waited %g s for a connection to PostgreSQL (`connections` is %d) and was given up: PostgreSQL or this "
            "machine is slow, or more connections are needed",
            self._patience,
            self._at_most,
        )


def _close(sessions: list[Session]) -> None:
    while sessions:
        sessions.pop().close()
