"""The practice on tables keeps the promises of the kit on PostgreSQL and on SQLite, and exports and deletes under a real server."""

from pathlib import Path

import pytest
from relational.test_practice import TestPractice as Practice


def driven(dsn: str) -> str:
    """The URL of a PostgreSQL for SQLAlchemy and psycopg."""
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


class TestPracticeOnSQLite(Practice):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path}/practice.db"


class TestPracticeOnPostgreSQL(Practice):
    @pytest.fixture
    def url(self, postgres: str) -> str:
        return driven(postgres)
