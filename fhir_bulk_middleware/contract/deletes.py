"""The protocols of a storage adapter for deletes, and of our own log of deletes for storages that keep no record of them.

Where methods run, and what they raise if the storage cannot answer now (`Refused(Reason.BUSY)`), is said in
`fhir_bulk_middleware.contract.storage`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation
from fhir_bulk_middleware.contract.removal import (
    Batch,
    BatchId,
    BatchProgress,
    Current,
    Mark,
    Matches,
    Protected,
    Removal,
    Report,
    Tally,
    Target,
)
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = [
    "DeletionLog",
    "SupportsBatchDelete",
    "SupportsConditionalDelete",
    "SupportsDelete",
    "SupportsLockedDelete",
    "SupportsOutbox",
]


@runtime_checkable
class SupportsDelete(Protocol):
    """A storage that can remove one resource. Without it there is no DELETE route: the host keeps its own.

        async def deletable(self, principal):
            return Authorisation(types=frozenset({"Observation"}))

        async def remove(self, type_, id_, if_version, rights):
            async with self._db.transaction():
                row = await self._db.lock(type_, id_)
                if row is None:
                    return NeverExisted()
                if if_version is not None and row.version not in if_version:
                    return VersionMismatch()
                await self._db.delete(row)
                return Removed(row.as_current())

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server; with a `DeletionLog`, `remove` also runs
    in a worker, for remove-alls that are jobs.
    """

    async def deletable(self, principal: Principal) -> Authorisation:
        """The types and rows that the principal may delete, scopes aside; `rights` comes back with each removal.

        Raises:
            Refused: `SERVICE_INACTIVE`, if deletes are switched off for the principal; or `BUSY`.
        """
        ...

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """Remove a resource if it is at one of these versions; None removes any version.

        The adapter guarantees: the version is compared while the row is locked, so that of several callers who name the same
        version one removes, and no change in between is lost. An answered removal is durable and seen by every read. A resource
        outside the rights is `NeverExisted`. Every answer but `Removed`, and every exception, has changed nothing.
        """
        ...


@runtime_checkable
class SupportsConditionalDelete(Protocol):
    """A storage that finds resources by criteria, and removes all of them at once. Without it there is no conditional route.

        async def find(self, target, *, at_most):
            filters = Filters(target.filters, target.type)
            found = [Version(row.id, row.version) for row in self._current(target.type) if filters.passes(row.json)]
            return Matches(len(found), tuple(found[:at_most]))

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server.
    """

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """The current resources that meet the target: their number, and the first `at_most` of them.

        `Filters(target.filters, target.type)` says of a resource's text whether it meets the target.

        Raises:
            CriteriaError: a criterion cannot be applied exactly. It is never ignored: fewer criteria would remove more.
        """
        ...

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | Protected | None:
        """Remove all of these matches in one transaction; None, with nothing removed, if the matches have changed.

        The adapter guarantees: it removes only if the current resources that meet the target are exactly these, at exactly these
        versions. The removed resources come back as they were. Every other answer, and every exception, has changed nothing.
        """
        ...


@runtime_checkable
class SupportsLockedDelete(Protocol):
    """A storage that finds and removes resources under one lock.

    Without it a conditional delete finds, then removes if the matches are the same, and repeats if they are not: beside a busy
    writer it is refused as `BUSY` after some attempts.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server.
    """

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches | Protected:
        """Remove all current resources that meet the target, in one transaction that also finds them.

        Returns:
            The removed resources, as they were. If there is no match, more than `at_most`, or one at another version than
            `if_version` (None: any version), the matches; nothing was removed then.

        Raises:
            CriteriaError: as `SupportsConditionalDelete.find`.
        """
        ...


@runtime_checkable
class SupportsOutbox(Protocol):
    """A storage that records each removal in the transaction that makes it, until observers know of it (law 37).

    Without it the event of a removal is lost if the process dies in between. With it another process sends the event then. A
    `DeletionLog` before the storage does the same, except for deletes that the host makes on its own.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. Runs in the server and in a worker.
    """

    def recording(self, note: str) -> SupportsDelete:
        """This storage, with all its delete protocols, which records under the note whatever is removed through it.

        The adapter guarantees: removal and record are one transaction, which makes one report for all resources that it removes,
        and none if it removes nothing. Report numbers rise in the order in which removals become visible. A note is JSON of some
        kB at most. A batch is recorded under its own note (`Batch.note`).
        """
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """The oldest reports by number, leased to this teller; None while another teller holds the lease.

        One lease covers all reports, so that they are sent in order, and once unless a teller dies or is slow.
        """
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """Remove these reports, since observers know them, and end the teller's lease if it still holds it."""
        ...


@runtime_checkable
class SupportsBatchDelete(Protocol):
    """A storage that journals removals in the transaction that makes them, so that a long remove-all is exact after a crash.

    Without it a `DeletionLog` is the journal, and one resource is removed at a time.

    Implemented by `SQLiteResourceStore` and `MemoryResourceStore`. `remove_batch` runs in a worker, `end_run` in both.
    """

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """Remove those of the batch that are as they were frozen; the outcome of each, in order. None if the run has ended.

        Outcomes are `DELETED`, `ALREADY_DELETED`, `VERSION_MISMATCH` and `PROTECTED`.

        The adapter guarantees: removals and journal are one transaction. A batch that is in the journal is not repeated: its
        outcomes come back as they were written. After `end_run` was answered no batch of the run removes anything.
        """
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good; its tally. May be called again, and for a run that never began.

        `Tally.cancelled` says whether the first call that ended the run was a cancel; it never changes.
        """
        ...


class DeletionLog(Protocol):
    """Our own log of deletes, before a storage that keeps no record of them (law 28). A write that has returned is durable.

    Implemented by `SQLiteDeletionLog` and `MemoryDeletionLog`. Runs in the server, and in a worker for exports with `_since` and
    for remove-alls that are jobs.

    A mark is in doubt from its writing until it is settled; its `at` is set once. The marks that one call of `settle` turns from
    doubtful to gone, and that have a note, become reports in the same transaction, one for each note and type: the log is the
    outbox of a storage that has none (`SupportsOutbox`).
    """

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        """Write marks of resources that are about to be removed, of a batch or of none; the marks with their numbers.

        None, and nothing written, if the run of the batch has ended.
        """
        ...

    async def settle(
        self,
        gone: Sequence[Mark],
        left: Sequence[Mark],
        *,
        batch: BatchId | None = None,
        outcomes: Sequence[DeleteOutcome] = (),
    ) -> None:
        """Settle marks in doubt, in one transaction: those that are gone get `at`, version and owners; those that are left go.

        With a batch also the outcome of each of its resources, which settles the batch.
        """
        ...

    async def progress(self, batch: BatchId) -> BatchProgress:
        """The marks and outcomes of a batch; empty for one that was not begun."""
        ...

    async def ended(self, run: str) -> bool:
        """Whether the run has ended."""
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good; its tally, with the number of its marks in doubt. See `SupportsBatchDelete.end_run`."""
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        ...

    async def latest(self, type_: str, id_: str) -> Mark | None:
        """The mark of a resource's last removal; None if it was never removed, or that was forgotten."""
        ...

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        """The marks of last removals within `since < at <= until`, by number, with numbers above `after`."""
        ...

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        ...

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`. Marks in doubt stay, and those of a batch that is not settled."""
        ...

    async def doubtful(self, type_: str | None, after: int, limit: int) -> Sequence[Mark]:
        """Marks in doubt, of one type or (None) of all, by number, with numbers above `after`."""
        ...
