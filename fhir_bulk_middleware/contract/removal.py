"""The values of deletes, between us and the storage adapter: what is to be deleted, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = [
    "AlreadyDeleted",
    "Batch",
    "BatchId",
    "BatchProgress",
    "Current",
    "Mark",
    "Matches",
    "NeverExisted",
    "Protected",
    "Removal",
    "Removed",
    "Report",
    "Tally",
    "Target",
    "Version",
    "VersionMismatch",
    "batch_outcome",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """One version of a resource: the current one, or the last one before it was removed.

    Attributes:
        type: the resource type.
        id: the logical id.
        version: `meta.versionId`, which FHIR leaves to the server: a number or any other id.
        last_updated: `meta.lastUpdated`; for a deletion, the instant of the deletion.
        json: its text, one JSON object without a newline; empty for a deletion.
        deleted: whether this version is a deletion.
    """

    type: str
    id: str
    version: str
    last_updated: Instant
    json: bytes = field(repr=False)
    deleted: bool = False

    @property
    def reference(self) -> str:
        """`Type/id`."""
        return f"{self.type}/{self.id}"


@dataclass(frozen=True, slots=True)
class Removed:
    """The resource was removed by this call.

    Attributes:
        resource: the removed version.
    """

    resource: Current


@dataclass(frozen=True, slots=True)
class AlreadyDeleted:
    """The resource was removed before.

    Attributes:
        version: the version that was removed then, not that of the deletion; None if it is not known.
    """

    version: str | None


@dataclass(frozen=True, slots=True)
class NeverExisted:
    """There is no such resource. A storage that keeps no record of deletes also answers this for one that it deleted."""


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """The resource lives, at another version than the caller means; it was not removed."""


@dataclass(frozen=True, slots=True)
class Protected:
    """The storage refuses to remove the resource (RD-07).

    Attributes:
        detail: the reason, shown to the client; it must not name resources that the client may not see.
    """

    detail: str


Removal = Removed | AlreadyDeleted | NeverExisted | VersionMismatch | Protected


@dataclass(frozen=True, slots=True)
class Version:
    """A resource of a known type, at one version.

    Attributes:
        id: the logical id.
        version: its `meta.versionId`.
    """

    id: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The resources of one type that a conditional delete means.

    `criteria` cannot be empty, so "no criteria" cannot turn into "the whole type".

    Attributes:
        criteria: the client's search criteria.
        granted: the restrictions of the client's granular scopes, all of which must hold; empty if the scopes cover the type.
        rights: the adapter's context about rows (`SupportsDelete.deletable`).
    """

    criteria: Criteria
    granted: tuple[Filter, ...] = ()
    rights: str = field(default="", repr=False)

    @property
    def type(self) -> str:
        """The resource type."""
        return self.criteria.type

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Criteria and grants as filters, all of which must hold; `Filters` applies them."""
        return (Filter(self.type, (self.criteria,)), *self.granted)


@dataclass(frozen=True, slots=True)
class Matches:
    """The current resources that meet a target.

    Attributes:
        count: how many there are.
        versions: the first of them, as many as were asked for.
        mark: the adapter's own note about its search, passed back to it with these matches; at most 1 kB.
    """

    count: int
    versions: tuple[Version, ...]
    mark: str = ""

    def removable(self, if_version: frozenset[str] | None) -> bool:
        """Whether there is a match, all matches are in `versions`, and each is at one of these versions; None is any version."""
        named = 0 < self.count == len(self.versions)
        return named and (if_version is None or all(match.version in if_version for match in self.versions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A record of our own log: a resource that is about to be removed, or was removed (law 28).

    Attributes:
        type: the resource type.
        id: the logical id.
        version: the version that is to be removed, or was.
        owners: the compartments that the resource is in, `Patient/123` (law 27).
        rights: the context about rows under which it is removed; a caller with another context is told that it never existed.
        at: the instant by which it was gone; None while that is in doubt.
        number: its place in the log; 0 before it has one.
        note: on whose behalf it is removed (`SupportsOutbox.recording`); empty for a removal that is not reported.
    """

    type: str
    id: str
    version: str
    owners: frozenset[str]
    rights: str = field(default="", repr=False)
    at: Instant | None = None
    number: int = 0
    note: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A removal, recorded in the transaction that made it, that observers may not know of yet (law 37).

    Attributes:
        number: its place in the outbox; unique, and rising in the order of the removals.
        note: the note that the removal was given (`SupportsOutbox.recording`).
        at: when the resources were gone.
        type: their resource type.
        ids: their logical ids, at least one.
    """

    number: int
    note: str = field(repr=False)
    at: Instant
    type: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchId:
    """The identity of a batch of an asynchronous remove-all.

    Attributes:
        run: the id of the job.
        number: the batch's number in its run.
    """

    run: str
    number: int


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """What the log of deletes knows of a batch.

    Attributes:
        marks: the marks that were intended and not struck out, in order; empty for a batch that was not begun.
        outcomes: the outcome of each resource, None until the batch is settled.
    """

    marks: tuple[Mark, ...] = ()
    outcomes: tuple[DeleteOutcome, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A part of an asynchronous remove-all: versions that were frozen when it was kicked off (law 26).

    Attributes:
        id: the run and number of the batch.
        type: the resource type.
        versions: the versions to remove; a resource that has another version by now is left.
        rights: the adapter's context about rows.
        note: the note under which a storage with `SupportsOutbox` records what the batch removes; empty to record nothing.
    """

    id: BatchId
    type: str
    versions: tuple[Version, ...]
    rights: str = field(default="", repr=False)
    note: str = field(default="", repr=False)


def batch_outcome(removal: Removal) -> DeleteOutcome:
    """The outcome to journal for a frozen version. One that is gone was deleted, also if the storage has no record of that."""
    match removal:
        case Removed():
            return DeleteOutcome.DELETED
        case VersionMismatch():
            return DeleteOutcome.VERSION_MISMATCH
        case Protected():
            return DeleteOutcome.PROTECTED
    return DeleteOutcome.ALREADY_DELETED


@dataclass(frozen=True, slots=True)
class Tally:
    """The result of a run.

    Attributes:
        removed: how many resources it removed.
        left: how many resources it found changed, gone or protected, and did not remove.
        doubtful: how many resources it was about to remove when it was stopped; a `DeletionLog` settles them later.
        cancelled: whether the first call that ended the run was a cancel.
    """

    removed: int
    left: int
    doubtful: int = 0
    cancelled: bool = False

    @classmethod
    def of(cls, outcomes: Sequence[DeleteOutcome], doubtful: int = 0, *, cancelled: bool = False) -> "Tally":
        """The tally of what came of each resource."""
        removed = sum(outcome is DeleteOutcome.DELETED for outcome in outcomes)
        return cls(removed, len(outcomes) - removed, doubtful, cancelled)
