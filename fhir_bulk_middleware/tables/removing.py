"""`TableDeletes`: removes rows by id and by criteria."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import and_
from sqlalchemy.ext.asyncio import AsyncConnection

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import Authorisation
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Current,
    Matches,
    NeverExisted,
    Removal,
    Removed,
    Target,
    Version,
    VersionMismatch,
)
from fhir_bulk_middleware.tables.conditions import living
from fhir_bulk_middleware.tables.criteria import narrowed
from fhir_bulk_middleware.tables.storage import TableStorage, current_of, to_current
from fhir_bulk_middleware.tables.transactions import writing

__all__ = ["TableDeletes"]


class _ChangedError(Exception):
    """A match is not what it was; the transaction is undone."""


class TableDeletes(TableStorage):
    """`TableStorage` with `SupportsDelete` and `SupportsConditionalDelete`.

    A subclass adds `deletable` and `erase`. Rows are found by the columns of `ResourceTable.search`, and removed only if the
    resource that is made of them meets all criteria.
    """

    base_urls: Sequence[str] = ()
    """The base URLs under which an absolute reference in a resource leads to this storage."""

    @abstractmethod
    async def deletable(self, principal: Principal) -> Authorisation:
        """See `SupportsDelete`."""

    @abstractmethod
    async def erase(self, connection: AsyncConnection, resource: Current) -> None:
        """Remove the row of a resource, mark it, or write a deletion as its next version.

        The row is locked and has that version. A row that is marked keeps it (`ResourceTable.version`), so that a repeated delete
        and a remove-all that goes on after a crash know what they removed. Raising undoes the whole transaction.

        Args:
            connection: in the transaction.
            resource: the version that is removed.
        """

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """See `SupportsDelete`."""
        table = self._tables.get(type_)
        if table is None:
            return NeverExisted()
        async with writing(self.engine) as connection:
            found = await current_of(connection, table, id_, self.allowed(table, rights), lock=True)
            if found is None:
                return NeverExisted()
            if found.deleted:
                return AlreadyDeleted(found.version)
            if if_version is not None and found.version not in if_version:
                return VersionMismatch()
            await self.erase(connection, found)
        return Removed(found)

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """See `SupportsConditionalDelete`."""
        count, versions = 0, []
        async for found in self._matching(target):
            count += 1
            if count <= at_most:
                versions.append(Version(found.id, found.version))
        return Matches(count, tuple(versions))

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        """See `SupportsConditionalDelete`.

        The matches are found once more, then locked and compared: what changes in between is not removed, and what comes in
        between is as if it came afterwards.
        """
        table = self._tables.get(target.type)
        if table is None:
            return None
        frozen = {match.id: match.version for match in matches.versions}
        removed: list[Current] = []
        try:
            async with writing(self.engine) as connection:
                again = {found.id: found.version async for found in self._matching(target, connection)}
                if again != frozen:
                    return None
                for id_ in sorted(frozen):
                    found = await current_of(connection, table, id_, self.allowed(table, target.rights), lock=True)
                    if found is None or found.deleted or found.version != frozen[id_]:
                        raise _ChangedError
                    await self.erase(connection, found)
                    removed.append(found)
        except _ChangedError:
            return None
        return removed

    async def _matching(self, target: Target, connection: AsyncConnection | None = None) -> AsyncIterator[Current]:
        """The current resources that meet a target, by their ids."""
        table = self._tables.get(target.type)
        if table is None:
            return
        filters = Filters(target.filters, target.type, self.base_urls)
        mine = and_(living(table), self.allowed(table, target.rights), narrowed(table, target.filters, self._dialect))
        async for row in self._read(table, self._keyed(table, mine), None, connection):
            found = to_current(table, row)
            if filters.passes(found.json):
                yield found
