"""The lines of error files: an OperationOutcome for each parameter that was set aside and each resource that was left out."""

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.job import Ignored, Job, ReportForm
from fhir_bulk_middleware.fhir.operation_outcome import one_line, operation_outcome
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["ignored_line", "report_form", "unreadable_line"]


def report_form(job: Job) -> ReportForm:
    """The form of the issues in a job's error files.

    Raises:
        ValueError: no mount accepted the job.
    """
    form = job.request.options.reports
    if form is None:
        raise ValueError(f"job {job.id} has no form for its reports")
    return form


def ignored_line(form: ReportForm, ignored: Ignored) -> bytes:
    """A warning that a parameter was set aside (KO-102)."""
    return _line(form, "warning", ignored.reason, one_line(ignored.detail), ignored.part)


def unreadable_line(form: ReportForm, reference: str) -> bytes:
    """An error for a resource that its storage could not give out (ST-15).

    Args:
        form: of the job.
        reference: `Type/id` of the resource.
    """
    return _line(form, "error", Reason.RESOURCE_UNREADABLE, f"{reference} could not be exported.")


def _line(form: ReportForm, severity: str, reason: Reason, text: str, part: str | None = None) -> bytes:
    outcome = operation_outcome(form.element, severity, form.code(reason), text, part=part)
    return compact_json(outcome).encode() + b"\n"
