"""The resource store in PostgreSQL keeps the promises of the kit; another process of the host writes to it."""

from collections.abc import Callable

import pytest
from hosts import Host
from postgres_resources import EmptyStores

from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.testing.deletes import DeleteSuite
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite

pytest_plugins = ["postgres_fixtures"]


class TestPostgresResourceStore(ResourceStoreSuite, StoredTextSuite, DeleteSuite):
    @pytest.fixture
    def store(self, empty_postgres: EmptyStores) -> PostgresResourceStore:
        return empty_postgres.store()

    @pytest.fixture
    def writer(self, store: PostgresResourceStore, empty_postgres: EmptyStores) -> Host:
        del store  # it is there, and empty, before another process of the host uses its tables
        return Host(empty_postgres.another())

    @pytest.fixture
    def set_clock(self, empty_postgres: EmptyStores) -> Callable[[float], None]:
        return empty_postgres.offset


@pytest.mark.long
class TestPostgresResourceStoreInSmallSteps(TestPostgresResourceStore):
    """The same promises where each read takes several statements."""

    @pytest.fixture(autouse=True)
    def small_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = {
            "reading": {"_WINDOW": 3},
            "steps": {"_FIRST_ROWS": 2, "_MOST_ROWS": 3, "_STEP_BYTES": 400, "_FAR_LARGER": 1},
            "losses": {"_KEYS_PER_STEP": 2},
            "provenance": {"_KEYS_PER_STEP": 2},
            "naming": {"_FIRST_ROWS": 1, "_FIRST_MEMBERS": 1},
        }
        for module, sizes in steps.items():
            for name, size in sizes.items():
                monkeypatch.setattr(f"fhir_bulk_middleware.stores.postgres.resource_{module}.{name}", size)
