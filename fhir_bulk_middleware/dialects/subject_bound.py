"""The "Bulk data" page of a vendor that binds every export to the subject of the token that scheduled it."""

from dataclasses import replace
from types import MappingProxyType

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Answer, ManifestShape, Progress
from fhir_bulk_middleware.dialects.standard import STANDARD
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["SUBJECT_BOUND"]

# The same answer for unknown, foreign, deleted and expired jobs, so that it discloses nothing (CD-14).
_UNAVAILABLE = Answer(404, "forbidden", "The queried request is not available.")

SUBJECT_BOUND = replace(
    STANDARD,
    name="subject-bound",
    kick_off=MappingProxyType({Level.GROUP: ("GET",)}),
    one_patient=False,
    jobs_path=None,
    required_headers=frozenset(),
    separate_export_status=False,
    manifest=ManifestShape(deleted=False, signed_urls=False),
    precision=Precision.SECONDS,
    progress=Progress.PHASE,
    retention=7 * 86_400,
    text=TextElement.DETAILS,
    answers=MappingProxyType(
        {
            **STANDARD.answers,
            Reason.JOB_UNKNOWN: _UNAVAILABLE,
            Reason.JOB_CANCELLED: _UNAVAILABLE,
            Reason.JOB_EXPIRED: _UNAVAILABLE,
            Reason.FILE_UNKNOWN: _UNAVAILABLE,
        }
    ),
)
"""A vendor whose exports belong to the subject of the token that scheduled them, as its page describes it.

Except for `Retry-After` in milliseconds, which breaks clients that follow RFC 9110. To opt in (CD-11):
`replace(SUBJECT_BOUND, retry_after=RetryAfter.MILLISECONDS)`."""
