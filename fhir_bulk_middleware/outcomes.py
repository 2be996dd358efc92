"""The outcomes of requests: reasons for refusals, and outcomes of deletes.

Services raise `Refused(Reason...)`; a dialect's table maps the reason to a status and an issue code. Deletes return a
`DeleteOutcome`; a delete policy maps it to an answer.
"""

from enum import Enum, auto

__all__ = ["LONGEST_DETAIL", "LONGEST_PART", "DeleteOutcome", "Operation", "Reason", "Refused"]

LONGEST_DETAIL = 1_000
"""Characters of a refusal's detail: answers do not repeat long input of a client (law 38)."""

LONGEST_PART = 200
"""Characters of the name of the part of the request that a refusal is about."""


class Operation(Enum):
    """What a route does. A dialect may have different answers to one reason on different operations."""

    KICK_OFF = auto()
    STATUS = auto()
    JOBS = auto()
    """Lists the caller's own jobs."""
    CANCEL = auto()
    FILE = auto()
    DELETE = auto()
    CONDITIONAL_DELETE = auto()
    DISCOVERY = auto()
    """Discovery documents of the mount."""
    HEALTH = auto()
    """Probes of an orchestrator."""
    NONE = auto()
    """No operation: the path or the method is wrong."""


class Reason(Enum):
    """Why a request is refused. A dialect may give several reasons the same answer, to disclose nothing."""

    # Identity and rights
    TOKEN_MISSING = auto()
    TOKEN_INVALID = auto()
    SCOPE_MISSING = auto()
    """The token is valid, but its scopes do not cover the request."""
    SERVICE_INACTIVE = auto()
    """The host has disabled the export service for this principal (law 29)."""

    # The form of the request
    PATH_UNKNOWN = auto()
    METHOD_NOT_ALLOWED = auto()
    HOST_INVALID = auto()
    ACCEPT_UNUSABLE = auto()
    HEADER_MISSING = auto()
    HEADER_INVALID = auto()
    HEADER_TOO_LARGE = auto()
    URL_TOO_LONG = auto()
    CONTENT_TYPE_UNSUPPORTED = auto()
    BODY_TOO_LARGE = auto()
    BODY_MALFORMED = auto()
    BODY_TOO_SLOW = auto()
    """The body did not arrive in time (`Settings.body_seconds`)."""
    TOO_MUCH = auto()
    """More of something than one request may hold; the detail names the cap (law 38)."""

    # Parameters
    PARAMETER_UNKNOWN = auto()
    """The Bulk Data IG has no such parameter (KO-103)."""
    PARAMETER_UNSUPPORTED = auto()
    """A parameter of the IG, or one of its values, that this server does not support (KO-100)."""
    PARAMETER_REPEATED = auto()
    VALUE_MALFORMED = auto()
    FORMAT_UNSUPPORTED = auto()
    GROUP_UNKNOWN = auto()
    PATIENT_UNKNOWN = auto()
    """A patient that the caller may not see, or who is not a member of the group (PT-04)."""
    PATIENT_OF_PATH_UNKNOWN = auto()
    """The patient in the path of a kick-off is unknown or gone, or the caller may not see it."""

    # Deletes
    CRITERIA_MISSING = auto()
    """A conditional delete without criteria, which would delete all resources of the type."""
    TYPE_KEPT = auto()
    """The storage never deletes resources of this type (RD-06)."""

    # Jobs and files
    JOB_ID_MISSING = auto()
    JOB_UNKNOWN = auto()
    """The caller has no such job: it never existed, or belongs to another owner (law 7)."""
    JOB_CANCELLED = auto()
    JOB_EXPIRED = auto()
    JOB_FAILED = auto()
    """The job ended without a result; repeated polls get the same answer."""
    FILE_UNKNOWN = auto()
    RESOURCE_UNREADABLE = auto()
    """The storage could not give out a resource of an export. Reported in an error file, never as a refusal."""
    RANGE_UNSATISFIABLE = auto()
    PRECONDITION_FAILED = auto()
    JOBS_TOO_MANY = auto()
    POLLED_TOO_OFTEN = auto()
    REQUESTS_TOO_MANY = auto()
    """An owner has too many concurrent requests, or too many kick-offs or refusals in a minute (law 38)."""
    IDEMPOTENCY_MISMATCH = auto()
    """The Idempotency-Key was used for a different request before (law 12)."""

    # Us
    BUSY = auto()
    """A store is temporarily unavailable; a repeated request may succeed."""
    FAULT = auto()
    """An internal error."""


class DeleteOutcome(Enum):
    """The outcome of a delete that was well formed and allowed. A delete policy has an answer to each."""

    DELETED = auto()
    ALREADY_DELETED = auto()
    NEVER_EXISTED = auto()
    VERSION_MISMATCH = auto()
    """The resource is at another version than `If-Match` names; nothing was removed."""
    PROTECTED = auto()
    """The storage keeps it, for instance because others refer to it (RD-07); nothing was removed."""
    NO_MATCH = auto()
    SEVERAL_MATCHES = auto()
    """The criteria match several resources, and one was expected; nothing was removed."""
    ALL_DELETED = auto()
    """A remove-all removed all matches."""
    TOO_MANY_MATCHES = auto()
    """A remove-all has more matches than its cap; nothing was removed."""
    WOULD_DELETE = auto()
    """A dry run completed; nothing was removed."""


class Refused(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """A request was refused.

    Attributes:
        reason: selects the dialect's answer.
        detail: what was wrong and what would be right, for the client; contains nothing about other principals. Cut to 1,000
            characters.
        part: the part of the request that is wrong: a parameter, a header, or a FHIRPath into the body. Cut to 200 characters.
        retry_after: seconds after which the same request may succeed, None if unknown.
        allow: the allowed methods, for `METHOD_NOT_ALLOWED`.
        size: bytes of the representation, for `RANGE_UNSATISFIABLE`.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        part: str | None = None,
        retry_after: int | None = None,
        allow: tuple[str, ...] = (),
        size: int | None = None,
    ) -> None:
        detail = detail[:LONGEST_DETAIL]
        super().__init__(reason.name, detail)
        self.reason = reason
        self.detail = detail
        self.part = part and part[:LONGEST_PART]
        self.retry_after = retry_after
        self.allow = allow
        self.size = size
