"""What a versioned resource store hands to its host: one version of a resource, and pages of current ones."""

from dataclasses import dataclass, field

from fhir_bulk_middleware.contract.removal import Current
from fhir_bulk_middleware.instant import Instant

__all__ = ["SearchPage", "Stored", "VersionConflict"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of a resource.

    Attributes:
        type: the resource type.
        id: the logical id.
        version: 1 for the first; each write adds one, a deletion too.
        last_updated: from when on this version held.
        json: its canonical text without a newline; empty for a deletion.
        deleted: whether this version says that the resource was deleted.
    """

    type: str
    id: str
    version: int
    last_updated: Instant
    json: bytes = field(repr=False)
    deleted: bool

    def as_current(self) -> Current:
        """The same in the words of the protocols."""
        return Current(
            type=self.type,
            id=self.id,
            version=str(self.version),
            last_updated=self.last_updated,
            json=self.json,
            deleted=self.deleted,
        )


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Some current resources.

    Attributes:
        resources: none of them deleted.
        next: where the next page begins, None after the last one.
    """

    resources: tuple[Stored, ...]
    next: str | None


class VersionConflict(Exception):  # noqa: N818 - a lost race is an outcome, not an error of the program
    """The resource is not at the version that the writer took for current; nothing was written.

    Attributes:
        current: the version that it is at, a deletion's included; None if it never was.
    """

    def __init__(self, current: int | None) -> None:
        super().__init__(f"the resource is at version {current}" if current is not None else "there is no such resource")
        self.current = current
