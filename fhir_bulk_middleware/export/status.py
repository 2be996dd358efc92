"""The answers to polls and cancels of an export: progress, manifest or failure."""

import logging
from collections.abc import Mapping
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job, JobState, Part, Standing
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.export.manifest import ManifestPage, manifest, published
from fhir_bulk_middleware.export.signed_urls import SignedUrls
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.progress import pause, progress
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportStatus", "export_progress"]

_log = logging.getLogger("fhir_bulk_middleware")

_LONG_LIST = 500
_DISCARDING = 10.0


class ExportStatus:
    """The `View` of export jobs.

    Args:
        dialect: status codes and shapes.
        replies: makes responses.
        addresses: builds URLs.
        settings: files on a page of a manifest, and the pace of polls.
        notes: promises that the storage does not keep, for manifests (law 6).
        clock: the current time.
        outputs: the output store.
        signed_urls: signs the URLs of files; None if clients fetch files from this server.
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
        outputs: OutputStore,
        signed_urls: SignedUrls | None,
    ) -> None:
        self._dialect = dialect
        self._replies = replies
        self._addresses = addresses
        self._settings = settings
        self._notes = notes
        self._clock = clock
        self._outputs = outputs
        self._signed_urls = signed_urls if dialect.manifest.signed_urls else None

    async def polled(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
        """The answer to a poll, with the requested page of the manifest."""
        job = standing.job
        if job.state is JobState.FAILED:
            response = self._replies.refusal(Operation.STATUS, _failure(job))
        else:
            response = await self._standing(request, principal, standing, number)
        return self._replies.separated(response) if job.request.options.separate_status else response

    def progress(self, job: Job) -> str:
        """See `View.progress`."""
        return export_progress(self._dialect, job)

    async def cancelled(self, job: Job) -> Response:
        """The answer to a cancel that was carried out.

        Files whose URLs were signed are discarded first, since nothing but their absence ends such a URL. If that fails, the next
        sweep discards them.
        """
        if self._signed_urls is not None:
            await self._discard(job)
        answer = self._dialect.cancelled_answer
        if answer is None:
            return self._replies.empty(self._dialect.cancelled, {})
        now = instant.render(job.changed_at, instant.Precision.SECONDS)
        return self._replies.told(answer, answer.text.format(job=job.id, now=now))

    async def cancelled_before(self, job: Job) -> Response | None:  # noqa: ARG002 - the same for every export
        """None: a repeated cancel finds no export any more (DL-05)."""
        return None

    async def _discard(self, job: Job) -> None:
        try:
            with anyio.fail_after(_DISCARDING):
                await self._outputs.discard(job.id)
        except (OSError, Refused) as error:  # a TimeoutError is an OSError
            _log.warning("job %s: signed URLs work until its files are swept, or until they end: %s", job.id, error)

    async def _standing(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
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
            headers["X-Progress"] = export_progress(self._dialect, job)
            headers["Retry-After"] = self._replies.retry_after(pause(job, self._clock(), self._settings))
        status = self._dialect.completed if complete else self._dialect.in_progress
        if page is None:
            return self._replies.empty(status, headers)
        shown, signed = page, await self._signed(principal, standing, page)

        def listed() -> Response:
            return self._replies.json(status, self._manifest(request, job, shown, signed), headers)

        # A client may ask for small files, and so for many: a long manifest is made in a thread (law 38).
        return await anyio.to_thread.run_sync(listed) if len(page.parts) > _LONG_LIST else listed()

    async def _signed(self, principal: Principal, standing: Standing, page: ManifestPage) -> Mapping[str, str] | None:
        """By file id, the signed URLs of all files that a page names; None if it names one that is not written yet."""
        if self._signed_urls is None:
            return None
        named = {part.file_id for part in (*page.parts, *page.errors)}
        named |= {part.continued_in for part in page.parts if part.continued_in is not None}
        parts: list[Part] = [part for part in standing.parts if part.file_id in named]
        return await self._signed_urls.of(principal, standing.job, parts) if len(parts) == len(named) else None

    def _manifest(self, request: Request, job: Job, page: ManifestPage, signed: Mapping[str, str] | None) -> dict[str, Any]:
        base = self._addresses.base(request)
        following = self._addresses.page(base, job.id, page.number + 1) if page.more else None

        def address(file_id: str) -> str:
            return self._addresses.file(base, file_id) if signed is None else signed[file_id]

        return manifest(self._dialect, job, page, address, following=following, notes=self._notes, signed=signed is not None)


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
