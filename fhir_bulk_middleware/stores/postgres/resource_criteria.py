"""Finds by indexes which versions in PostgreSQL can meet search criteria, for conditional deletes and `_typeFilter`.

The indexes that exports need know more: `_id`, whose compartment a version is in, and what it names. So criteria on ids and on
references, such as `Observation?patient=1` or `Encounter?location=Location/2`, read what they find and not the whole type. What
is found is looked at again, line by line (`Filters`), so it may be too much and must not be too little.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import SearchParameter, definitions
from fhir_bulk_middleware.fhir.search.criteria import Criteria, Criterion
from fhir_bulk_middleware.fhir.search.values import ReferenceValue, TokenValue, Value
from fhir_bulk_middleware.stores.digests import digest
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["CriteriaIndex"]

_MOST_KEYS = 50_000
"""Beyond this, reading the type from one end to the other is as fast."""

_PATIENT = "Patient"
_IS_PATIENT = ".where(resolve() is Patient)"

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
        compartments: of the store.
        index: of the store.
    """

    def __init__(self, connections: Connections, compartments: CompartmentMembership, index: NamingIndex) -> None:
        self._connections = connections
        self._compartments = compartments
        self._index = index

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
        """The look-up for the first criterion that has one; all criteria must hold, so one is enough."""
        parameters = definitions(criteria.version).parameters(criteria.type)
        for criterion in criteria.criteria:
            if (found := self._of(criterion, parameters[criterion.name], criteria.type)) is not None:
                return found
        return None

    def _of(self, criterion: Criterion, parameter: SearchParameter, type_: str) -> _Lookup | None:
        if criterion.missing is not None:
            return None
        if criterion.name == "_id":
            ids = [value.code for value in criterion.values if isinstance(value, TokenValue) and value.code is not None]
            return (_OF_IDS, ids) if criterion.modifier is None and len(ids) == len(criterion.values) else None
        if not _of_references(parameter) or (criterion.modifier is not None and not criterion.modifier[:1].isupper()):
            return None
        paths = {path.path.removesuffix(_IS_PATIENT) for path in parameter.paths}
        only_patients = parameter.target == {_PATIENT} or all(path.path.endswith(_IS_PATIENT) for path in parameter.paths)
        usual = criterion.modifier or (_PATIENT if only_patients else None)
        wanted = [self._reference(value, usual) for value in criterion.values]
        references = [reference for reference in wanted if reference is not None]
        if not references or len(references) < len(wanted):
            return None
        owned = paths <= set(self._compartments.paths(_PATIENT).get(type_, ()))
        if owned and all(reference.startswith(f"{_PATIENT}/") for reference in references):
            return _OF_OWNERS, references
        names = [reference.encode() for reference in references]
        return (_OF_NAMED, [digest(name) for name in names]) if all(self._index.covers(name, type_) for name in names) else None

    def _reference(self, value: Value, usual: str | None) -> str | None:
        """The reference that a value means, None unless its type is known."""
        if not isinstance(value, ReferenceValue):
            return None
        if value.url is not None:
            found = self._compartments.parse(value.url)
            return None if found is None else str(found)
        type_ = value.type or usual
        return None if type_ is None or value.id is None else f"{type_}/{value.id}"


def _of_references(parameter: SearchParameter) -> bool:
    """Whether all values of a parameter are references, and no canonical URLs."""
    return bool(parameter.paths) and all(path.type == "Reference" for path in parameter.paths)
