"""A real PostgreSQL for tests that keep documents in it: that of TEST_POSTGRES_DSN, else one from a wheel."""

import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.postgres_server import postgres_process
from psycopg.sql import SQL, Literal

__all__ = ["database", "server", "set_clock"]


@contextmanager
def server() -> Generator[str]:
    """The DSN of a server; one of our own takes prepared transactions."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, postgres_process(Path(folder), fsync="off") as own:
        yield own.dsn


@contextmanager
def database(server: str, schema: str) -> Generator[str]:
    """The DSN of a namespace of one's own with these tables. Commits need not survive a crash of the machine."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
        own = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"
        with psycopg.connect(own, autocommit=True) as inside:
            inside.execute(schema.encode())
        yield own
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


def set_clock(connection: psycopg.Connection[Any], offset: int) -> None:
    """Set the clock of `bulk_instant`, in microseconds from the machine's."""
    now = SQL("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {}").format(Literal(offset))
    connection.execute(SQL("CREATE OR REPLACE FUNCTION bulk_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $${}$$").format(now))
