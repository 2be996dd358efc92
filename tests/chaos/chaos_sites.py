"""Where a chaos run keeps jobs, resources and files, as the runner sees it: what lies there, and how to disturb it."""

import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import chaos_stores
import object_servers
import psycopg
from benchmarks.postgres_server import PostgresProcess, postgres_process
from chaos_stores import Services, Stores
from cutting_proxy import CuttingProxy
from faulty_proxy import FaultyProxy
from object_servers import BUCKET, ObjectServer
from postgres_fixture import set_clock
from psycopg.conninfo import make_conninfo

from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.texts import from_stored

__all__ = ["SITES", "OnPostgres", "Site"]

T = TypeVar("T")

_SCHEMA = "fhir_bulk"
_PREFIX = "chaos"
_PATIENCE = 60.0


class Site(Protocol):
    """Where a run keeps what it has.

    Attributes:
        name: its name among `SITES`.
        stores: those of the runner.
        workers: how many worker processes there are beside those that servers keep.
    """

    name: str
    stores: Stores
    workers: int

    def rows(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds in the job store; `?` stands for a value."""
        ...

    def lock(self, what: str, seconds: float) -> None:
        """Keep everybody from writing to the `jobs`, or to the `store`, for some time. Blocks."""
        ...

    def step(self, seconds: float) -> None:
        """Set everybody's clock so much ahead of the machine's."""
        ...

    def files(self) -> set[str]:
        """What lies in the output store, as job and name."""
        ...

    def empty_folders(self) -> list[str]:
        """Folders of jobs without a file."""
        ...


class OnSQLite:
    """SQLite and a folder."""

    name = "sqlite"
    workers = 0

    def __init__(self, state: Path) -> None:
        self._state = state
        self.step(0)
        self.stores = Stores(state)

    def rows(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self._state / "jobs.db", timeout=30) as connection:
            found = connection.execute(text, values).fetchall()
        connection.close()
        return found

    def lock(self, what: str, seconds: float) -> None:
        connection = sqlite3.connect(self._state / f"{what}.db", timeout=30, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
        finally:
            connection.rollback()
            connection.close()

    def step(self, seconds: float) -> None:
        chaos_stores.step(self._state, seconds)

    def files(self) -> set[str]:
        return _files(self._state / "exports")

    def empty_folders(self) -> list[str]:
        return [path.name for path in (self._state / "exports").glob("*") if path.is_dir() and not any(path.iterdir())]


class OnPostgres:
    """PostgreSQL and S3, each behind a proxy that can misbehave.

    Attributes:
        database: the server.
        commits: cuts connections at commits.
        objects: the proxy in front of the object store.
    """

    name = "postgres"
    workers = 2

    def __init__(
        self, state: Path, database: PostgresProcess, commits: CuttingProxy, objects: FaultyProxy, server: ObjectServer
    ) -> None:
        self._state = state
        self.database = database
        self.commits = commits
        self.objects = objects
        self._folder = server.folder / BUCKET / _PREFIX
        url = f"{server.url}/{_PREFIX}"
        config = dict(server.config)
        proxied = config | {"endpoint": f"http://127.0.0.1:{objects.port}"}
        Services(commits.dsn, database.dsn, url, proxied).save(state)
        self.stores = Stores(state, services=Services(database.dsn, database.dsn, url, config), patience=_PATIENCE)
        self.stores.resources.open()
        self.step(0)

    def rows(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        found = self._asked(lambda connection: connection.execute(text.replace("?", "%s").encode(), values).fetchall())
        return [tuple(map(from_stored, row)) for row in found]

    def lock(self, what: str, seconds: float) -> None:
        tables = {"jobs": "job, work", "store": "resource, bulk_cut"}[what]
        with suppress(psycopg.OperationalError), self._connected() as connection, connection.transaction():  # it may be cut
            connection.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE".encode())
            time.sleep(seconds)

    def step(self, seconds: float) -> None:
        """The resource store has the clock of its database."""
        chaos_stores.step(self._state, seconds)
        self._asked(lambda connection: set_clock(connection, round(seconds * 1_000_000)))

    def files(self) -> set[str]:
        return _files(self._folder)

    def empty_folders(self) -> list[str]:
        """None: an object store has no folders."""
        return []

    def cut_connections(self) -> None:
        """End all connections of servers, workers and the runner."""
        all_others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        text = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {all_others}"  # noqa: S608 - ours
        self._asked(lambda connection: connection.execute(text.encode()))

    def _connected(self) -> psycopg.Connection[Any]:
        """A connection of the runner's own, past the proxy."""
        dsn = make_conninfo(self.database.dsn, options=f"-csearch_path={_SCHEMA}", connect_timeout=5)
        return psycopg.connect(dsn, autocommit=True)

    def _asked(self, ask: Callable[[psycopg.Connection[Any]], T]) -> T:
        """The answer of the database, once it is there. Blocks."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                with self._connected() as connection:
                    return ask(connection)
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _files(folder: Path) -> set[str]:
    # `os.walk` passes over folders that are removed meanwhile.
    found = (Path(above) / name for above, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)) for path in found if path.parent != folder}


@asynccontextmanager
async def _on_sqlite(state: Path) -> AsyncGenerator[Site]:
    site = OnSQLite(_made(state))
    try:
        yield site
    finally:
        site.stores.close()


@asynccontextmanager
async def _on_postgres(state: Path) -> AsyncGenerator[Site]:
    os.environ |= {"AWS_ACCESS_KEY_ID": object_servers.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": object_servers.SECRET_KEY}
    chaos_stores.step(_made(state), 0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # its path is short enough for a socket
        database = stack.enter_context(postgres_process(folder, fsync="off", max_connections=200))
        commits = stack.enter_context(CuttingProxy(database.dsn).running())
        server = stack.enter_context(object_servers.s3(_made(state / "s3")))
        objects = FaultyProxy(server.address)
        async with objects.running():
            site = OnPostgres(state, database, commits, objects, server)
            try:
                if isinstance(site.stores.jobs, PostgresJobStore):
                    await (
                        site.stores.jobs.migrate()
                    )  # servers make the tables at their first use, and a round may lock them before
                yield site
            finally:
                site.stores.close()


SITES: dict[str, Callable[[Path], AbstractAsyncContextManager[Site]]] = {"sqlite": _on_sqlite, "postgres": _on_postgres}
