"""The numbers of resource types in PostgreSQL, and of their indexed search parameters."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from fhir_bulk_middleware.fhir.search.parameter_index import indexed
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["COUNTER_BITS", "ResourceTypes", "first_of"]

COUNTER_BITS = 40
"""The number of bits of a version's key below the number of its type."""

# Parameters of a type that another transaction added are not registered: versions of it may be there.
_ADD = """
    WITH added AS (
        INSERT INTO $resource_type (name) SELECT unnest(%(names)s::text[]) ON CONFLICT DO NOTHING RETURNING number, name
    )
    INSERT INTO $resource_posting_parameter (type, name) SELECT added.number, parameter.name
    FROM added JOIN unnest(%(of)s::text[], %(parameters)s::text[]) AS parameter (type, name) ON parameter.type = added.name
"""


def first_of(number: int) -> int:
    """A key below that of every version of the type."""
    return number << COUNTER_BITS


class ResourceTypes:
    """The types that have a number, and their parameters, which never change; those that were read once are cached."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._numbers: dict[str, int] = {}
        self._parameters: dict[int, dict[str, int]] = {}
        self._in_order: dict[int, Sequence[int | None]] = {}
        self._complete = Instant(0)

    async def number(self, type_: str, as_of: Instant | None = None) -> int | None:
        """The number of a type, None if no resource of it was written, or was visible at a cut.

        A type has its number before its first resource is committed. So numbers that were read after a cut was taken are complete
        for it and for all cuts before it, and an export reads them once.
        """
        if type_ not in self._numbers and (as_of is None or as_of > self._complete):
            self._know(await self._connections.read(_numbers))
            self._complete = max(self._complete, as_of or self._complete)
        return self._numbers.get(type_)

    async def read(self) -> None:
        """Read all that there are now."""
        self._know(await self._connections.read(_numbers))

    async def assured(self, type_: str) -> int:
        """The number of a type of which a resource is about to be written."""
        if (number := await self.number(type_)) is not None:
            return number
        self._know(await self._connections.write(partial(_add, names=[type_])))
        return self._numbers[type_]

    def assured_here(self, types: Collection[str]) -> None:
        """As `assured` for several types, in the calling thread."""
        missing = sorted(set(types) - self._numbers.keys())
        if missing:
            self._know(self._connections.write_here(partial(_add, names=missing)))

    def known(self, type_: str) -> int:
        """The number of a type that was assured."""
        return self._numbers[type_]

    def parameters(self, number: int) -> Sequence[int | None]:
        """The numbers of all indexed parameters of a type that was assured (`indexed`); None for one that is not registered."""
        return self._in_order[number]

    def parameters_by_name(self, number: int) -> Mapping[str, int]:
        """The numbers of the parameters that are registered for a type whose number was given."""
        return self._parameters[number]

    def _know(self, found: "_Numbers") -> None:
        numbers, parameters = found
        self._parameters |= parameters
        self._in_order |= {
            number: [parameters[number].get(parameter) for parameter in indexed(name)] for name, number in numbers.items()
        }
        self._numbers |= numbers


_Numbers = tuple[dict[str, int], dict[int, dict[str, int]]]
"""The numbers of types, and by those the numbers of their parameters."""


def _numbers(session: Session) -> _Numbers:
    """Types first: those that are read have their parameters, since both are written in one transaction."""
    numbers = dict(session.rows("SELECT name, number FROM $resource_type"))
    parameters: dict[int, dict[str, int]] = {number: {} for number in numbers.values()}
    for type_, name, number in session.rows("SELECT type, name, number FROM $resource_posting_parameter"):
        parameters.setdefault(type_, {})[name] = number
    return numbers, parameters


def _add(session: Session, names: Collection[str]) -> _Numbers:
    missing = sorted(set(names) - _numbers(session)[0].keys())
    if missing:
        of = [(type_, name) for type_ in missing for name in indexed(type_)]
        session.change(_ADD, {"names": missing, "of": [type_ for type_, _ in of], "parameters": [name for _, name in of]})
    return _numbers(session)
