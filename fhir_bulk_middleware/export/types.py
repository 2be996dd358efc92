"""Decides which resource types an export holds: the requested ones that scopes, adapter and level allow."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from fhir_bulk_middleware.contract.job import Request
from fhir_bulk_middleware.contract.query import Authorisation, Selection
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.export.type_origins import TypeOrigins
from fhir_bulk_middleware.fhir.version import FhirVersion
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
        context: the types whose resources are exported too if exported resources name them (law 40), sorted; empty for an export
            without context.
        context_alone: those of `context` that the selection itself never holds.
    """

    types: tuple[str, ...]
    granular: tuple[tuple[str, str], ...]
    context: tuple[str, ...] = ()
    context_alone: frozenset[str] = frozenset()


class TypeRules:
    """Decides the types of an export. Each must be allowed by scopes and adapter, and possible at the level (KO-96, law 40).

    At Patient and Group level a type is possible if it lies in the compartments of the selection. With context it is possible too
    if references lead to it from such a type.

    Args:
        version: FHIR version of the resources.
        context: whether exports have context.
    """

    def __init__(self, version: FhirVersion, *, context: bool) -> None:
        self._version = version
        self._context = context

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

        Without `_type`, all possible types that are allowed (SE-11). With `_type`, each type must be one that the storage has,
        that is possible, and that the scopes cover (KO-82, SE-10). At least one must be in the compartments, since context only
        comes if something names it (KO-82, KO-83). No type is dropped in silence.

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
        origins = TypeOrigins(self._version, selection)
        possible = origins.possible(authorisation.types) if self._context else origins.selected(authorisation.types)
        if asked is None:
            allowed = scopes.exportable(possible)
            if not allowed:
                raise Refused(Reason.SCOPE_MISSING, "The token's scopes cover nothing that could be exported; system/*.rs would.")
            return self._exported(scopes, allowed, origins)
        wanted = frozenset(asked)
        if absent := wanted - authorisation.types:
            problem = f"This server has no type {listed(absent)} to export."
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_type", problem, place)
            wanted -= absent
        if impossible := wanted - possible:
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_type", self._impossible(impossible), place)
            wanted -= impossible
        if forbidden := wanted - scopes.exportable(wanted):
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {listed(forbidden)}.", part=place)
        if wanted and not origins.selected(wanted):
            problem = _nothing_names(wanted, origins, scopes.exportable(authorisation.types))
            leniency.unusable(Reason.PARAMETER_UNSUPPORTED, "_type", problem, place)
            wanted = frozenset()
        return self._exported(scopes, wanted, origins)

    def with_type(self, type_: str, exported: ExportedTypes, scopes: Scopes, authorisation: Authorisation) -> ExportedTypes:
        """`exported` and one more type of the compartments that another parameter asks for; it needs the same scopes.

        Raises:
            Refused: `SCOPE_MISSING`, if the scopes do not cover it.
        """
        if type_ in exported.types or type_ not in authorisation.types:
            return exported
        if not scopes.exportable(frozenset({type_})):
            raise Refused(Reason.SCOPE_MISSING, f"The token's scopes do not cover {type_}, which was asked for besides.")
        types = frozenset({*exported.types, type_})
        return replace(
            exported,
            types=tuple(sorted(types)),
            granular=_granular(scopes, types),
            context=tuple(sorted(types)) if exported.context else (),
        )

    def _exported(self, scopes: Scopes, types: frozenset[str], origins: TypeOrigins) -> ExportedTypes:
        with_context = self._context and origins.bounded
        return ExportedTypes(
            types=tuple(sorted(types)),
            granular=_granular(scopes, types),
            context=tuple(sorted(types)) if with_context else (),
            context_alone=types - origins.selected(types),
        )

    def _impossible(self, types: frozenset[str]) -> str:
        ways = "lies in compartments, and what that refers to" if self._context else "lies in compartments"
        return f"An export at this level holds what {ways}; it never holds {listed(types)}."


def _granular(scopes: Scopes, types: frozenset[str]) -> tuple[tuple[str, str], ...]:
    restricted = types - scopes.readable(types)
    return tuple(sorted((type_, query) for type_ in restricted for query in scopes.queries(type_)))


def _nothing_names(wanted: frozenset[str], origins: TypeOrigins, types: frozenset[str]) -> str:
    """Says that these types are exported only if exported resources refer to them, and which of `types` to add (KO-82)."""
    problem = f"At this level nothing of {listed(wanted)} is exported unless an exported resource refers to it; add "
    if naming := origins.naming(wanted, types):
        return f"{problem}a type that does, such as {listed(naming)}."
    if chain := origins.chain(wanted, types):
        return f"{problem}{' and '.join(chain)}, from which references lead there."
    return f"{problem}a type that does; the token's scopes cover none."


def export_uncovered(scopes: Scopes, request: Request) -> str | None:
    """What a token's scopes lack of the types of an export (SE-03, FR-04); None if they cover it."""
    if scopes.read_all:
        return None
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
