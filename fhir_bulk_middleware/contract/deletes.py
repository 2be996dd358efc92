"""What a storage adapter can do for deletes, and our own log of deletes for storages that keep none."""

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

    Runs in the server; with a log of ours `remove` also in a worker, for remove-alls that are jobs.
    """

    async def deletable(self, principal: Principal) -> Authorisation:
        """What this principal may delete, scopes aside: types, and a note about rows that comes back with each removal.

        Raises:
            Refused: `SERVICE_INACTIVE`, where deletes are switched off for the principal.
        """
        ...

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        """Remove a resource, if it is at one of these versions; None is "at whichever it is".

        The adapter guarantees: the version is compared where the row is locked, so that of several who name the same version
        one removes and no change in between is lost; a removal that was answered is durable and seen by every read; a
        resource outside the rights is `NeverExisted`; whatever is answered but `Removed` has changed nothing.
        """
        ...


@runtime_checkable
class SupportsConditionalDelete(Protocol):
    """A storage that can find what to delete, and remove all of it in one go. Without it there is no conditional route.

    Runs in the server.
    """

    async def find(self, target: Target, *, at_most: int) -> Matches:
        """The current resources that the target means: how many, and the first `at_most` of them.

        Raises:
            CriteriaError: a criterion that this storage cannot apply exactly; nothing is ever left out of a target.
        """
        ...

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | Protected | None:
        """Remove these matches, all of them, in one transaction; None, and nothing removed, if they are not the matches any more.

        The adapter guarantees: when it removes, the current resources that meet the target are exactly these, at exactly these
        versions; what is removed comes back as it was; whatever else is answered has changed nothing.
        """
        ...


@runtime_checkable
class SupportsLockedDelete(Protocol):
    """A storage that can find and remove under one lock.

    Without it a conditional delete finds, then removes what it found if that is still what matches, and tries again if it is not:
    beside a writer that never rests it is refused as `BUSY` after some tries.
    """

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches | Protected:
        """Remove all current resources that the target means, in one transaction that also finds them.

        Returns:
            What was removed, as it was. Where there is no match, more than `at_most`, or one at another version than
            `if_version` (None: at any), the matches, and nothing was removed.

        Raises:
            CriteriaError: as `SupportsConditionalDelete.find`.
        """
        ...


@runtime_checkable
class SupportsOutbox(Protocol):
    """A storage that records each removal in the transaction that makes it, until observers know of it (law 37).

    Whoever comes next tells observers of what is left: the process that removed, or, should it have died, any other. Without this
    protocol a removal is told by its process right after it, so that a process that dies between the two takes the record along;
    our own log (`DeletionLog`) before the storage closes that gap, but for deletes that the host makes on its own.
    """

    def recording(self, note: str) -> SupportsDelete:
        """This storage, with all of its protocols of deletes: whatever is removed through it is recorded under the note.

        The adapter guarantees: removal and record are one transaction, which makes one report for all resources that it removes,
        and none if it removes nothing; numbers rise in the order in which removals become visible. A note is JSON, some kB at
        most. A batch is recorded under its own (`Batch.note`).
        """
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """The oldest reports that are left, by number, leased to this teller; None while another one holds the lease.

        There is one lease for all of them, so that they are told in order and, unless a teller dies or is slow, once.
        """
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """Forget these reports, for observers know them, and end the teller's lease if it still has it."""
        ...


@runtime_checkable
class SupportsBatchDelete(Protocol):
    """A storage that journals removals in the transaction that makes them, so that a long remove-all is exact after a crash.

    Without it our own log is the journal, and one resource is removed at a time.

    Runs in: `remove_batch` in a worker, `end_run` in the server.
    """

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """Remove those of the batch that are as they were frozen; what came of each, in order. None: the run has ended.

        Outcomes are `DELETED`, `ALREADY_DELETED`, `VERSION_MISMATCH` and `PROTECTED`.

        The adapter guarantees: removals and journal are one transaction; a batch that is in the journal is not done again, its
        outcomes come back as they were written; after `end_run` was answered no batch of the run removes anything.
        """
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good, and say what it has come to. Can be called again, also of a run that never began.

        `Tally.cancelled` says whether the first call that ended it was a cancel; it never changes.
        """
        ...


class DeletionLog(Protocol):
    """Our own log of deletes, for storages that keep none (law 28). A write that has returned is durable.

    A mark is in doubt from its writing until it is settled; `at` is given once and never changes. What a call of `settle` turns
    from doubtful to gone, and has a note, becomes a report in the same transaction, one for each note and type: the log is the
    outbox of a storage that has none (`SupportsOutbox`).
    """

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        """Write marks of what is about to be removed, of a batch or of none; the same marks with their numbers.

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
        """Record which marks in doubt are gone, with all that is known of them now, and strike out those that are left.

        With a batch also the outcome of each of its resources, which settles the batch; all of it in one transaction.
        """
        ...

    async def progress(self, batch: BatchId) -> BatchProgress:
        """What is known of a batch."""
        ...

    async def ended(self, run: str) -> bool:
        """Whether the run has ended."""
        ...

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """End a run for good; what it has come to, with what is in doubt. See `SupportsBatchDelete.end_run`."""
        ...

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        ...

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        ...

    async def latest(self, type_: str, id_: str) -> Mark | None:
        """The last time that a resource was removed, None if it never was."""
        ...

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        """Resources that were gone within `since < at <= until` for the last time, by number, behind `after`."""
        ...

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        ...

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`. Marks in doubt stay, and those of a run's batch that has no outcomes yet."""
        ...

    async def doubtful(self, type_: str | None, after: int, limit: int) -> Sequence[Mark]:
        """Marks in doubt, by number, behind `after`; of one type, or with None of all."""
        ...
