"""Filters on the resources of a type: those of `_typeFilter` and those of granular scopes."""

from collections.abc import Iterable

from fhir_bulk_middleware import caps
from fhir_bulk_middleware.contract.granted_filter import granted_filter
from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.export.kick_off import TypeQuery
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.export.types import ExportedTypes
from fhir_bulk_middleware.fhir.search.criteria import Criteria, CriteriaError
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["granted_filters", "requested_filters"]


def granted_filters(version: FhirVersion, exported: ExportedTypes) -> Iterable[Filter]:
    """The filters of granular scopes. A scope that cannot be applied exactly grants nothing (law 8)."""
    characters = sum(len(query) for _, query in exported.granular)
    if len(exported.granular) > caps.GRANULAR_QUERIES or characters > caps.GRANULAR_CHARACTERS:
        detail = "The token's granular scopes restrict this export in too many ways; ask for fewer types with _type."
        raise Refused(Reason.TOO_MUCH, detail, part="http._type")
    for type_ in sorted({type_ for type_, _ in exported.granular}):
        yield granted_filter(version, type_, (query for granted, query in exported.granular if granted == type_))


def requested_filters(
    version: FhirVersion, queries: Iterable[TypeQuery], exported: ExportedTypes, leniency: Leniency
) -> Iterable[Filter]:
    """The filters of `_typeFilter`: a resource must meet any query of its type, if there is one (TF-02, TF-03).

    They do not apply to context, so a query on a type that comes as context alone cannot be used (law 40, TF-01).
    """
    alternatives: dict[str, list[Criteria]] = {}
    values = 0
    for query in queries:
        if query.type not in exported.types:
            problem = f"It names {query.type}, which is not among the exported types."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_typeFilter", problem, query.part)
            continue
        if query.type in exported.context_alone:
            problem = f"At this level {query.type} is exported only if an exported resource refers to it, whatever a filter says."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_typeFilter", problem, query.part)
            continue
        try:
            criteria = Criteria.parse(version, query.type, query.query)
        except CriteriaError as error:
            if error.excessive:
                raise Refused(Reason.TOO_MUCH, f"_typeFilter: {error}.", part=query.part) from None
            if error.malformed:
                raise Refused(Reason.VALUE_MALFORMED, f"_typeFilter: {error}.", part=query.part) from None
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_typeFilter", f"{error}.", query.part)
            continue
        values += criteria.size
        if values > caps.CRITERIA_VALUES:
            detail = f"All _typeFilter together may have {caps.CRITERIA_VALUES:,} search values; split the export."
            raise Refused(Reason.TOO_MUCH, detail, part=query.part)
        alternatives.setdefault(query.type, []).append(criteria)
    return (Filter(type_, tuple(several)) for type_, several in alternatives.items())
