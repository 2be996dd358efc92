"""Delete policies: tables that render each outcome of a delete.

A policy is data. A host makes its own with `but` and `dataclasses.replace`; no code depends on a policy's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Self

from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["AIDBOX", "FHIR_R4", "FHIR_R6_DRAFT", "NOT_FOUND", "Cell", "DeletePolicy", "Return", "Shows"]


class Shows(Enum):
    """The content of a response body."""

    NOTHING = auto()
    REMOVED = auto()
    """The removed resource; for a remove-all, a Bundle of them."""
    OUTCOME = auto()
    """An OperationOutcome."""


class Return(Enum):
    """The values of `Prefer: return` (RFC 7240, RD-18)."""

    MINIMAL = "minimal"
    REPRESENTATION = "representation"
    OPERATION_OUTCOME = "OperationOutcome"


@dataclass(frozen=True, slots=True)
class Cell:
    """The response to one outcome.

    Attributes:
        status: HTTP status code.
        shows: the content of the body.
        code: `OperationOutcome.issue.code`, also for an OperationOutcome within a Bundle.
        text: `OperationOutcome.issue.diagnostics`, with `{count}` and `{cap}`.
        severity: `OperationOutcome.issue.severity`.
    """

    status: int
    shows: Shows = Shows.NOTHING
    code: str = "informational"
    text: str = ""
    severity: str = "information"


def _error(status: int, code: str, text: str) -> Cell:
    return Cell(status, Shows.OUTCOME, code, text, "error")


_NO_CONTENT = Cell(204)
_DELETED = "The resource was deleted."
_COUNTED = "{count} resources were deleted."

NOT_FOUND = _error(404, "not-found", "There is no such resource.")
"""An alternative cell for a resource that never existed (CD-23)."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeletePolicy:
    """The responses to deletes, and what clients may ask for.

    Attributes:
        name: for settings and logs only.
        cells: the response to each outcome.
        preferred: the response to a removal for each `Prefer: return` that is supported.
        without_content: the response to a removal if the caller may not read it, or asked for no content by parameter.
        counted: the response to a remove-all if the caller may not read what it removed (law 24).
        no_content_parameter: the parameter, `true` or `false`, that asks for no content; None if there is none.
        dry_run_parameter: the parameter, `true` or `false`, that asks what would be removed; None if there is none.
        remove_all_header: name and value of the header that asks to remove all matches; None if there is none.
        if_match_required: whether a delete of one resource must name its version (RD-10).
    """

    name: str
    cells: Mapping[DeleteOutcome, Cell]
    preferred: Mapping[Return, Cell] = field(
        default_factory=lambda: MappingProxyType(
            {
                Return.MINIMAL: _NO_CONTENT,
                Return.REPRESENTATION: Cell(200, Shows.REMOVED),
                Return.OPERATION_OUTCOME: Cell(200, Shows.OUTCOME, text=_COUNTED),
            }
        )
    )
    without_content: Cell = _NO_CONTENT
    counted: Cell = Cell(200, Shows.OUTCOME, text=_COUNTED)
    no_content_parameter: str | None = None
    dry_run_parameter: str | None = "_dry-run"
    remove_all_header: tuple[str, str] | None = None
    if_match_required: bool = False

    def __post_init__(self) -> None:
        """Refuse a table without a cell for some outcome."""
        missing = [outcome.name for outcome in DeleteOutcome if outcome not in self.cells]
        if missing:
            raise ValueError(f"delete policy {self.name} has no cell for {', '.join(missing)}")

    def __repr__(self) -> str:
        """The name only: the content is several pages long."""
        return f"<DeletePolicy {self.name}>"

    def but(self, cells: Mapping[DeleteOutcome, Cell]) -> Self:
        """A copy of this policy with other cells for these outcomes."""
        return replace(self, cells=MappingProxyType({**self.cells, **cells}))


FHIR_R4 = DeletePolicy(
    name="fhir-r4",
    cells=MappingProxyType(
        {
            DeleteOutcome.DELETED: Cell(204, text=_DELETED),
            DeleteOutcome.ALREADY_DELETED: Cell(204, text="The resource had been deleted before."),
            DeleteOutcome.NEVER_EXISTED: Cell(204, text="There was no such resource."),
            DeleteOutcome.VERSION_MISMATCH: _error(
                412, "conflict", "The resource is not at the version that was named; nothing was deleted."
            ),
            DeleteOutcome.PROTECTED: _error(409, "conflict", "This server keeps the resource; nothing was deleted."),
            DeleteOutcome.NO_MATCH: Cell(204, text="No resource met the criteria."),
            DeleteOutcome.SEVERAL_MATCHES: _error(
                412,
                "multiple-matches",
                "{count} resources meet the criteria, which must select one; nothing was deleted. Narrow the criteria.",
            ),
            DeleteOutcome.ALL_DELETED: Cell(200, Shows.REMOVED, text=_COUNTED),
            DeleteOutcome.TOO_MANY_MATCHES: _error(
                412,
                "too-costly",
                "{count} resources meet the criteria, at most {cap} are deleted at once; nothing was deleted."
                " Narrow the criteria.",
            ),
            DeleteOutcome.WOULD_DELETE: Cell(200, Shows.REMOVED, text="{count} resources would be deleted; nothing was."),
        }
    ),
)
"""FHIR R4 and R5 as their text recommends (RD-01 to RD-13); no match is a success."""

FHIR_R6_DRAFT = replace(
    FHIR_R4.but({DeleteOutcome.NO_MATCH: _error(404, "not-found", "No resource meets the criteria.")}), name="fhir-r6-draft"
)
"""The draft of FHIR R6: no match is 404 (RD-12)."""

AIDBOX = replace(
    FHIR_R6_DRAFT.but({DeleteOutcome.DELETED: Cell(200, Shows.REMOVED, text=_DELETED)}),
    name="aidbox",
    no_content_parameter="_no-content",
    remove_all_header=("x-conditional-delete", "remove-all"),
)
"""The page "Delete" of Aidbox; the default. The response has the removed resource, as SQL's `DELETE ... RETURNING *`."""
