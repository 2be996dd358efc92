"""Fixtures: a PostgreSQL server, one for all tests of a process, and job stores on it, each in a schema of its own."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from benchmarks.postgres_server import postgres_server
from postgres_resources import EmptyStores, empty_stores

from fhir_bulk_middleware.stores.postgres import PostgresJobStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a PostgreSQL: that of TEST_POSTGRES_DSN, else one of our own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as own:
        with psycopg.connect(own, autocommit=True) as connection:  # no test lets the machine lose power
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield own


@pytest.fixture(scope="session")
def empty_postgres(postgres: str) -> Iterator[EmptyStores]:
    """Resource stores, one after the other, each empty when it is given."""
    with empty_stores(postgres) as stores:
        yield stores


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    """The name of a schema that is this test's own, removed afterwards."""
    name = f"t_{secrets.token_hex(6)}"
    yield name
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode())


@pytest.fixture
def store_on(postgres: str, schema: str) -> Iterator[Callable[..., PostgresJobStore]]:
    """Makes stores on this test's schema; `dsn` is that of a proxy or of another role."""
    made: list[PostgresJobStore] = []

    def make(dsn: str = postgres, **options: Any) -> PostgresJobStore:
        store = PostgresJobStore(dsn, schema=schema, **{"patience": 60.0} | options)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(store_on: Callable[..., PostgresJobStore]) -> PostgresJobStore:
    """A job store that is this test's own."""
    return store_on()
