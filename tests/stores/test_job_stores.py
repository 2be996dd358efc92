"""Our job stores keep the promises of the kit; each in memory and in a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_census import JobCensusSuite
from fhir_bulk_middleware.testing.job_store import JobStoreSuite


class TestMemoryJobStore(JobStoreSuite, JobCensusSuite):
    @pytest.fixture
    def store(self) -> MemoryJobStore:
        return MemoryJobStore()


class TestSQLiteJobStore(JobStoreSuite, JobCensusSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SQLiteJobStore]:
        store = SQLiteJobStore(tmp_path / "jobs.db")
        yield store
        store.close()
