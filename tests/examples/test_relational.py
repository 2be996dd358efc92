"""The practice on tables keeps the promises of the kit on PostgreSQL and SQLite, and exports and deletes under a real server."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from benchmarks.postgres_server import postgres_server
from relational.test_practice import TestPractice as Practice
from relational.test_practice import TestPracticeWithHistory as PracticeWithHistory


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL: that of TEST_POSTGRES_DSN, else one of our own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as own:
        yield own


def schema(dsn: str, name: str) -> str:
    """The URL of a schema for SQLAlchemy and psycopg; it is made if it is not there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}".encode())
    own = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    return f"{own}{'&' if '?' in own else '?'}options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"


class TestPracticeOnSQLite(Practice):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path}/practice.db"


class TestPracticeOnPostgreSQL(Practice):
    @pytest.fixture
    def url(self, postgres: str) -> str:
        return schema(postgres, "practice")


class TestPracticeWithHistoryOnSQLite(PracticeWithHistory):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path}/practice.db"


class TestPracticeWithHistoryOnPostgreSQL(PracticeWithHistory):
    @pytest.fixture
    def url(self, postgres: str) -> str:
        return schema(postgres, "history")
