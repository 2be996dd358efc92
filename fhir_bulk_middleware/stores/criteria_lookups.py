"""`CriteriaLookups`: what a store can look up in its indexes for search criteria (conditional deletes and `_typeFilter`).

All criteria of a query must hold, so looking up one of them is enough. What is found is judged line by line afterwards
(`Filters`), so it may be too much and must not be too little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.definitions import SearchParameter, definitions
from fhir_bulk_middleware.fhir.search.criteria import Criteria, Criterion
from fhir_bulk_middleware.fhir.search.parameter_index import KeyRange, ParameterIndex
from fhir_bulk_middleware.fhir.search.values import ReferenceValue, TokenValue, Value
from fhir_bulk_middleware.stores.digests import digest
from fhir_bulk_middleware.stores.naming_index import NamingIndex

__all__ = ["ByCompartment", "ById", "ByKey", "ByName", "CriteriaLookups", "Lookup"]

_PATIENT = "Patient"
_IS_PATIENT = ".where(resolve() is Patient)"


@dataclass(frozen=True, slots=True)
class ById:
    """Resources with these ids."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByCompartment:
    """Resources in the compartments of these owners, `Patient/1`."""

    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByName:
    """Resources with these keys of the naming index."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ByKey:
    """Resources with a key of the parameter index in one of these ranges."""

    ranges: tuple[KeyRange, ...]


Lookup = ById | ByCompartment | ByName | ByKey


class CriteriaLookups:
    """Look-ups in the indexes of one store.

    Args:
        compartments: which resources belong to which patient, as the store has indexed it.
        names: the references between resources that the store has indexed.
        parameters: the search parameters that the store has indexed.
    """

    def __init__(self, compartments: CompartmentMembership, names: NamingIndex, parameters: ParameterIndex) -> None:
        self._compartments = compartments
        self._names = names
        self._parameters = parameters

    def of(self, criteria: Criteria) -> Sequence[Lookup]:
        """A look-up for each criterion that has one."""
        parameters = definitions(criteria.version).parameters(criteria.type)
        found = (self._of(criterion, parameters[criterion.name], criteria) for criterion in criteria.criteria)
        return [lookup for lookup in found if lookup is not None]

    def _of(self, criterion: Criterion, parameter: SearchParameter, criteria: Criteria) -> Lookup | None:
        if criterion.missing is not None:
            return None
        if criterion.name == "_id":
            ids = [value.code for value in criterion.values if isinstance(value, TokenValue) and value.code is not None]
            return ById(tuple(ids)) if criterion.modifier is None and len(ids) == len(criterion.values) else None
        if (named := self._of_references(criterion, parameter, criteria.type)) is not None:
            return named
        if criteria.version != self._parameters.version:
            return None  # another release may find the values elsewhere in a resource
        ranges = self._parameters.ranges(criterion, criteria.type)
        return None if ranges is None else ByKey(ranges)

    def _of_references(self, criterion: Criterion, parameter: SearchParameter, type_: str) -> Lookup | None:
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
            return ByCompartment(tuple(references))
        names = [reference.encode() for reference in references]
        return ByName(tuple(map(digest, names))) if all(self._names.covers(name, type_) for name in names) else None

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
