"""What a dialect is: tables, and small closed types where a table cell needs a choice.

A vendor is `replace(STANDARD, ...)`. A difference that no field can say becomes a new field with a default; it never becomes a
callable, and nobody asks a dialect for its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from enum import Enum, auto
from types import MappingProxyType

from fhir_bulk_middleware.contract.job import ReportForm
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.outcomes import Operation, Reason

__all__ = ["Answer", "Dialect", "Lists", "ManifestShape", "Progress", "RequiredHeader", "RetryAfter"]

_REPORTED = (Reason.PARAMETER_UNKNOWN, Reason.PARAMETER_UNSUPPORTED, Reason.RESOURCE_UNREADABLE)
"""The reasons that an error file can report."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one reason is told: the status line and the issue of the OperationOutcome.

    Attributes:
        status: HTTP status code.
        code: `OperationOutcome.issue.code`.
        text: said instead of the refusal's own detail; needed wherever the detail could tell a caller what it may not learn.
        severity: `OperationOutcome.issue.severity`.
        identified: whether the OperationOutcome has an `id` of its own.
    """

    status: int
    code: str
    text: str = ""
    severity: str = "error"
    identified: bool = False


class RequiredHeader(Enum):
    """A header without which a kick-off is refused (KO-40 to KO-44)."""

    ACCEPT = "Accept"
    PREFER = "Prefer"


class Lists(Enum):
    """How several values of one parameter are given (KO-60 to KO-62)."""

    COMMA = auto()
    """By comma or by repetition; in `_typeFilter` only a comma that another query follows separates (law 39)."""
    REPETITION = auto()
    """By repetition only."""


class Progress(Enum):
    """What `X-Progress` says while a job is not complete (ST-03)."""

    TEXT = auto()
    PERCENT = auto()
    PHASE = auto()


class RetryAfter(Enum):
    """What the number in `Retry-After` counts; RFC 9110 knows seconds only (ST-04)."""

    SECONDS = 1
    MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class ManifestShape:
    """Which keys a manifest has (section 2.4 of the requirements).

    Attributes:
        request: whether the kick-off URL is repeated (MF-02).
        errors_on_every_page: whether linked manifests repeat the list of errors (ST-45).
        errors: the name of the list of OperationOutcome files (MF-11, MF-12).
        extension_array: whether `extension` is an array of FHIR Extensions instead of a JSON object (MF-15).
        typed_items: whether items of `deleted` and the error list carry `type` (MF-10, MF-12).
        file_size: whether items carry `fileSize` (MF-09).
        deleted: whether there is a `deleted` list (MF-10).
        manifest_type: whether the manifest names its own definition and the output format (MF-16, MF-17).
        empty_message: what the root's `message` says when nothing was exported, with `{job}`; None for no such key (MF-18).
    """

    request: bool = True
    errors: str = "error"
    errors_on_every_page: bool = True
    extension_array: bool = False
    typed_items: bool = True
    file_size: bool = False
    deleted: bool = True
    manifest_type: bool = False
    empty_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dialect:
    """How one vendor, or one version of the standard, speaks.

    Attributes:
        name: for settings and logs only.
        kick_off: which methods kick off an export at which level; a level that is missing is not offered (KO-01 to KO-07).
        required_headers: what a kick-off must carry.
        status_requires: what a poll and a cancel must carry; the IG asks for nothing (DL-12).
        status_accept: media types of which a poll and a cancel must accept one, if they carry `Accept` at all; empty for
            "whatever they accept" (ST-07, CD-21).
        parameters: the parameters that its version of the standard defines.
        post_only: those of them that belong in the body of a POST (PT-01).
        codings: those of them whose value in a Parameters resource is a Coding instead of a code (KO-26).
        lists: how several values of one parameter are given.
        separate_export_status: whether a job's status can go into `X-Export-Status` (KO-45).
        status_path: the polling location below the mount, with `{job}`; in a query string if it has one (AS-06).
        page_path: where a further page of a partial manifest is fetched, with `{job}` and `{page}` (ST-44).
        file_path: where a file is fetched, with `{file}`.
        file_methods: how.
        accepted: status of a kick-off that was accepted (KO-110).
        in_progress: status of a poll while the job is queued or running (ST-01).
        completed: status of a poll that carries the manifest (ST-20).
        cancelled: status of a DELETE that was carried out (DL-01).
        cancelled_answer: the OperationOutcome that comes with it, its text with `{job}` and `{now}`; None for no body (DL-02).
        manifest: its keys.
        precision: how much of `transactionTime` is shown, and so the precision of the cut (law 1).
        zone: the time zone that `transactionTime` is shown in; None for the server's own.
        progress: what `X-Progress` says.
        progress_text: for `Progress.TEXT`, with `{done}` and `{estimate}`; its result must stay below 100 characters.
        retry_after: what `Retry-After` counts.
        text: where an issue's text stands.
        request_ids: headers that carry the id of the response, for support.
        answers: how each reason is told.
        exceptions: where an operation tells a reason differently.
        retention: seconds that a finished job is kept, where the source document fixes it.
    """

    name: str
    answers: Mapping[Reason, Answer]
    exceptions: Mapping[tuple[Operation, Reason], Answer] = field(default_factory=lambda: MappingProxyType({}))
    kick_off: Mapping[Level, tuple[str, ...]]
    required_headers: frozenset[RequiredHeader] = frozenset({RequiredHeader.PREFER})
    status_requires: frozenset[RequiredHeader] = frozenset()
    status_accept: frozenset[str] = frozenset()
    parameters: frozenset[str]
    post_only: frozenset[str] = frozenset({"patient"})
    codings: frozenset[str] = frozenset()
    lists: Lists = Lists.COMMA
    separate_export_status: bool = False
    status_path: str = "/$export-status/{job}"
    page_path: str = "/$export-status/{job}/page/{page}"
    file_path: str = "/$export-file/{file}"
    file_methods: tuple[str, ...] = ("GET",)
    accepted: int = 202
    in_progress: int = 202
    completed: int = 200
    cancelled: int = 202
    cancelled_answer: Answer | None = None
    manifest: ManifestShape = ManifestShape()
    precision: Precision = Precision.MILLISECONDS
    zone: tzinfo | None = UTC
    progress: Progress = Progress.TEXT
    progress_text: str = "Export in progress - {done:,} of about {estimate:,} resources"
    retry_after: RetryAfter = RetryAfter.SECONDS
    text: TextElement = TextElement.BOTH
    request_ids: tuple[str, ...] = ("X-Request-Id",)
    retention: float | None = None

    def __post_init__(self) -> None:
        """Refuse a table with holes: every reason must have an answer, and every path its placeholder."""
        missing = [reason.name for reason in Reason if reason not in self.answers]
        if missing:
            raise ValueError(f"dialect {self.name} has no answer for {', '.join(missing)}")
        for path, placeholder in ((self.status_path, "{job}"), (self.file_path, "{file}")):
            if path.count(placeholder) != 1 or not path.startswith("/"):
                raise ValueError(f"dialect {self.name}: {path!r} must begin with a slash and hold {placeholder} once")

    def __repr__(self) -> str:
        """Its name: what it holds is several pages."""
        return f"<Dialect {self.name}>"

    def answer(self, operation: Operation, reason: Reason) -> Answer:
        """The answer to a refusal for this reason on that operation."""
        return self.exceptions.get((operation, reason)) or self.answers[reason]

    def report_form(self) -> ReportForm:
        """How error files write their issues: with the codes that a kick-off refused for the same reasons would have (KO-102)."""
        return ReportForm(self.text, tuple((reason, self.answer(Operation.KICK_OFF, reason).code) for reason in _REPORTED))
