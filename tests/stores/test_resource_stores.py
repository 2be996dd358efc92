"""Our resource stores keep the promises of the kit, each in memory and in a file that another process could be writing to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host

from fhir_bulk_middleware.instant import Instant, after, system_clock
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite


class Setting:
    """The machine's clock, which tests can set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> Instant:
        return after(system_clock(), self.seconds)

    def set(self, seconds: float) -> None:
        self.seconds = seconds


class _Suite(ResourceStoreSuite, StoredTextSuite):
    @pytest.fixture
    def clock(self) -> Setting:
        return Setting()

    @pytest.fixture
    def set_clock(self, clock: Setting) -> Callable[[float], None]:
        return clock.set


class TestMemoryResourceStore(_Suite):
    @pytest.fixture
    def store(self, clock: Setting) -> MemoryResourceStore:
        return MemoryResourceStore(clock=clock)

    @pytest.fixture
    def writer(self, store: MemoryResourceStore) -> Host:
        return Host(store)


class TestSQLiteResourceStore(_Suite):
    @pytest.fixture
    def store(self, tmp_path: Path, clock: Setting) -> Iterator[SQLiteResourceStore]:
        store = SQLiteResourceStore(tmp_path / "resources.db", clock=clock)
        yield store
        store.close()

    @pytest.fixture
    def writer(self, tmp_path: Path, clock: Setting) -> Iterator[Host]:
        store = SQLiteResourceStore(tmp_path / "resources.db", clock=clock)  # a second one on the same file: the host's process
        yield Host(store)
        store.close()
