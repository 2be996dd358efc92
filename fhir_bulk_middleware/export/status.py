"""The answers to polls and cancels of an export: progress, manifest or failure."""

from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job, JobState, Standing
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.export.manifest import ManifestPage, manifest, published
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.progress import pause, progress
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportStatus", "export_progress"]

_LONG_LIST = 500


class ExportStatus:
    """The `View` of export jobs.

    Args:
        dialect: status codes and shapes.
        replies: makes responses.
        addresses: builds URLs.
        settings: files on a page of a manifest, and the pace of polls.
        notes: promises that the storage does not keep, for manifests (law 6).
        clock: the current time.
    """

    def __init__(
        self,
        *,
        dialect: Dialect,
        replies: Replies,
        addresses: Addresses,
        settings: Settings,
        notes: dict[str, bool],
        clock: Clock,
    ) -> None:
        self._dialect = dialect
        self._replies = replies
        self._addresses = addresses
        self._settings = settings
        self._notes = notes
        self._clock = clock

    async def polled(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:  # noqa: ARG002 - who asks makes no difference
        """The answer to a poll, with the requested page of the manifest."""
        job = standing.job
        if job.state is JobState.FAILED:
            response = self._replies.refusal(Operation.STATUS, _failure(job))
        else:
            response = await self._standing(request, standing, number)
        return self._replies.separated(response) if job.request.options.separate_status else response

    def progress(self, job: Job) -> str:
        """See `View.progress`."""
        return export_progress(self._dialect, job)

    async def cancelled(self, job: Job) -> Response:
        """The answer to a cancel that was carried out."""
        answer = self._dialect.cancelled_answer
        if answer is None:
            return self._replies.empty(self._dialect.cancelled, {})
        now = instant.render(job.changed_at, instant.Precision.SECONDS)
        return self._replies.told(answer, answer.text.format(job=job.id, now=now))

    async def cancelled_before(self, job: Job) -> Response | None:  # noqa: ARG002 - the same for every export
        """None: a repeated cancel finds no export any more (DL-05)."""
        return None

    async def _standing(self, request: Request, standing: Standing, number: int) -> Response:
        job = standing.job
        complete = job.state is JobState.COMPLETED
        partial = job.request.options.partial_manifests
        page = None
        if complete or partial:
            size = self._settings.manifest_files if partial else None
            page = ManifestPage.of(published(standing), number, size, complete=complete)
        if page is None and number:
            raise Refused(Reason.FILE_UNKNOWN)
        headers: dict[str, str] = {}
        if complete:
            headers["Expires"] = instant.http_date(job.expires_at)
        else:
            headers["X-Progress"] = self.progress(job)
            headers["Retry-After"] = self._replies.retry_after(pause(job, self._clock(), self._settings))
        status = self._dialect.completed if complete else self._dialect.in_progress
        if page is None:
            return self._replies.empty(status, headers)
        shown = page

        def listed() -> Response:
            return self._replies.json(status, self._manifest(request, job, shown), headers)

        # A client may ask for small files, and so for many: a long manifest is made in a thread (law 38).
        return await anyio.to_thread.run_sync(listed) if len(page.parts) > _LONG_LIST else listed()

    def _manifest(self, request: Request, job: Job, page: ManifestPage) -> dict[str, Any]:
        base = self._addresses.base(request)
        following = self._addresses.page(base, job.id, page.number + 1) if page.more else None
        return manifest(
            self._dialect, job, page, lambda file_id: self._addresses.file(base, file_id), following=following, notes=self._notes
        )


def export_progress(dialect: Dialect, job: Job) -> str:
    """The value of `X-Progress` for an export that is not complete."""
    return progress(dialect, job, queued="Export queued", running=dialect.progress_text)


def _failure(job: Job) -> Refused:
    """The answer to polls of a failed job (ST-10).

    Unlike the answer to a fault in a request, it has a detail: `Failure.detail` is written for the owner.
    """
    if job.failure is None:
        return Refused(Reason.JOB_FAILED)
    reason = Reason.JOB_FAILED if job.failure.reason is Reason.FAULT else job.failure.reason
    return Refused(reason, job.failure.detail)
