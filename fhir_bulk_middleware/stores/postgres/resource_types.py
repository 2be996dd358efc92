"""The numbers of resource types in PostgreSQL."""

from collections.abc import Collection
from functools import partial

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["COUNTER_BITS", "ResourceTypes", "first_of"]

COUNTER_BITS = 40
"""The number of bits of a version's key below the number of its type."""

_ADD = "INSERT INTO $resource_type (name) SELECT unnest(%(names)s::text[]) ON CONFLICT DO NOTHING"


def first_of(number: int) -> int:
    """A key below that of every version of the type."""
    return number << COUNTER_BITS


class ResourceTypes:
    """The types that have a number, which never changes; those that were read once are cached."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._numbers: dict[str, int] = {}
        self._complete = Instant(0)

    async def number(self, type_: str, as_of: Instant | None = None) -> int | None:
        """The number of a type, None if no resource of it was written, or was visible at a cut.

        A type has its number before its first resource is committed. So numbers that were read after a cut was taken are complete
        for it and for all cuts before it, and an export reads them once.
        """
        if type_ not in self._numbers and (as_of is None or as_of > self._complete):
            self._numbers |= await self._connections.read(_numbers)
            self._complete = max(self._complete, as_of or self._complete)
        return self._numbers.get(type_)

    async def assured(self, type_: str) -> int:
        """The number of a type of which a resource is about to be written."""
        if (number := await self.number(type_)) is not None:
            return number
        self._numbers |= await self._connections.write(partial(_add, names=[type_]))
        return self._numbers[type_]

    def assured_here(self, types: Collection[str]) -> None:
        """As `assured` for several types, in the calling thread."""
        missing = sorted(set(types) - self._numbers.keys())
        if missing:
            self._numbers |= self._connections.write_here(partial(_add, names=missing))

    def known(self, type_: str) -> int:
        """The number of a type that was assured."""
        return self._numbers[type_]


def _numbers(session: Session) -> dict[str, int]:
    return dict(session.rows("SELECT name, number FROM $resource_type"))


def _add(session: Session, names: Collection[str]) -> dict[str, int]:
    missing = sorted(set(names) - _numbers(session).keys())
    if missing:
        session.change(_ADD, {"names": missing})
    return _numbers(session)
