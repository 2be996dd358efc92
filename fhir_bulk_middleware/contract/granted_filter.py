"""The filter that granular scopes put on the resources of a type."""

from collections.abc import Iterable

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["granted_filter"]


def granted_filter(version: FhirVersion, type_: str, queries: Iterable[str]) -> Filter:
    """The queries of a type's granular scopes as one filter. A query that cannot be applied exactly grants nothing (law 8).

    Raises:
        Refused: `SCOPE_MISSING`, if no query can be applied.
    """
    alternatives = []
    for query in queries:
        try:
            alternatives.append(Criteria.parse(version, type_, query))
        except CriteriaError:
            continue
    if not alternatives:
        raise Refused(Reason.SCOPE_MISSING, f"The token's scopes on {type_} cannot be applied here.")
    return Filter(type_, tuple(alternatives), granted=True)
