"""What a client asks of a delete, and what came of it; outcomes, not HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Current,
    Matches,
    NeverExisted,
    Protected,
    Removal,
    Removed,
    Version,
    VersionMismatch,
)
from fhir_bulk_middleware.delete.if_match import IfMatch
from fhir_bulk_middleware.delete.rights import DeleteRights
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["DeleteRequest", "Result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequest:
    """The conditions of a delete, as the request states them.

    Attributes:
        if_match: the versions that `If-Match` names, None without that header.
        dry_run: whether to remove nothing, and tell what would be removed.
        remove_all: whether to remove every match of the criteria, instead of a single one.
    """

    if_match: IfMatch | None = None
    dry_run: bool = False
    remove_all: bool = False

    @property
    def versions(self) -> frozenset[str] | None:
        """The versions that `If-Match` names; None for any version."""
        return None if self.if_match is None else self.if_match.versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a delete.

    Attributes:
        outcome: what happened.
        removed: the removed resources, as they were.
        versions: the resources that a dry run would remove.
        count: how many resources were removed, would be, or met the criteria.
        shows_content: whether the caller may see the contents of `removed` and `versions` (law 24).
        detail: more of the reason, for the caller.
    """

    outcome: DeleteOutcome
    removed: tuple[Current, ...] = field(default=(), repr=False)
    versions: tuple[Version, ...] = ()
    count: int = 0
    shows_content: bool = False
    detail: str = ""

    @classmethod
    def of(cls, removal: Removal, rights: DeleteRights | None = None) -> "Result":
        """The result of removing one resource; without rights it shows no content."""
        match removal:
            case Removed(resource):
                shows = rights is not None and rights.shows_content
                return cls(outcome=DeleteOutcome.DELETED, removed=(resource,), count=1, shows_content=shows)
            case AlreadyDeleted():
                return cls(outcome=DeleteOutcome.ALREADY_DELETED)
            case NeverExisted():
                return cls(outcome=DeleteOutcome.NEVER_EXISTED)
            case VersionMismatch():
                return cls(outcome=DeleteOutcome.VERSION_MISMATCH)
            case Protected(detail):
                return cls(outcome=DeleteOutcome.PROTECTED, detail=detail)

    @classmethod
    def of_all(cls, removed: Sequence[Current], request: DeleteRequest) -> "Result":
        """The result of a delete by criteria that removed all matches."""
        outcome = DeleteOutcome.ALL_DELETED if request.remove_all else DeleteOutcome.DELETED
        return cls(outcome=outcome, removed=tuple(removed), count=len(removed))

    @classmethod
    def of_left(cls, matches: Matches, request: DeleteRequest) -> "Result":
        """Why matches are not removed: there are none, too many, or the one has a version that the client does not mean."""
        if not matches.count:
            return cls(outcome=DeleteOutcome.NO_MATCH)
        if matches.count > len(matches.versions):
            outcome = DeleteOutcome.TOO_MANY_MATCHES if request.remove_all else DeleteOutcome.SEVERAL_MATCHES
            return cls(outcome=outcome, count=matches.count)
        return cls(outcome=DeleteOutcome.VERSION_MISMATCH)
