"""The reasons for which each route can refuse a request, for the answers in the OpenAPI document.

A test derives the same sets from the source, by following the calls of each endpoint to what they raise.
"""

from collections.abc import Iterator, Mapping

from fhir_bulk_middleware.discovery.offer import Offer
from fhir_bulk_middleware.http.routes import KICK_OFF_PATHS, ONE_PATIENT_PATH, Row
from fhir_bulk_middleware.outcomes import Operation, Reason

__all__ = ["reasons"]

_DOOR = frozenset({Reason.TOKEN_MISSING, Reason.TOKEN_INVALID, Reason.REQUESTS_TOO_MANY})
_ALWAYS = frozenset({Reason.URL_TOO_LONG, Reason.HEADER_TOO_LARGE, Reason.BUSY, Reason.FAULT})
_HEADERS = frozenset({Reason.HEADER_MISSING, Reason.HEADER_INVALID, Reason.ACCEPT_UNUSABLE})
_JOB = frozenset({Reason.JOB_UNKNOWN, Reason.JOB_CANCELLED, Reason.JOB_EXPIRED})
_BODY = frozenset({Reason.CONTENT_TYPE_UNSUPPORTED, Reason.BODY_TOO_LARGE, Reason.BODY_MALFORMED, Reason.BODY_TOO_SLOW})
_DELETE = _DOOR | {
    Reason.HOST_INVALID,
    Reason.SCOPE_MISSING,
    Reason.SERVICE_INACTIVE,
    Reason.TYPE_KEPT,
    Reason.HEADER_INVALID,
    Reason.PARAMETER_UNSUPPORTED,
    Reason.PARAMETER_REPEATED,
    Reason.VALUE_MALFORMED,
    Reason.FORMAT_UNSUPPORTED,
    Reason.BODY_MALFORMED,
    Reason.BODY_TOO_SLOW,
    Reason.TOO_MUCH,
}

_OF: Mapping[Operation, frozenset[Reason]] = {
    Operation.KICK_OFF: _DOOR
    | _HEADERS
    | {
        Reason.HOST_INVALID,
        Reason.SCOPE_MISSING,
        Reason.SERVICE_INACTIVE,
        Reason.PARAMETER_UNKNOWN,
        Reason.PARAMETER_UNSUPPORTED,
        Reason.PARAMETER_REPEATED,
        Reason.VALUE_MALFORMED,
        Reason.FORMAT_UNSUPPORTED,
        Reason.TOO_MUCH,
        Reason.PATIENT_UNKNOWN,
        Reason.JOBS_TOO_MANY,
        Reason.IDEMPOTENCY_MISMATCH,
    },
    Operation.STATUS: _DOOR
    | _HEADERS
    | _JOB
    | {Reason.HOST_INVALID, Reason.SCOPE_MISSING, Reason.JOB_FAILED, Reason.POLLED_TOO_OFTEN},
    Operation.JOBS: _DOOR
    | _HEADERS
    | {
        Reason.HOST_INVALID,
        Reason.PARAMETER_UNKNOWN,
        Reason.PARAMETER_REPEATED,
        Reason.VALUE_MALFORMED,
        Reason.TOO_MUCH,
        Reason.POLLED_TOO_OFTEN,
    },
    Operation.CANCEL: _DOOR | _HEADERS | _JOB,
    Operation.FILE: _DOOR
    | _JOB
    | {Reason.SCOPE_MISSING, Reason.FILE_UNKNOWN, Reason.RANGE_UNSATISFIABLE, Reason.PRECONDITION_FAILED},
    Operation.DELETE: _DELETE | {Reason.HEADER_MISSING, Reason.PARAMETER_UNKNOWN},
    Operation.CONDITIONAL_DELETE: _DELETE | {Reason.CRITERIA_MISSING, Reason.JOBS_TOO_MANY, Reason.IDEMPOTENCY_MISMATCH},
    Operation.DISCOVERY: frozenset({Reason.HOST_INVALID}),
    Operation.HEALTH: frozenset(),
}


def reasons(offer: Offer, row: Row) -> frozenset[Reason]:
    """The reasons for which a request on this row can be refused."""
    without_job = _JOB if row.path == offer.dialect.jobs_path else frozenset[Reason]()  # a cancel there has no job id
    return _ALWAYS | (_OF[row.operation] - without_job) | frozenset(_of_row(offer, row))


def _of_row(offer: Offer, row: Row) -> Iterator[Reason]:
    """The reasons that apply to some rows of an operation only."""
    if row.operation is Operation.KICK_OFF and row.method == "POST":
        yield from _BODY
    if row.path in KICK_OFF_PATHS.values() and "{group}" in row.path:
        yield Reason.GROUP_UNKNOWN
    if row.path == ONE_PATIENT_PATH:
        yield Reason.PATIENT_OF_PATH_UNKNOWN
    if row.shared:
        yield Reason.PATH_UNKNOWN  # where no host stands behind the mount
    else:
        yield Reason.METHOD_NOT_ALLOWED  # for other methods on the path, which have no entry of their own
    if row.path == offer.dialect.page_path:
        yield Reason.FILE_UNKNOWN
    if row.operation in {Operation.STATUS, Operation.CANCEL}:
        yield Reason.JOB_ID_MISSING
