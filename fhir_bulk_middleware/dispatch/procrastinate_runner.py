"""A runner whose work is carried out by workers of procrastinate, on any number of machines."""

import asyncio
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AppNotOpen, ConnectorException, TaskAlreadyRegistered
from procrastinate.jobs import Status
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from fhir_bulk_middleware.contract.running import Work
from fhir_bulk_middleware.dispatch.tickets import Tickets
from fhir_bulk_middleware.stores.postgres.failures import in_words
from fhir_bulk_middleware.workers.runner import beside
from fhir_bulk_middleware.workers.step_threads import StepThreads

__all__ = ["ProcrastinateRunner"]

_log = logging.getLogger("fhir_bulk_middleware")

_STEP = "fhir_bulk:step"
_RETRY_STALLED = "fhir_bulk:retry_stalled"
_ALIVE = """
    SELECT count(*) AS alive FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %(seconds)s)
"""
# From the catalogue itself: after the wait for a lock, `to_regclass` may answer from a cache that the wait did not refresh.
_PRESENT = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'procrastinate_jobs'"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_POLL = 1.0
_PAUSE_LONGEST = 30.0
_MINUTE = 60
_SETTLED = 10.0
_STAY = 1.0
"""Seconds for which a task goes on with further pieces of work. Tasks of a higher priority wait so long, as do drains."""
_UNREGISTERING = 10.0
"""Seconds that a worker has, after its pieces of work have ended, to take its leave of a database that may be away."""


