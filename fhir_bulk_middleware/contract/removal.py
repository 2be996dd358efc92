"""What is to be deleted, and what came of it: values that travel between us and the storage adapter."""

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
    """A resource as it is, or was until it was removed.

    Attributes:
        type: the resource type.
        id: the logical id.
        version: `meta.versionId`, which FHIR leaves to the server: a number or any other id.
        last_updated: from when on this version held.
        json: its text, one JSON object without a newline; empty for a deletion.
        deleted: whether this version says that the resource was deleted.
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
    """It was removed, now and by this call.

    Attributes:
        resource: the version that was removed.
    """

    resource: Current


@dataclass(frozen=True, slots=True)
class AlreadyDeleted:
    """It was removed before.

    Attributes:
        version: the version that was removed then, not that of the deletion; None if nobody knows any more.
    """

    version: str | None


@dataclass(frozen=True, slots=True)
class NeverExisted:
    """There is no such resource; a storage that deletes without a trace also says so of one that it deleted."""


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """It lives, at a version that the caller does not mean; it was left alone."""


@dataclass(frozen=True, slots=True)
class Protected:
    """The storage will not remove it (RD-07); it was left alone.

    Attributes:
        detail: why, for the client; nothing of resources that it may not know of.
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
    """Which resources a conditional delete means.

    `criteria` holds one criterion at least, by its own making: "no criteria" cannot turn into "the whole type".

    Attributes:
        criteria: what the client asked for.
        granted: what its granular scopes restrict it to, all of them to hold; empty if the scopes cover the whole type.
        rights: the adapter's own note about rows (`SupportsDelete.deletable`).
    """

    criteria: Criteria
    granted: tuple[Filter, ...] = ()
    rights: str = field(default="", repr=False)

    @property
    def type(self) -> str:
        """The one resource type that it is about."""
        return self.criteria.type

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Criteria and grants as filters, all of which must hold; `Filters` applies them."""
        return (Filter(self.type, (self.criteria,)), *self.granted)


@dataclass(frozen=True, slots=True)
class Matches:
    """Current resources that meet a target.

    Attributes:
        count: how many there are.
        versions: the first of them, as many as were asked for.
        mark: the adapter's own note of what it looked at, handed back to it with these matches; at most 1 kB.
    """

    count: int
    versions: tuple[Version, ...]
    mark: str = ""

    def removable(self, if_version: frozenset[str] | None) -> bool:
        """Whether there are any, all of them are named, and each is at one of these versions; None is any version."""
        named = 0 < self.count == len(self.versions)
        return named and (if_version is None or all(match.version in if_version for match in self.versions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line of our own log: a resource that is about to be removed, or was (law 28).

    Attributes:
        type: the resource type.
        id: the logical id.
        version: the version that is to be removed, or was.
        owners: the compartments that it is in, `Patient/123` (law 27).
        rights: the adapter's note about rows that it is removed under; who comes with another learns nothing of it.
        at: when it was gone, at the latest; None as long as that is in doubt.
        number: its place in the log; 0 before it has one.
        note: on whose behalf it is removed (`SupportsOutbox.recording`); empty where nobody wants to be told.
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
    """A removal that was recorded with the transaction that made it, and that observers may not know of yet (law 37).

    Attributes:
        number: its place in the outbox; rises in the order of the removals, and is given once.
        note: on whose behalf, as the removal was given it.
        at: when the resources were gone.
        type: their resource type.
        ids: their logical ids; one at least.
    """

    number: int
    note: str = field(repr=False)
    at: Instant
    type: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchId:
    """The place of a batch in an asynchronous remove-all; given once.

    Attributes:
        run: the id of the job.
        number: of the batch in its run.
    """

    run: str
    number: int


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """What the log of deletes knows of a batch.

    Attributes:
        marks: what was intended and is not struck out, in order; empty for a batch that was not begun.
        outcomes: what came of each resource, None until the batch is settled.
    """

    marks: tuple[Mark, ...] = ()
    outcomes: tuple[DeleteOutcome, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A part of an asynchronous remove-all: versions that were frozen when it was kicked off (law 26).

    Attributes:
        id: which batch of which run.
        type: the resource type.
        versions: what to remove, unless it has changed since.
        rights: the adapter's own note about rows.
        note: on whose behalf; a storage with `SupportsOutbox` records what the batch removes under it. Empty to record nothing.
    """

    id: BatchId
    type: str
    versions: tuple[Version, ...]
    rights: str = field(default="", repr=False)
    note: str = field(default="", repr=False)


def batch_outcome(removal: Removal) -> DeleteOutcome:
    """What is journalled of a frozen version: one that is gone was deleted by somebody, whatever the storage still knows."""
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
    """What a run has come to.

    Attributes:
        removed: resources that it removed.
        left: resources that it found changed or gone, and left alone.
        doubtful: resources that it was about to remove when it was stopped; a storage without batches of its own settles
            them later.
        cancelled: whether a cancel ended the run; whoever ended it first decides.
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
