"""Mounts on memory stores, for whatever only looks at how they describe themselves."""

from typing import Any

from fhir_bulk_middleware import AIDBOX, BulkData, DeletePolicy
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import SupportsDelete
from fhir_bulk_middleware.dialects import STANDARD, Dialect
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

SMART: dict[str, Any] = {"token_endpoint": "https://auth.example/token"}


class Closed:
    """Lets nobody in."""

    async def verify(self, token: str) -> Principal:
        raise AssertionError(token)


class Bare:
    """An adapter that can do what it must and nothing more."""

    async def authorise(self, principal: Principal) -> Any: ...
    def pages(self, query: Any, after: str | None) -> Any: ...


def mount(dialect: Dialect = STANDARD, resources: Any = None, deletes: DeletePolicy | None = AIDBOX, **settings: Any) -> BulkData:
    resources = MemoryResourceStore() if resources is None else resources
    return BulkData(
        resources=resources,
        verifier=Closed(),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        dialect=dialect,
        deletes=deletes if isinstance(resources, SupportsDelete) else None,
        settings=Settings(**settings),
    )
