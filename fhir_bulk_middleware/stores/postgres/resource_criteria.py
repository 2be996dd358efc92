"""Finds by indexes which versions in PostgreSQL can meet search criteria, for conditional deletes and `_typeFilter`.

The indexes that exports need know `_id`, whose compartment a version is in, and what it names. The postings know the tokens,
dates and references of the parameter index (`resource_postings`). All criteria of a query must hold, so looking up one is enough.
What is found is looked at again, line by line (`Filters`), so it may be too much and must not be too little.

A conditional delete uses the criterion that finds the fewest. An export chooses by the criteria alone, the parameters that tell
most first: a choice by counts could change between two attempts at a slice, and with it the pages (law 5).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.stores.criteria_lookups import ByCompartment, ById, ByKey, ByName, CriteriaLookups, Lookup
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.resource_postings import BLOCK_BITS, counts_of, keys_of
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["CriteriaIndex", "Lookups"]

_MOST_KEYS = 50_000
"""Beyond this, a conditional delete reads the type from one end to the other."""

_TELLING = ("_id", "identifier", "", "code", "type", "questionnaire", "specialty", "encounter", "date", "period")
"""Parameters from the most to the least telling; the empty one stands for references, and the others follow."""

_OF_IDS = "$resource WHERE type = %(type)s AND id = ANY(%(wanted)s::text[]) AND seq BETWEEN %(first)s AND %(last)s"
_OF_OWNERS = "$resource_compartment WHERE owner = ANY(%(wanted)s::text[]) AND seq BETWEEN %(first)s AND %(last)s"
_OF_NAMED = "$resource_naming WHERE target = ANY(%(wanted)s::bigint[]) AND seq BETWEEN %(first)s AND %(last)s"

_KEYS = "SELECT seq FROM {of} LIMIT %(most)s"
_COUNTS = "SELECT seq >> %(bits)s, count(*) FROM {of} GROUP BY 1"

Lookups = tuple[Lookup, ...]
"""Look-ups of which at least one finds each version that is wanted."""


class CriteriaIndex:
    """The indexes of a store, as answers to search criteria.

    Args:
        connections: where to read.
        types: the numbers of types and of their parameters.
        lookups: of the store.
    """

    def __init__(self, connections: Connections, types: ResourceTypes, lookups: CriteriaLookups) -> None:
        self._connections = connections
        self._types = types
        self._lookups = lookups

    def chosen(self, filters: Iterable[Filter], type_: str, number: int) -> Lookups | None:
        """The look-ups for the filters of a type, all of which must hold; None if no index has them.

        The answer is always the same for the same filters and type.
        """
        best: tuple[int, Lookups] | None = None
        for filter_ in filters:
            if filter_.type != type_:
                continue
            found = [self._most_telling(criteria, number) for criteria in filter_.alternatives]
            known = [each for each in found if each is not None]
            if len(known) == len(found):
                rank = max((place for place, _ in known), default=0)
                if best is None or rank < best[0]:
                    best = rank, tuple(lookup for _, lookup in known)
        return None if best is None else best[1]

    async def found(self, lookups: Lookups, number: int, between: tuple[int, int]) -> list[int]:
        """The keys between two keys that at least one look-up finds, each once, in order."""
        keys = set[int]()
        for lookup in lookups:
            keys.update(await self._read(lookup, number, between) or ())
        return sorted(keys)

    async def counts(self, lookups: Lookups, number: int, between: tuple[int, int], bits: int) -> Mapping[int, int]:
        """About how many versions the look-ups find between two keys, in each group of 2 ** `bits` keys that has some."""
        counts = Counter[int]()
        for lookup in lookups:
            for group, count in await self._connections.read(self._counting(lookup, number, between, bits)):
                counts[group] += count
        return counts

    async def fewest(self, filters: Iterable[Filter], type_: str, number: int, between: tuple[int, int]) -> list[int] | None:
        """The keys of all versions that can meet the filters, in order; None if no index says it, or they are too many."""
        found, most = None, _MOST_KEYS
        for filter_ in filters:
            if filter_.type == type_ and (keys := await self._of_filter(filter_, number, between, most)) is not None:
                found, most = keys, len(keys)
        return None if found is None else sorted(found)

    async def _of_filter(self, filter_: Filter, number: int, between: tuple[int, int], most: int) -> set[int] | None:
        """The keys for any of a filter's alternatives; None if they are more than `most`."""
        found = set[int]()
        for criteria in filter_.alternatives:
            fewest, limit = None, most
            for _, lookup in sorted(self._known(criteria, number), key=lambda each: each[0]):
                if (keys := await self._read(lookup, number, between, limit)) is not None:
                    fewest, limit = keys, len(keys)
            if fewest is None:
                return None
            found.update(fewest)
        return found if len(found) <= most else None

    def _most_telling(self, criteria: Criteria, number: int) -> tuple[int, Lookup] | None:
        return min(self._known(criteria, number), key=lambda each: each[0], default=None)

    def _known(self, criteria: Criteria, number: int) -> list[tuple[int, Lookup]]:
        """The look-ups for criteria, and the places of their parameters in `_TELLING`."""
        registered = self._types.parameters_by_name(number).keys()
        return [
            (_place(lookup), lookup)
            for lookup in self._lookups.of(criteria)
            if not isinstance(lookup, ByKey) or registered >= {name for name, _, _ in lookup.ranges}
        ]

    async def _read(self, lookup: Lookup, number: int, between: tuple[int, int], most: int | None = None) -> Sequence[int] | None:
        """The keys that a look-up finds, some more than once; None if they are more than `most`."""
        if isinstance(lookup, ByKey):
            numbers = self._types.parameters_by_name(number)
            return await self._connections.read(
                partial(keys_of, ranges=lookup.ranges, numbers=numbers, between=between, most=most)
            )
        text, values = _statement(_KEYS, lookup, number, between)
        values["most"] = None if most is None else most + 1
        rows = await self._connections.read(partial(Session.rows, text=text, values=values))
        return None if most is not None and len(rows) > most else [seq for (seq,) in rows]

    def _counting(self, lookup: Lookup, number: int, between: tuple[int, int], bits: int) -> "partial[list[tuple[Any, ...]]]":
        if isinstance(lookup, ByKey):
            numbers = self._types.parameters_by_name(number)
            return partial(counts_of, ranges=lookup.ranges, numbers=numbers, between=between, shift=bits - BLOCK_BITS)
        text, values = _statement(_COUNTS, lookup, number, between)
        return partial(Session.rows, text=text, values={**values, "bits": bits})


def _place(lookup: Lookup) -> int:
    match lookup:
        case ById():
            name = "_id"
        case ByKey(ranges):
            name = next((name for name, _, _ in ranges), "")
        case _:
            name = ""
    return _TELLING.index(name) if name in _TELLING else len(_TELLING)


def _statement(
    form: str, lookup: ById | ByCompartment | ByName, number: int, between: tuple[int, int]
) -> tuple[str, dict[str, object]]:
    wanted: Sequence[str] | Sequence[int]
    match lookup:
        case ById():
            of, wanted = _OF_IDS, lookup.ids
        case ByCompartment():
            of, wanted = _OF_OWNERS, lookup.owners
        case ByName():
            of, wanted = _OF_NAMED, lookup.keys
    return form.format(of=of), {"wanted": [*wanted], "type": number, "first": between[0], "last": between[1]}
