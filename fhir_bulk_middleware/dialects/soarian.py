"""Oracle Health Soarian Clinicals: page "Delete bulk data"."""

from dataclasses import replace
from types import MappingProxyType

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Answer, Progress
from fhir_bulk_middleware.dialects.standard import STANDARD
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.instant import Precision
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["SOARIAN"]

_ACCEPTED = "Cancellation of Bulkdata request <{job}> has been accepted.\n\t\t\t\t\tCancellation requested at : {now}"

SOARIAN = replace(
    STANDARD,
    name="soarian",
    kick_off=MappingProxyType({Level.PATIENT: ("GET",), Level.GROUP: ("GET",)}),
    one_patient=False,
    jobs_path=None,
    separate_export_status=False,
    status_path="/bulk-api/request/{job}",
    file_path="/bulk-api/file/{file}",
    status_accept=frozenset({"application/fhir+json", "application/json"}),
    precision=Precision.SECONDS,
    progress=Progress.PERCENT,
    # The vendor's own combination of a failure's code and a success's severity (CD-04).
    cancelled_answer=Answer(202, "processing", _ACCEPTED, severity="information", identified=True),
    text=TextElement.DETAILS,
    request_ids=("X-Request-Id", "opc-request-id"),
    answers=MappingProxyType(
        {
            **STANDARD.answers,
            Reason.SERVICE_INACTIVE: Answer(404, "not-found", "The Population Application is not defined or not active."),
            Reason.JOB_UNKNOWN: Answer(404, "not-found", "The Request ID was not found."),
            Reason.FILE_UNKNOWN: Answer(404, "not-found", "The Request ID was not found."),
            Reason.JOB_CANCELLED: Answer(404, "deleted", "This request was previously canceled or has expired."),
            Reason.JOB_EXPIRED: Answer(404, "deleted", "This request was previously canceled or has expired."),
            Reason.ACCEPT_UNUSABLE: Answer(406, "structure"),
            Reason.FAULT: Answer(500, "exception", "An internal error occurred.", severity="fatal"),
        }
    ),
)
"""Oracle Health Soarian Clinicals, as its page "Delete bulk data" describes it. Only a DELETE cancels, never a GET (CD-01)."""
