"""Dialects: tables of how one vendor, or one version of the standard, expresses reasons and job states over HTTP.

A vendor is `replace(STANDARD, ...)`. A difference that no field can express becomes a new field with a default, never a callable.
No code branches on the name of a dialect.
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
    """The answer to one reason: a status code, and the issue of the OperationOutcome.

    Attributes:
        status: HTTP status code.
        code: `OperationOutcome.issue.code`.
        text: replaces the refusal's own detail; required where the detail could disclose what the caller may not know.
        severity: `OperationOutcome.issue.severity`.
        identified: whether the OperationOutcome has an `id` of its own.
    """

    status: int
    code: str
    text: str = ""
    severity: str = "error"
    identified: bool = False


class RequiredHeader(Enum):
    """A header that requests must carry (KO-40 to KO-44)."""

    ACCEPT = "Accept"
    PREFER = "Prefer"


class Lists(Enum):
    """How a client gives several values of one parameter (KO-60 to KO-62)."""

    COMMA = auto()
    """By comma or by repetition. In `_typeFilter` only a comma before another query separates (law 39)."""
    REPETITION = auto()
    """By repetition only."""


class Progress(Enum):
    """The form of `X-Progress` while a job is not complete (ST-03)."""

    TEXT = auto()
    PERCENT = auto()
    PHASE = auto()


class RetryAfter(Enum):
    """The unit of `Retry-After`; in RFC 9110 it is seconds (ST-04)."""

    SECONDS = 1
    MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class ManifestShape:
    """The keys of a manifest (section 2.4 of the requirements).

    Attributes:
        request: whether the kick-off URL is repeated (MF-02).
        errors_on_every_page: whether linked manifests repeat the list of errors (ST-45).
        errors: the name of the list of OperationOutcome files (MF-11, MF-12).
        extension_array: whether `extension` is an array of FHIR Extensions instead of a JSON object (MF-15).
        typed_items: whether items of `deleted` and the error list carry `type` (MF-10, MF-12).
        file_size: whether items carry `fileSize` (MF-09).
        deleted: whether there is a `deleted` list (MF-10).
        manifest_type: whether the manifest names its own definition and the output format (MF-16, MF-17).
        empty_message: the root's `message` if there are no files, with `{job}`; None for no such key (MF-18).
        signed_urls: whether files may be fetched without a token (MF-03); if not, `Settings.signed_url_seconds` has no effect.
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
    signed_urls: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dialect:
    """The tables of one vendor, or of one version of the standard.

    Attributes:
        name: for settings and logs only.
        kick_off: the methods of a kick-off at each level; a missing level is not offered (KO-01 to KO-07).
        one_patient: whether one patient can be exported at `Patient/{id}/$export`, by the methods of the Patient level.
        required_headers: headers that a kick-off must carry.
        status_requires: headers that a poll and a cancel must carry; the IG requires none (DL-12).
        status_accept: if a poll or a cancel has an `Accept` header, it must accept one of these media types; empty for any
            (ST-07, CD-21).
        parameters: the parameters of a kick-off.
        post_only: parameters that are allowed in the body of a POST only (PT-01).
        codings: parameters whose value in a Parameters resource is a Coding instead of a code (KO-26).
        lists: how several values of one parameter are given.
        separate_export_status: whether a job's status can go into `X-Export-Status` (KO-45).
        status_path: the polling location below the mount, with `{job}`, possibly in a query string (AS-06).
        jobs_path: the path of the list of the caller's own jobs; None if there is none.
        page_path: the path of further pages of a partial manifest, with `{job}` and `{page}` (ST-44).
        file_path: the path of a file, with `{file}`.
        file_methods: the methods that fetch a file.
        accepted: status of a kick-off that was accepted (KO-110).
        in_progress: status of a poll while the job is queued or running (ST-01).
        completed: status of a poll that carries the manifest (ST-20).
        cancelled: status of a DELETE that was carried out (DL-01).
        cancelled_answer: the OperationOutcome of that answer, its text with `{job}` and `{now}`; None for no body (DL-02).
        manifest: the keys of manifests.
        precision: of `transactionTime`, and so of the cut (law 1).
        zone: the time zone of `transactionTime`; None for that of the server.
        progress: the form of `X-Progress`.
        progress_text: for `Progress.TEXT`, with `{done}` and `{estimate}`; fewer than 100 characters when filled in.
        retry_after: the unit of `Retry-After`.
        text: the element of an issue that carries its text.
        request_ids: response headers that carry the id of the request.
        answers: the answer to each reason.
        exceptions: answers of single operations that differ from `answers`.
        retention: seconds that a finished job is kept, if the source document fixes it; else the setting applies.
    """

    name: str
    answers: Mapping[Reason, Answer]
    exceptions: Mapping[tuple[Operation, Reason], Answer] = field(default_factory=lambda: MappingProxyType({}))
    kick_off: Mapping[Level, tuple[str, ...]]
    one_patient: bool = False
    required_headers: frozenset[RequiredHeader] = frozenset({RequiredHeader.PREFER})
    status_requires: frozenset[RequiredHeader] = frozenset()
    status_accept: frozenset[str] = frozenset()
    parameters: frozenset[str]
    post_only: frozenset[str] = frozenset({"patient"})
    codings: frozenset[str] = frozenset()
    lists: Lists = Lists.COMMA
    separate_export_status: bool = False
    status_path: str = "/$export-status/{job}"
    jobs_path: str | None = None
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
        """Check that every reason has an answer and every path its placeholder.

        Raises:
            ValueError: one is missing.
        """
        missing = [reason.name for reason in Reason if reason not in self.answers]
        if missing:
            raise ValueError(f"dialect {self.name} has no answer for {', '.join(missing)}")
        for path, placeholder in ((self.status_path, "{job}"), (self.file_path, "{file}")):
            if path.count(placeholder) != 1 or not path.startswith("/"):
                raise ValueError(f"dialect {self.name}: {path!r} must begin with a slash and hold {placeholder} once")

    def __repr__(self) -> str:
        """The name alone: the tables fill several pages."""
        return f"<Dialect {self.name}>"

    def answer(self, operation: Operation, reason: Reason) -> Answer:
        """The answer to a refusal for this reason on that operation."""
        return self.exceptions.get((operation, reason)) or self.answers[reason]

    def report_form(self) -> ReportForm:
        """How error files write their issues: with the codes that a kick-off refused for the same reasons would have (KO-102)."""
        return ReportForm(self.text, tuple((reason, self.answer(Operation.KICK_OFF, reason).code) for reason in _REPORTED))
