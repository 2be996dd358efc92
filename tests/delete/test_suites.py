"""Our stores and logs, and a host that deletes hard, keep the promises of the kit: by itself, and through our log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import HardHost, Host

from fhir_bulk_middleware.delete.journal import JournalledDeletes
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.deletes import DeleteSuite, DeletionLogSuite


class TestMemoryResourceStore(DeleteSuite):
    @pytest.fixture
    def store(self) -> MemoryResourceStore:
        return MemoryResourceStore()

    @pytest.fixture
    def writer(self, store: MemoryResourceStore) -> Host:
        return Host(store)


class TestSQLiteResourceStore(DeleteSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SQLiteResourceStore]:
        store = SQLiteResourceStore(tmp_path / "resources.db")
        yield store
        store.close()

    @pytest.fixture
    def writer(self, tmp_path: Path) -> Iterator[Host]:
        store = SQLiteResourceStore(tmp_path / "resources.db")  # a second one on the same file: the host's process
        yield Host(store)
        store.close()


class TestHardHost(DeleteSuite):
    @pytest.fixture
    def store(self) -> HardHost:
        return HardHost()

    @pytest.fixture
    def writer(self, store: HardHost) -> HardHost:
        return store


class Logged(JournalledDeletes):
    """The host behind the log: what the mount deletes through, and reads deletions from."""

    def __init__(self, host: HardHost, log: Any) -> None:
        super().__init__(host, host, log, FhirVersion.R4, system_clock)
        self.authorise = host.authorise
        self.pages = host.pages


class TestHardHostThroughTheLog(DeleteSuite):
    @pytest.fixture
    def host(self) -> HardHost:
        return HardHost()

    @pytest.fixture(params=["memory", "sqlite"])
    def store(self, host: HardHost, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Logged]:
        log = MemoryDeletionLog() if request.param == "memory" else SQLiteDeletionLog(tmp_path / "log.db")
        yield Logged(host, log)
        if isinstance(log, SQLiteDeletionLog):
            log.close()

    @pytest.fixture
    def writer(self, host: HardHost) -> HardHost:
        return host


class TestMemoryDeletionLog(DeletionLogSuite):
    @pytest.fixture
    def log(self) -> MemoryDeletionLog:
        return MemoryDeletionLog()


class TestSQLiteDeletionLog(DeletionLogSuite):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[SQLiteDeletionLog]:
        log = SQLiteDeletionLog(tmp_path / "log.db")
        yield log
        log.close()
