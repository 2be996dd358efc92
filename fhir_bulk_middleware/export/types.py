"""Decides which resource types an export holds: the requested ones that scopes, adapter and compartments allow."""

from collections.abc import Collection
from dataclasses import dataclass

from fhir_bulk_middleware.contract.job import Request
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, EveryPatient, Selection
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes

__all__ = ["ExportedTypes", "TypeRules", "export_uncovered", "listed"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ExportedTypes:
    """The types of an export.

    Attributes:
        types: sorted.
        granular: the queries of granular scopes as (type, query), sorted, for types that no other scope covers; of such a type
            only resources that meet a query are exported (SE-09).
    """

    types: tuple[str, ...]
    granular: tuple[tuple[str, str], ...]


class TypeRules:
    """Decides the types of an export. Each must be allowed by scopes, adapter and compartments (KO-96).

    Args:
        definitions: HL7's compartment definitions of the storage's FHIR version.
    """

    def __init__(self, definitions: CompartmentMembership) -> None:
        self._definitions = definitions

    def of(
        self,
        scopes: Scopes,
        selection: Selection,
        authorisation: Authorisation,
        asked: Collection[str] | None,
        leniency: Leniency,
        *,
        place: str = "http._type",
    ) -> ExportedTypes:
        """The types to export.

        Without `_type`, all allowed types (SE-11). With `_type`, each type must be one that the storage has and the scopes cover
        (KO-82, SE-10); types outside the compartments are dropped, unless all are (KO-83).

        Args:
            scopes: of the token.
            selection: whose resources are exported.
            authorisation: the types that the storage has for the principal.
            asked: the values of `_type`, None without it.
            leniency: refuses or sets aside types that cannot be exported.
            place: of `_type` in the request.

        Raises:
            Refused: `PARAMETER_UNSUPPORTED` (unless lenient) or `SCOPE_MISSING`, naming the types.
        """
        reference_set = self._reference_set(selection, authorisation.types)
        if asked is None:
            allowed = scopes.exportable(reference_set)
            if not allowed:
                raise Refused(Reason.SCOPE_MISSING, "The token's scopes cover nothing that could be exported; system/*.rs would.")
            return _covered(scopes, allowed)
        wanted = frozenset(asked)
        if absent := wanted - authorisation.types:
            problem = f"This server has no type {listed(absent)} to export."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_type", problem, place)
            wanted -= absent
        if forbidden := wanted - scopes.exportable(wanted):
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {listed(forbidden)}.", part=place)
        if wanted and wanted.isdisjoint(reference_set):
            problem = f"An export at this level holds what lies in compartments; {listed(wanted)} never does."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_type", problem, place)
        return _covered(scopes, wanted & reference_set)

    def with_type(self, type_: str, exported: ExportedTypes, scopes: Scopes, authorisation: Authorisation) -> ExportedTypes:
        """`exported` and one more type that the client asked for by another parameter; it needs the same scopes.

        Raises:
            Refused: `SCOPE_MISSING`, if the scopes do not cover it.
        """
        if type_ in exported.types or type_ not in authorisation.types:
            return exported
        if not scopes.exportable(frozenset({type_})):
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {type_}, which was asked for besides.")
        return _covered(scopes, frozenset({*exported.types, type_}))

    def _reference_set(self, selection: Selection, types: frozenset[str]) -> frozenset[str]:
        """The types that this level can export: at system level all, else those that HL7 puts into the compartments."""
        match selection:
            case EveryPatient():
                owners = {"Patient"}
            case Compartments(references):
                owners = {"Patient", *(reference.partition("/")[0] for reference in references)} & self._definitions.kinds
            case _:
                return types
        known = (self._definitions.types(owner) for owner in sorted(owners))
        return types & frozenset[str]().union(*known)


def _covered(scopes: Scopes, types: frozenset[str]) -> ExportedTypes:
    restricted = types - scopes.readable(types)
    return ExportedTypes(
        tuple(sorted(types)), tuple(sorted((type_, query) for type_ in restricted for query in scopes.queries(type_)))
    )


def export_uncovered(scopes: Scopes, request: Request) -> str | None:
    """What a token's scopes lack of the types of an export (SE-03, FR-04); None if they cover it."""
    types = frozenset(request.types)
    missing = types - scopes.readable(types)
    restricted: dict[str, set[str]] = {}
    for type_, query in request.granular:
        restricted.setdefault(type_, set()).add(query)
    missing -= {type_ for type_, queries in restricted.items() if queries <= set(scopes.queries(type_))}
    return f"The token's scopes do not cover {listed(missing)}, which this export holds." if missing else None


def listed(types: Collection[str]) -> str:
    """The first five type names, and how many more there are, for a message."""
    names = sorted(types)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
