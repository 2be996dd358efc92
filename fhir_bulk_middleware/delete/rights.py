"""What a token's scopes let its bearer delete, and see of what is deleted (laws 8 and 24)."""

from dataclasses import dataclass

from fhir_bulk_middleware.contract.granted_filter import granted_filter
from fhir_bulk_middleware.contract.job import Request
from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.scopes import Scopes

__all__ = ["DeleteRights", "removal_uncovered"]


@dataclass(frozen=True, slots=True)
class DeleteRights:
    """Rights on one resource type.

    Attributes:
        granted: the restrictions of granular scopes, all of which must hold; empty if the scopes cover the whole type.
        granular: the queries of those scopes as (type, query), as a job keeps them.
        shows_content: whether the removed resources may be shown.
    """

    granted: tuple[Filter, ...]
    granular: tuple[tuple[str, str], ...]
    shows_content: bool

    @classmethod
    def of(cls, scopes: Scopes, type_: str, version: FhirVersion, *, search: bool) -> "DeleteRights":
        """The rights of a token's scopes on a type.

        Args:
            scopes: the token's scopes.
            type_: the resource type.
            version: the FHIR release of the search parameters in granular scopes.
            search: whether the delete also needs the right to search.

        Raises:
            Refused: `SCOPE_MISSING`: they do not cover deletes of this type (or searches, if needed), or they are granular and
                cannot be applied exactly.
        """
        letters = "ds" if search else "d"
        queries = {letter: scopes.restrictions(type_, letter) for letter in "drs"}
        granted: list[Filter] = []
        for letter in letters:
            restricted_to = queries[letter]
            if restricted_to is None:
                continue
            if not restricted_to:
                raise Refused(Reason.SCOPE_MISSING, f"The scope system/{type_}.{letters} is required.")
            granted.append(granted_filter(version, type_, restricted_to))
        needed = {query for letter in letters for query in queries[letter] or ()}
        deletable, readable = queries["d"], queries["r"]
        shows_content = readable is None or (deletable is not None and set(deletable) <= set(readable))
        return cls(tuple(dict.fromkeys(granted)), tuple(sorted((type_, query) for query in needed)), shows_content)


def removal_uncovered(scopes: Scopes, request: Request) -> str | None:
    """What a token's rights to delete lack of those that a remove-all was kicked off with (SE-03); None if they cover it."""
    for type_ in request.types:
        restrictions = [scopes.restrictions(type_, letter) for letter in "ds"]
        queries = {query for restricted_to in restrictions for query in restricted_to or ()}
        kept = {query for of, query in request.granular if of == type_}
        if () in restrictions or (queries and not (kept and kept <= queries)):
            return f"The token's scopes do not cover deletes of {type_} as they did."
    return None
