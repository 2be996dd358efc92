"""The values that our resource stores return to their host: a version of a resource, and a page of current ones."""

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
        version: 1 for the first version; each write adds one, a deletion too.
        last_updated: when this version was written.
        json: its canonical text without a newline; empty for a deletion.
        deleted: whether this version is a deletion.
    """

    type: str
    id: str
    version: int
    last_updated: Instant
    json: bytes = field(repr=False)
    deleted: bool

    def as_current(self) -> Current:
        """This version as a value of the delete protocols."""
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
    """A page of current resources.

    Attributes:
        resources: the resources, none of them deleted.
        next: the cursor of the next page, None after the last one.
    """

    resources: tuple[Stored, ...]
    next: str | None


class VersionConflict(Exception):  # noqa: N818 - a lost race is an outcome, not an error of the program
    """The resource is not at the version that the writer expects; nothing was written.

    Attributes:
        current: its current version, which may be a deletion; None if there never was such a resource.
    """

    def __init__(self, current: int | None) -> None:
        super().__init__(f"the resource is at version {current}" if current is not None else "there is no such resource")
        self.current = current