class ProcrastinateRunner:
    """A `WorkingDispatcher` on procrastinate: a waiting task for each piece of free work (extra `procrastinate`).

    procrastinate decides only where work runs. The leases of the job store decide whose results count, so workers of
    procrastinate, worker processes of servers and other dispatchers may serve the same jobs side by side, and nothing is
    published twice.

    A server that is given this runner carries no work out: at least one worker must run, `fhir-bulk worker --app MODULE:NAME`
    or procrastinate's own worker with the house's App. The job store must count its work (`SupportsBacklog`), as
    `PostgresJobStore` does.

    The tasks are `fhir_bulk:step`, with the adapter's name as their only argument, and `fhir_bulk:retry_stalled`, which gives
    back, every half of `stalled_after`, the tasks of workers without a heartbeat. For a second a task goes on with further pieces
    of work, and takes the task of each out of the queue, so that small pieces do not cost a task each and as many tasks wait as
    there are pieces of free work.

    Args:
        app: the house's own App, to which our tasks are added and whose tables must be there; or the connection string of a
            PostgreSQL, where the runner makes its own tables. Hints need a session, so not through PgBouncer.
        queue: the queue of our tasks. Adapters that are not served by the same workers need different ones, and so do several
            job stores with an adapter of the same name.
        priority: the priority of our tasks among those of other queues that a worker serves.
        concurrency: how many pieces of work `fhir-bulk worker` carries out at a time, each in a thread of its own. More than one
            is good for a storage that makes readers wait; for more of the machine, start more workers.
        drain: seconds in which a worker that is stopped may finish its work; then it gives it back.
        heartbeat: seconds between signs of life of `fhir-bulk worker`.
        stalled_after: seconds of silence after which the tasks of a worker are given to others. The work itself is free again as
            soon as its lease has run out (`lease_seconds`).
        schema: the schema for the tables of procrastinate, where a connection string is given.

    Raises:
        ImportError: procrastinate is missing.
        ValueError: the App has a `ProcrastinateRunner` already, or an argument has another form.
    """

    def __init__(
        self,
        app: App | str,
        *,
        queue: str = "fhir_bulk",
        priority: int = 0,
        concurrency: int = 1,
        drain: float = 20.0,
        heartbeat: float = 10.0,
        stalled_after: float = 30.0,
        schema: str = "fhir_bulk_tasks",
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency: a positive number is required")
        if not 0 < heartbeat < stalled_after:
            raise ValueError("heartbeat: a positive number below stalled_after is required, or living workers count as stalled")
        if _SCHEMA.fullmatch(schema) is None:
            raise ValueError(f"schema: 1 to 63 lower-case letters, digits and underscores are required, not {schema!r}")
        self._dsn = app if isinstance(app, str) else None
        self._schema = schema
        self.app = _own_app(app, schema) if isinstance(app, str) else app
        """The App, to which a house may add tasks of its own."""
        self._queue = queue
        self._concurrency = concurrency
        self._drain = drain
        self._heartbeat = heartbeat
        self._stalled_after = stalled_after
        self._tickets = Tickets(self.app, _STEP, queue=queue, priority=priority)
        self._works: dict[str, StepThreads] = {}
        self._woken: list[asyncio.Event] = []
        self._users = 0
        self._leaving = False
        self._opening = anyio.Lock()
        self._opened_here = False
        self._register(priority)

    def _register(self, priority: int) -> None:
        try:
            self.app.task(name=_STEP, queue=self._queue, priority=priority)(self._step)
        except TaskAlreadyRegistered:
            raise ValueError("app: this App has a ProcrastinateRunner already; give that one to each BulkData") from None
        every = max(1, int(self._stalled_after / 2))
        cron = f"* * * * * */{every}" if every < _MINUTE else "* * * * *"
        # No lock: a task that is killed would keep it. The queueing lock keeps more than one from waiting.
        lock = f"fhir_bulk/{self._queue}/stalled"
        task = self.app.task(name=_RETRY_STALLED, queue=self._queue, priority=priority + 1, queueing_lock=lock)
        self.app.periodic(cron=cron, periodic_id=self._queue)(task(self._retry_stalled))

    def bind(self, work: Work) -> None:
        """See `Dispatcher`."""
        if work.adapter not in self._works or self._works[work.adapter].work is not work:
            self._works[work.adapter] = StepThreads(work)

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        """See `JobRunner`: keep as many tasks waiting as there are pieces of free work.

        Raises:
            TypeError: the job store does not count its work.
            RuntimeError: the tables of procrastinate are missing, and cannot be made.
            Refused: `BUSY`: the job store cannot answer now.
        """
        await work.backlog(1)
        woken = asyncio.Event()
        async with self._open():
            self._woken.append(woken)
            try:
                async with beside([partial(self._dispatch, work, woken)]):
                    yield
            finally:
                self._woken.remove(woken)

    @asynccontextmanager
    async def working(self, work: Work) -> AsyncGenerator[None]:
        """See `WorkingDispatcher`: be a worker of procrastinate, for the queue of this runner."""
        self.bind(work)
        async with self._open():
            # A task of asyncio's own: procrastinate drains when it is cancelled once, and AnyIO cancels again and again.
            serving = asyncio.create_task(self._serve(), name="fhir-bulk-procrastinate")
            self._leaving = False
            try:
                yield
            finally:
                self._leaving = True
                serving.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({serving}, timeout=self._drain + _UNREGISTERING)

    def wake(self) -> None:
        """See `JobRunner`."""
        for woken in self._woken:
            woken.set()

    async def workers_alive(self) -> int:
        """See `SupportsWorkerCount`; on all machines, with the house's other workers of the same App."""
        if not self._users:
            return 0
        (row,) = await self.app.connector.execute_query_all_async(_ALIVE, seconds=self._stalled_after)
        return int(row["alive"])

    async def migrate(self) -> None:
        """Make the tables of procrastinate if there are none, where a connection string was given.

        Tables of an older procrastinate are brought up to date as its documentation says.

        Raises:
            RuntimeError: the App is the house's and its tables are missing, or the database cannot be reached, or this role may
                not make them.
        """
        try:
            if self._dsn is None:
                async with self._open():
                    return
            await self._make_tables(self._dsn)
        except (psycopg.Error, ConnectorException) as error:
            raise RuntimeError(f"runner: the tables of procrastinate cannot be looked for or made: {in_words(error)}") from error

    async def _make_tables(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            if (await connection.execute(_PRESENT, (self._schema,))).rowcount:
                return
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._schema,))
            if not (await connection.execute(_PRESENT, (self._schema,))).rowcount:
                schema = Identifier(self._schema)
                await connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
                await connection.execute(SQL("SET LOCAL search_path TO {}").format(schema))
                await connection.execute(self.app.schema_manager.get_schema())

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        """Have the App open; an App that the house opened stays open."""
        async with self._opening:
            if self._users == 0:
                await self._begin()
            self._users += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._opening:
                    self._users -= 1
                    if self._users == 0 and self._opened_here:
                        await self.app.close_async()

    async def _begin(self) -> None:
        if self._dsn is not None:
            await self.migrate()
        try:
            tables = await self.app.check_connection_async()
            self._opened_here = False
        except AppNotOpen:
            await self.app.open_async()
            self._opened_here = True
            tables = await self.app.check_connection_async()
        if not tables:
            if self._opened_here:
                await self.app.close_async()
            raise RuntimeError("runner: procrastinate's tables are missing; make them with `procrastinate schema --apply`")

    async def _dispatch(self, work: Work, woken: asyncio.Event) -> None:
        async def wait(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await woken.wait()

        failures = 0
        while True:
            woken.clear()
            try:
                await self._tickets.top_up(work)
                failures = 0
            except Exception:  # noqa: BLE001 - a database that is away must not end the runner
                failures += 1
                if failures == 1:
                    _log.exception("work cannot be handed to procrastinate for a while; it is tried again")
                await anyio.sleep(_pause(failures))
            await wait(_POLL)

    async def _serve(self) -> None:
        """Be a worker until cancelled. procrastinate's stops if it loses the database; then another one is started."""
        failures = 0
        try:
            while True:
                begun = time.monotonic()
                try:
                    await self.app.run_worker_async(
                        queues=[self._queue],
                        name=_unique(),
                        concurrency=self._concurrency,
                        shutdown_graceful_timeout=self._drain,
                        install_signal_handlers=False,
                        fetch_job_polling_interval=_POLL,
                        abort_job_polling_interval=_POLL,
                        update_heartbeat_interval=self._heartbeat,
                        stalled_worker_timeout=self._stalled_after,
                        delete_jobs=self.app.worker_defaults.get("delete_jobs", "successful"),
                    )
                except Exception:  # noqa: BLE001 - see above
                    _log.exception("the worker of procrastinate ended; another one is started")
                failures = 0 if time.monotonic() - begun > _SETTLED else failures + 1
                await asyncio.sleep(_pause(failures))
        finally:
            for threads in self._works.values():
                threads.close()

    async def _step(self, adapter: str) -> None:
        """The task: a step of the work of an adapter, and further ones for a while, each of which takes a ticket that waits."""
        if adapter not in self._works:
            raise LookupError(
                f"this worker does not know the adapter {adapter!r}: import what makes its BulkData (import_paths of the App), or"
                f" give the runner of that BulkData a queue of its own, which is not {self._queue!r}"
            )
        ends = time.monotonic() + _STAY
        while await self._works[adapter].step(_unique()):
            self.wake()  # one step may make work for many
            if time.monotonic() > ends or not await self._another(adapter):
                return

    async def _another(self, adapter: str) -> bool:
        """Whether a further ticket was there and is taken; none if procrastinate's database cannot answer now.

        A worker that is stopped begins nothing more (a house's own one does, for as long as its task may go on).
        """
        with suppress(ConnectorException):
            return not self._leaving and await self._tickets.take(adapter)
        return False

    async def _retry_stalled(self, timestamp: int) -> None:
        """The periodic task: give back the tasks of workers without a heartbeat."""
        del timestamp
        manager = self.app.job_manager
        for job in await manager.get_stalled_jobs(queue=self._queue, seconds_since_heartbeat=self._stalled_after):
            try:
                await manager.retry_job(job)
            except ConnectorException:  # another one waits under its queueing lock, or it has ended meanwhile
                try:
                    await manager.finish_job(job, Status.FAILED, delete_job=True)
                except ConnectorException:
                    _log.debug("task %s was stalled and has ended meanwhile", job.id)


def _own_app(dsn: str, schema: str) -> App:
    """An App whose tables are in a schema of their own."""
    given = str(conninfo_to_dict(dsn).get("options") or "")
    arguments = {"options": f"{given} -c search_path={schema}".strip(), "prepare_threshold": None}
    pool = partial(AsyncConnectionPool, configure=_without_transactions)
    return App(connector=PsycopgConnector(pool_factory=pool, conninfo=dsn, kwargs=arguments, min_size=1, max_size=4))


async def _without_transactions(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    """Each statement of procrastinate is a transaction of its own: to begin and commit it would be two more."""
    await connection.set_autocommit(True)


def _unique() -> str:
    """A name that no other worker has had, also where a pod comes back with the same host name and process id."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"


def _pause(failures: int) -> float:
    return float(min(0.25 * 2 ** min(failures, 10), _PAUSE_LONGEST))
