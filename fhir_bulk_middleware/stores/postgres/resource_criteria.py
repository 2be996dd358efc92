"""Finds by indexes which versions in PostgreSQL can meet search criteria, for conditional deletes and `_typeFilter`.

The indexes that exports need know more: `_id`, whose compartment a version is in, and what it names. So criteria on ids and on
references, such as `Observation?patient=1` or `Encounter?location=Location/2`, read what they find and not the whole type. What
is found is looked at again, line by line (`Filters`), so it may be too much and must not be too little.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.stores.criteria_lookups import ByCompartment, ById, ByName, CriteriaLookups
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["CriteriaIndex"]

_MOST_KEYS = 50_000
"""Beyond this, reading the type from one end to the other is as fast."""

_OF_IDS = """
    SELECT seq FROM $resource
    WHERE type = %(type)s AND id = ANY(%(wanted)s::text[]) AND seq BETWEEN %(first)s AND %(last)s LIMIT %(most)s
"""
_OF_OWNERS = """
    SELECT seq FROM $resource_compartment
    WHERE owner = ANY(%(wanted)s::text[]) AND seq BETWEEN %(first)s AND %(last)s LIMIT %(most)s
"""
_OF_NAMED = """
    SELECT seq FROM $resource_naming
    WHERE target = ANY(%(wanted)s::bigint[]) AND seq BETWEEN %(first)s AND %(last)s LIMIT %(most)s
"""

_Lookup = tuple[str, Sequence[str] | Sequence[int]]
"""A statement, and what it looks up."""


class CriteriaIndex:
    """The indexes of a store, as answers to search criteria.

    Args:
        connections: where to read.
        lookups: of the store.
    """

    def __init__(self, connections: Connections, lookups: CriteriaLookups) -> None:
        self._connections = connections
        self._lookups = lookups

    async def keys(self, filters: Iterable[Filter], type_: str, between: tuple[int, int], number: int) -> list[int] | None:
        """The keys of all versions that can meet the filters, in order; None if no index says it, or they are too many.

        Args:
            filters: all must hold; those of other types are ignored.
            type_: the type.
            between: the first and the last key that is wanted.
            number: the number of the type.
        """
        for filter_ in filters:
            if filter_.type != type_:
                continue
            lookups = [self._lookup(criteria) for criteria in filter_.alternatives]
            found = set[int]()
            for lookup in lookups:
                if lookup is None or (more := await self._read(lookup, between, number)) is None:
                    break
                found.update(more)
            else:
                return sorted(found)
        return None

    async def _read(self, lookup: _Lookup, between: tuple[int, int], number: int) -> list[int] | None:
        text, wanted = lookup
        first, last = between
        values = {"wanted": [*wanted], "type": number, "first": first, "last": last, "most": _MOST_KEYS + 1}
        rows = await self._connections.read(partial(Session.rows, text=text, values=values))
        return None if len(rows) > _MOST_KEYS else [seq for (seq,) in rows]

    def _lookup(self, criteria: Criteria) -> _Lookup | None:
        """The statement for the first criterion that has one; all criteria must hold, so one is enough."""
        for lookup in self._lookups.of(criteria):
            match lookup:
                case ById():
                    return _OF_IDS, lookup.ids
                case ByCompartment():
                    return _OF_OWNERS, lookup.owners
                case ByName():
                    return _OF_NAMED, lookup.keys
        return None
