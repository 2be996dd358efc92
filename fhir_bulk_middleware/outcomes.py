"""What can come of a request, in the domain's own words.

Services raise `Refused(Reason...)`; what a client is told, in which status and with which issue code, is a dialect's table. What
comes of a delete is a `DeleteOutcome`; how it is told is the table of a delete policy.
"""

from enum import Enum, auto

__all__ = ["LONGEST_DETAIL", "LONGEST_PART", "DeleteOutcome", "Operation", "Reason", "Refused"]

LONGEST_DETAIL = 1_000
"""Characters of what a refusal says: what a client sent is never told back to it at length (law 38)."""

LONGEST_PART = 200
"""Characters of the name of the part of the request that a refusal is about."""


class Operation(Enum):
    """What a route does. A dialect may give one reason another answer on another operation."""

    KICK_OFF = auto()
    STATUS = auto()
    CANCEL = auto()
    FILE = auto()
    DELETE = auto()
    CONDITIONAL_DELETE = auto()
    DISCOVERY = auto()
    """What the mount says about itself."""
    NONE = auto()
    """No operation was reached: the path or the method is wrong."""


class Reason(Enum):
    """Why a request is refused. One word for one cause; the caller may not learn which of some of them it was."""

    # Identity and rights
    TOKEN_MISSING = auto()
    TOKEN_INVALID = auto()
    SCOPE_MISSING = auto()
    """The token is good, but its scopes do not cover what is asked."""
    SERVICE_INACTIVE = auto()
    """The host has switched the export service off for this principal (law 29)."""

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
    """The body did not arrive in the time that it has (`Settings.body_seconds`)."""
    TOO_MUCH = auto()
    """More of something than one request may hold; the detail names the cap (law 38)."""

    # Parameters
    PARAMETER_UNKNOWN = auto()
    """The Bulk Data IG has no such parameter (KO-103)."""
    PARAMETER_UNSUPPORTED = auto()
    """A parameter of the IG, or a value of it, that this server does not support (KO-100)."""
    PARAMETER_REPEATED = auto()
    VALUE_MALFORMED = auto()
    FORMAT_UNSUPPORTED = auto()
    GROUP_UNKNOWN = auto()
    PATIENT_UNKNOWN = auto()
    """A patient that this caller may not see, or that is no member of the group (PT-04)."""

    # Deletes
    CRITERIA_MISSING = auto()
    """A conditional delete without criteria: it would empty the type."""
    TYPE_KEPT = auto()
    """Resources of this type are never deleted here (RD-06)."""

    # Jobs and files
    JOB_ID_MISSING = auto()
    JOB_UNKNOWN = auto()
    """No such job for this caller: it never was, or it is somebody else's (law 7)."""
    JOB_CANCELLED = auto()
    JOB_EXPIRED = auto()
    JOB_FAILED = auto()
    """The job ended without a result; asking again gives the same answer."""
    FILE_UNKNOWN = auto()
    RESOURCE_UNREADABLE = auto()
    """A resource of an export that its storage could not give out; reported in the export, never told as a refusal."""
    RANGE_UNSATISFIABLE = auto()
    PRECONDITION_FAILED = auto()
    JOBS_TOO_MANY = auto()
    POLLED_TOO_OFTEN = auto()
    REQUESTS_TOO_MANY = auto()
    """One owner has too many requests at once, or too many kick-offs or refusals in a minute (law 38)."""
    IDEMPOTENCY_MISMATCH = auto()
    """Another request came under the same Idempotency-Key (law 12)."""

    # Us
    BUSY = auto()
    """A store could not answer just now; the same request may succeed a moment later."""
    FAULT = auto()
    """Something broke that the client cannot mend."""


class DeleteOutcome(Enum):
    """What came of a delete that was understood and allowed; a policy has one cell for each."""

    DELETED = auto()
    ALREADY_DELETED = auto()
    NEVER_EXISTED = auto()
    VERSION_MISMATCH = auto()
    """The resource is not at the version that `If-Match` names; nothing was removed."""
    PROTECTED = auto()
    """The storage keeps it, for instance because others refer to it (RD-07); nothing was removed."""
    NO_MATCH = auto()
    SEVERAL_MATCHES = auto()
    """The criteria were not selective enough; nothing was removed."""
    ALL_DELETED = auto()
    """All matches of a remove-all are gone."""
    TOO_MANY_MATCHES = auto()
    """A remove-all met more than its cap; nothing was removed."""
    WOULD_DELETE = auto()
    """A dry run came to the end; nothing was removed."""


class Refused(Exception):  # noqa: N818 - a refusal is an outcome, not an error of the program
    """A request that is not carried out.

    Attributes:
        reason: why, in the domain's words.
        detail: what was wrong and what would be right, for the client; never anything of another principal. Cut to 1,000
            characters.
        part: the part of the request that it is about: a parameter, a header or a FHIRPath into the body. Cut to 200 characters.
        retry_after: seconds after which the same request may succeed, where that is known.
        allow: the methods that the path does answer, for `METHOD_NOT_ALLOWED`.
        size: of the representation, for `RANGE_UNSATISFIABLE`.
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
