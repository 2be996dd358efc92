"""Health Connect Australia, Provider Directory IG 0.3.0-preview: pages "Batch Request Status" and "Batch Request Delete"."""

from dataclasses import replace
from types import MappingProxyType

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Answer, ManifestShape
from fhir_bulk_middleware.dialects.standard import STANDARD
from fhir_bulk_middleware.fhir.operation_outcome import TextElement
from fhir_bulk_middleware.outcomes import Operation, Reason

__all__ = ["HEALTH_CONNECT_AU"]

HEALTH_CONNECT_AU = replace(
    STANDARD,
    name="health-connect-au",
    kick_off=MappingProxyType({Level.SYSTEM: ("GET", "POST")}),
    one_patient=False,
    jobs_path=None,
    required_headers=frozenset(),
    separate_export_status=False,
    status_path="/$export-poll-status?_jobId={job}",
    file_path="/Binary/{file}",
    file_methods=("GET", "POST"),  # the IG's page on results fetches them by POST
    manifest=ManifestShape(
        empty_message="Export complete, but no data to generate report for job instance: {job}",
    ),
    zone=None,
    progress_text="Search in progress - found {done:,} of {estimate:,} resources",
    text=TextElement.DIAGNOSTICS,
    answers=MappingProxyType(
        {
            **STANDARD.answers,
            Reason.JOB_CANCELLED: Answer(404, "not-found", "This job was cancelled or deleted."),
            Reason.JOB_EXPIRED: Answer(404, "not-found", "This export has expired."),
        }
    ),
    exceptions=MappingProxyType(
        {
            # For a DELETE only; a poll of an unknown id is 404, as in every dialect (CD-07, law 11).
            (Operation.CANCEL, Reason.JOB_UNKNOWN): Answer(
                400, "invalid", "Endpoint artefact not found for the provided job ID."
            ),
        }
    ),
)
"""Health Connect Australia, as its pages "Batch Request Status" and "Batch Request Delete" describe it (CD-07 to CD-09)."""
