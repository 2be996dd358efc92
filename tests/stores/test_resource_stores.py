"""Our resource stores keep the promises of the kit, each in memory and in a file that another process could be writing to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite


class Host:
    """Writes through a store's own methods."""

    def __init__(self, store: MemoryResourceStore | SQLiteResourceStore) -> None:
        self.store = store

    async def put(self, *resources: str) -> None:
        self.store.load(resource.encode() for resource in resources)

    async def delete(self, type_: str, id_: str) -> None:
        await self.store.delete(type_, id_)


class TestMemoryResourceStore(ResourceStoreSuite, StoredTextSuite):
    @pytest.fixture
    def store(self) -> MemoryResourceStore:
        return MemoryResourceStore()

    @pytest.fixture
    def writer(self, store: MemoryResourceStore) -> Host:
        return Host(store)


class TestSQLiteResourceStore(ResourceStoreSuite, StoredTextSuite):
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
