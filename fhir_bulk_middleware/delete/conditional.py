"""Deletes by criteria: find the matches, and remove them if they still are the matches."""

from dataclasses import dataclass

from fhir_bulk_middleware.contract.deletes import SupportsConditionalDelete, SupportsDelete, SupportsLockedDelete
from fhir_bulk_middleware.contract.events import Deleted
from fhir_bulk_middleware.contract.removal import Matches, Protected, Removed, Target
from fhir_bulk_middleware.delete.account import DeleteAccount
from fhir_bulk_middleware.delete.conditions import criteria_refused
from fhir_bulk_middleware.delete.result import DeleteRequest, Result
from fhir_bulk_middleware.fhir.search.criteria import CriteriaError
from fhir_bulk_middleware.outcomes import DeleteOutcome, Reason, Refused

__all__ = ["ConditionalDelete", "StorageOfCaller", "find"]

_TRIES = 20
_TRIES_BEFORE_A_LOCK = 3


@dataclass(frozen=True, slots=True)
class StorageOfCaller:
    """The storage on behalf of one caller, for one delete.

    Attributes:
        one: removes one resource.
        several: removes by criteria; None if the storage cannot.
        account: has the delete recorded before anything is removed.
        event: the event for observers, without its references.
        recorded: whether the storage records what it removes under that event.
    """

    one: SupportsDelete
    several: SupportsConditionalDelete | None
    account: DeleteAccount
    event: Deleted
    recorded: bool


async def find(several: SupportsConditionalDelete | None, target: Target, at_most: int) -> Matches:
    """The matches of a target.

    Raises:
        Refused: the storage finds nothing by criteria, or cannot apply one of these.
    """
    try:
        return await _able(several).find(target, at_most=at_most)
    except CriteriaError as error:
        raise criteria_refused(error) from None


class ConditionalDelete:
    """Removes the matches of one target.

    Args:
        storage: finds and removes, and records it.
        target: which resources are meant.
        request: a single match or all, a dry run or not.
        at_most: how many matches may be removed.
    """

    def __init__(self, storage: StorageOfCaller, target: Target, request: DeleteRequest, at_most: int) -> None:
        self._storage = storage
        self._target = target
        self._request = request
        self._at_most = at_most

    async def run(self) -> Result:
        """Find the matches and remove them; repeat if they change in between, at last under a lock where the storage has one.

        Raises:
            Refused: `BUSY`, if they changed each time; or a criterion cannot be applied.
        """
        several = self._storage.several
        locked: SupportsLockedDelete | None = several if isinstance(several, SupportsLockedDelete) else None
        for _ in range(_TRIES if locked is None else _TRIES_BEFORE_A_LOCK):
            matches = await find(several, self._target, self._at_most)
            if (result := await self._remove(matches)) is not None:
                return result
        if locked is None:
            detail = "What is to be deleted changes too quickly; nothing was deleted."
            raise Refused(Reason.BUSY, detail, retry_after=1)
        await self._storage.account.intend([])  # the lock finds the matches; until then the criteria name them
        removed = await locked.remove_matching(self._target, at_most=self._at_most, if_version=self._request.versions)
        if isinstance(removed, Matches):
            return Result.of_left(removed, self._request)
        return Result.of(removed) if isinstance(removed, Protected) else Result.of_all(removed, self._request)

    async def _remove(self, matches: Matches) -> Result | None:
        """Remove matches; None if they have changed since they were found."""
        if not matches.removable(None if self._request.remove_all else self._request.versions):
            return Result.of_left(matches, self._request)
        if self._request.dry_run:
            return Result(outcome=DeleteOutcome.WOULD_DELETE, versions=matches.versions, count=matches.count)
        await self._storage.account.intend([match.id for match in matches.versions])
        return await (self._remove_all(matches) if self._request.remove_all else self._remove_single(matches))

    async def _remove_single(self, matches: Matches) -> Result | None:
        """An ordinary delete, at the version that matched."""
        (match,) = matches.versions
        removal = await self._storage.one.remove(self._target.type, match.id, frozenset({match.version}), self._target.rights)
        return Result.of(removal) if isinstance(removal, Removed | Protected) else None

    async def _remove_all(self, matches: Matches) -> Result | None:
        removed = await _able(self._storage.several).remove_all(self._target, matches)
        if removed is None:
            return None
        return Result.of(removed) if isinstance(removed, Protected) else Result.of_all(removed, self._request)


def _able(several: SupportsConditionalDelete | None) -> SupportsConditionalDelete:
    if several is None:
        detail = "This server finds no resources for a delete, which this request or the token's scopes would need."
        raise Refused(Reason.PARAMETER_UNSUPPORTED, detail)
    return several
