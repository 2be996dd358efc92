"""A PostgreSQL for the examples."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.postgres_server import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL: that of TEST_POSTGRES_DSN, else one of our own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as own:
        yield own
