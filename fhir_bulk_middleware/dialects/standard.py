"""HL7's Bulk Data Access IG: 3.0.0 (STU3) is the default, and every other dialect starts from it."""

from dataclasses import replace
from types import MappingProxyType

from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Answer, Dialect, Lists, ManifestShape, RequiredHeader
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["STANDARD", "STU2", "STU3", "STU4"]

_STU2_PARAMETERS = frozenset({"_outputFormat", "_since", "_type", "_elements", "patient", "includeAssociatedData", "_typeFilter"})
_STU3_PARAMETERS = _STU2_PARAMETERS | {"_until", "organizeOutputBy", "allowPartialManifests"}

# Issue codes as KO-104 recommends. `transient` and its child codes tell clients to retry (ST-13, ST-14), so final failures have
# `processing`, and only temporary ones `throttled` or `timeout`.
STANDARD = Dialect(
    name="standard",
    kick_off=MappingProxyType(
        {Level.SYSTEM: ("GET", "POST"), Level.PATIENT: ("GET", "POST"), Level.GROUP: ("GET", "POST")},
    ),
    one_patient=True,
    jobs_path="/$export-status",
    parameters=_STU3_PARAMETERS,
    separate_export_status=True,
    answers=MappingProxyType(
        {
            Reason.TOKEN_MISSING: Answer(401, "login", "A bearer token is required."),
            Reason.TOKEN_INVALID: Answer(401, "login", "The bearer token is not valid here, or no longer."),
            Reason.SCOPE_MISSING: Answer(403, "forbidden"),
            Reason.SERVICE_INACTIVE: Answer(403, "forbidden", "The export service is not active for this client."),
            Reason.PATH_UNKNOWN: Answer(404, "not-found", "There is nothing at this address."),
            Reason.METHOD_NOT_ALLOWED: Answer(405, "not-supported"),
            Reason.HOST_INVALID: Answer(400, "invalid"),
            Reason.ACCEPT_UNUSABLE: Answer(406, "not-supported"),
            Reason.HEADER_MISSING: Answer(400, "required"),
            Reason.HEADER_INVALID: Answer(400, "invalid"),
            Reason.HEADER_TOO_LARGE: Answer(431, "too-long"),
            Reason.URL_TOO_LONG: Answer(414, "too-long"),
            Reason.CONTENT_TYPE_UNSUPPORTED: Answer(415, "not-supported"),
            Reason.BODY_TOO_LARGE: Answer(413, "too-long"),
            Reason.BODY_MALFORMED: Answer(400, "structure"),
            Reason.BODY_TOO_SLOW: Answer(408, "timeout"),
            Reason.TOO_MUCH: Answer(400, "too-costly"),
            Reason.PARAMETER_UNKNOWN: Answer(400, "not-supported"),
            Reason.PARAMETER_UNSUPPORTED: Answer(400, "not-supported"),
            Reason.PARAMETER_REPEATED: Answer(400, "invalid"),
            Reason.VALUE_MALFORMED: Answer(400, "value"),
            Reason.FORMAT_UNSUPPORTED: Answer(400, "not-supported"),
            Reason.PATIENT_UNKNOWN: Answer(400, "not-found"),
            Reason.GROUP_UNKNOWN: Answer(404, "not-found", "There is no such group."),
            Reason.PATIENT_OF_PATH_UNKNOWN: Answer(404, "not-found", "There is no such patient."),
            Reason.CRITERIA_MISSING: Answer(400, "required"),
            Reason.TYPE_KEPT: Answer(405, "not-supported"),
            Reason.JOB_ID_MISSING: Answer(400, "required"),
            Reason.JOB_UNKNOWN: Answer(404, "not-found", "There is no such export."),
            Reason.JOB_CANCELLED: Answer(404, "deleted", "This job was cancelled or deleted."),
            Reason.JOB_EXPIRED: Answer(404, "deleted", "This export has expired."),
            Reason.JOB_FAILED: Answer(500, "processing"),
            Reason.FILE_UNKNOWN: Answer(404, "not-found", "There is no such export."),
            Reason.RESOURCE_UNREADABLE: Answer(500, "processing"),
            Reason.RANGE_UNSATISFIABLE: Answer(416, "invalid"),
            Reason.PRECONDITION_FAILED: Answer(412, "conflict"),
            Reason.IDEMPOTENCY_MISMATCH: Answer(422, "conflict"),
            Reason.POLLED_TOO_OFTEN: Answer(429, "throttled"),
            Reason.JOBS_TOO_MANY: Answer(429, "throttled"),
            Reason.REQUESTS_TOO_MANY: Answer(429, "throttled"),
            Reason.BUSY: Answer(503, "timeout"),
            Reason.FAULT: Answer(500, "processing", "Something went wrong on the server; its log has the cause."),
        },
    ),
)
"""Bulk Data Access 3.0.0; the default."""

STU3 = STANDARD
"""Bulk Data Access 3.0.0: another name of `STANDARD`."""

STU2 = replace(
    STANDARD,
    name="stu2",
    # The public test kits of this version expect a kick-off without either header to be refused.
    required_headers=frozenset({RequiredHeader.ACCEPT, RequiredHeader.PREFER}),
    parameters=_STU2_PARAMETERS,
    separate_export_status=False,
)
"""Bulk Data Access 2.0.0."""

STU4 = replace(
    STANDARD,
    name="stu4",
    kick_off=MappingProxyType(dict.fromkeys(Level, ("POST",))),
    parameters=_STU3_PARAMETERS | {"_minimumFileSize", "_maximumFileSize"},
    codings=frozenset({"includeAssociatedData"}),
    lists=Lists.REPETITION,
    manifest=ManifestShape(
        request=False,
        errors="outcome",
        errors_on_every_page=False,
        extension_array=True,
        typed_items=False,
        file_size=True,
        manifest_type=True,
    ),
)
"""Bulk Data Access 4.0.0-ballot, as of 2026-07; a ballot may still change."""
