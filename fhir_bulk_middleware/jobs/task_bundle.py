"""A list of jobs as a FHIR searchset Bundle of Task resources. One shape is valid in R4 and R4B; R5 differs in `statusReason`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_bulk_middleware.contract.job import Job, JobKind, JobState
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Precision, render

__all__ = ["TaskBundle"]

_OWN = "urn:fhir-bulk-middleware:"
_STATUS: Mapping[JobState, str] = {
    JobState.QUEUED: "accepted",
    JobState.RUNNING: "in-progress",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
}
"""Codes of FHIR's task-status, for the states of live jobs."""

_CODE: Mapping[JobKind, str] = {JobKind.EXPORT: "Bulk data export", JobKind.REMOVE_ALL: "Removal of all matches"}


@dataclass(frozen=True, slots=True)
class TaskBundle:
    """Renders jobs as Tasks.

    Attributes:
        version: the FHIR version of the resources.
        progress: the progress text of a job that has work left.
        polling_url: the polling location of a job.
    """

    version: FhirVersion
    progress: Callable[[Job], str]
    polling_url: Callable[[Job], str]

    def of(self, jobs: Iterable[Job], *, own: str, following: str | None) -> dict[str, Any]:
        """The Bundle.

        Args:
            jobs: live jobs, in the order of the entries.
            own: the URL of this page.
            following: the URL of the next page; None for the last.
        """
        links = [{"relation": "self", "url": own}]
        if following is not None:
            links.append({"relation": "next", "url": following})
        entries = [{"fullUrl": f"urn:uuid:{job.id}", "resource": self._task(job), "search": {"mode": "match"}} for job in jobs]
        # FHIR has no empty arrays.
        return {"resourceType": "Bundle", "type": "searchset", "link": links, **({"entry": entries} if entries else {})}

    def _task(self, job: Job) -> dict[str, Any]:
        created, changed = (
            render(each, Precision.MILLISECONDS) for each in (job.created_at, max(job.created_at, job.changed_at))
        )
        failed: dict[str, Any] = {}
        if job.failure is not None:
            why = {"text": job.failure.detail or job.failure.reason.name}
            failed = {"statusReason": {"concept": why} if self.version is FhirVersion.R5 else why}
        kind = job.request.kind
        return {
            "resourceType": "Task",
            "id": job.id,
            "identifier": [{"system": f"{_OWN}job", "value": job.id}],
            "status": _STATUS[job.state],
            **failed,
            **({"businessStatus": {"text": self.progress(job)}} if job.state.working else {}),
            "intent": "order",
            "code": {"coding": [{"system": f"{_OWN}job-kind", "code": kind.value}], "text": _CODE[kind]},
            **({"description": job.request.url} if job.request.url else {}),
            "executionPeriod": {"start": created, **({} if job.state.working else {"end": changed})},
            "authoredOn": created,
            "lastModified": changed,
            "output": [{"type": {"text": "Polling location"}, "valueUri": self.polling_url(job)}],
        }
