"""Asks a storage once which types have changes, so that a plan does not ask for each of 150 types (law 44)."""

from collections.abc import Iterable

from fhir_bulk_middleware.contract.query import Window
from fhir_bulk_middleware.contract.returned import references
from fhir_bulk_middleware.contract.storage import SupportsChangedTypes
from fhir_bulk_middleware.instant import Instant

__all__ = ["changed_types"]


async def changed_types(
    storage: object, types: Iterable[str], window: Window, *, as_of: Instant | None, rights: str
) -> frozenset[str]:
    """Those of the types of which the storage may hold something in a window; all of them, if it cannot tell.

    Args:
        storage: the adapter, or another source that is asked for each type in turn.
        types: the types.
        window: as in the queries that follow.
        as_of: as in the queries that follow.
        rights: as in the queries that follow.

    Raises:
        TypeError: the adapter returned something else.
    """
    asked = frozenset(types)
    if not asked or not isinstance(storage, SupportsChangedTypes):
        return asked
    return asked & references(await storage.changed_types(asked, window, as_of=as_of, rights=rights), "changed_types")
