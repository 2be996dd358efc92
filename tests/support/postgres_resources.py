"""Resource stores in PostgreSQL for tests, by a clock that tests can set."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from house import HandClock
from psycopg.conninfo import make_conninfo

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.postgres.resource_writing import Writing
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.postgres.schema import resource_tables
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["EmptyStores", "empty_stores", "writing_on"]

_KEPT = ("resource_schema_version", "resource_type", "resource_posting_parameter", "test_clock")


class EmptyStores:
    """Stores in one schema of a server, one after the other, each empty when it is given.

    Args:
        dsn: of the server.
        schema: the name of the schema.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.tables = resource_tables(schema)
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._made: list[PostgresResourceStore] = []

    def store(self, clock: HandClock | None = None, **options: Any) -> PostgresResourceStore:
        """An empty store; its database has the clock, or else the machine's."""
        self.close_stores()
        store = self.another(**options)
        store.open()
        self.empty()
        self.run("CREATE TABLE IF NOT EXISTS {}.test_clock AS SELECT 0::bigint AS now")
        if clock is None:
            self._clock("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        else:
            self._clock(f"(SELECT now FROM {self.schema}.test_clock)")  # noqa: S608 - ours
            clock.follow(self.set)
        return store

    def another(self, **options: Any) -> PostgresResourceStore:
        """A further store on the same tables: another process of the host. PostgreSQL knows it by the name of the schema."""
        dsn = make_conninfo(options.pop("dsn", self.dsn), application_name=self.schema)
        store = PostgresResourceStore(dsn, schema=self.schema, **{"wait_for_writers": 0, "patience": 60} | options)
        self._made.append(store)
        return store

    def offset(self, seconds: float) -> None:
        """Set the database's clock, in seconds from the machine's."""
        self._clock(f"((extract(epoch FROM clock_timestamp()) + {seconds}) * 1000000)::bigint")

    def close_stores(self) -> None:
        """Close the stores that were given."""
        while self._made:
            self._made.pop().close()

    def close(self) -> None:
        """Remove the schema."""
        self.close_stores()
        self.run("DROP SCHEMA IF EXISTS {} CASCADE")
        self._connection.close()

    def set(self, now: Instant) -> None:
        """Set the clock of the store that was given with one."""
        if not self._connection.closed:
            self._connection.execute(f"UPDATE {self.schema}.test_clock SET now = %s".encode(), (now,))  # noqa: S608 - ours

    def run(self, statement: str) -> None:
        """Run a statement, with the name of the schema for the braces."""
        self._connection.execute(statement.format(self.schema).encode())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a query, with the name of the schema for the braces."""
        return self._connection.execute(statement.format(self.schema).encode()).fetchall()

    def empty(self) -> None:
        """Remove all rows, and count keys from the beginning again: a test may read all there can be in very small steps."""
        tables = self._connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (self.schema,)).fetchall()
        self.run("; ".join(f"DELETE FROM {{0}}.{name}" for (name,) in tables if name not in _KEPT))  # noqa: S608
        self.run("ALTER SEQUENCE {}.resource_counter RESTART")

    def _clock(self, now: str) -> None:
        self.run(f"CREATE OR REPLACE FUNCTION {{}}.bulk_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$SELECT {now}$$")


def writing_on(connection: "psycopg.Connection[Any]", store: PostgresResourceStore) -> Writing:
    """A write in a transaction of the test, which is open on a connection of its own."""
    session = Session.__new__(Session)  # it would make a connection
    session._connection = cast("Any", connection)
    session._tables = store._tables
    session.transaction = session.one("SELECT pg_current_xact_id()::text")
    return Writing(session, store._types)


@contextmanager
def empty_stores(dsn: str) -> Iterator[EmptyStores]:
    """Stores in a schema of their own."""
    stores = EmptyStores(dsn, f"t_{secrets.token_hex(6)}")
    try:
        yield stores
    finally:
        stores.close()
