"""The HTTP endpoints of jobs of any kind: poll, list, manifest page, cancel, file."""

import re
from collections.abc import Iterable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.files.delivery import Delivery
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.disconnecting import disconnected
from fhir_bulk_middleware.http.negotiation import Negotiation, wait
from fhir_bulk_middleware.http.replies import FileStatus, Replies
from fhir_bulk_middleware.http.routes import Row
from fhir_bulk_middleware.jobs.list_request import ListRequest
from fhir_bulk_middleware.jobs.service import JobService
from fhir_bulk_middleware.jobs.task_bundle import TaskBundle
from fhir_bulk_middleware.jobs.view import Kind
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused

__all__ = ["JobEndpoints"]

_PAGE = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


class JobEndpoints:
    """The handlers of the job routes.

    Args:
        service: decides.
        kinds: render each kind of job.
        dialect: the paths and the rules for headers.
        delivery: makes the responses with files.
        replies: makes the other responses.
        addresses: builds URLs.
        version: FHIR version of the Tasks in the list of jobs.
    """

    def __init__(
        self,
        *,
        service: JobService,
        kinds: Iterable[Kind],
        dialect: Dialect,
        delivery: Delivery,
        replies: Replies,
        addresses: Addresses,
        version: FhirVersion,
    ) -> None:
        self._service = service
        self._views = {kind.name: kind.view for kind in kinds}
        self._dialect = dialect
        self._delivery = delivery
        self._replies = replies
        self._addresses = addresses
        self._version = version
        self._negotiation = Negotiation(dialect)

    def rows(self) -> tuple[Row, ...]:
        """The routes of jobs in this dialect."""
        dialect = self._dialect
        pages = [Row("GET", dialect.page_path, Operation.STATUS, self.page)]
        listed = dialect.jobs_path
        return (
            # A DELETE on the path of the list is a cancel without an id (law 14).
            *(
                [Row("GET", listed, Operation.JOBS, self.listed), Row("DELETE", listed, Operation.CANCEL, self.cancel)]
                if listed is not None
                else []
            ),
            Row("GET", dialect.status_path, Operation.STATUS, self.status),
            *(pages if "allowPartialManifests" in dialect.parameters else ()),
            Row("DELETE", dialect.status_path, Operation.CANCEL, self.cancel),
            *(Row(method, dialect.file_path, Operation.FILE, self.file) for method in dialect.file_methods),
        )

    async def status(self, request: Request, principal: Principal) -> Response:
        """Answer a poll (section 2 of the requirements), perhaps not at once."""
        self._negotiation.check_status(request)
        polled = await self._service.poll(principal, _job_id(request), wait(request), partial(disconnected, request))
        response = await self._views[polled.standing.job.request.kind].polled(request, principal, polled.standing, 0)
        if polled.waited is not None:
            response.headers["Preference-Applied"] = f"wait={polled.waited}"
        return response

    async def listed(self, request: Request, principal: Principal) -> Response:
        """Answer with a page of the caller's own jobs, as a Bundle of Tasks."""
        self._negotiation.check_status(request)
        asked = ListRequest.read(request.scope["query_string"])
        base = self._addresses.base(request)
        found = await self._service.listed(principal, asked.after, asked.count)
        tasks = TaskBundle(
            version=self._version,
            progress=lambda job: self._views[job.request.kind].progress(job),
            polling_url=lambda job: self._addresses.status(base, job.id),
        )
        following = None if found.more is None else self._addresses.jobs(base, asked.going_on(found.more).query)
        return self._replies.document(
            tasks.of(found.jobs, own=self._addresses.jobs(base, asked.query), following=following), "application/fhir+json"
        )

    async def page(self, request: Request, principal: Principal) -> Response:
        """Answer a request for a further page of a manifest, which is a status request too (SE-03, ST-46, ST-47)."""
        number = request.path_params["page"]
        standing = await self._service.look(principal, _job_id(request))
        if _PAGE.fullmatch(number) is None:
            raise Refused(Reason.FILE_UNKNOWN)
        return await self._views[standing.job.request.kind].polled(request, principal, standing, int(number))

    async def cancel(self, request: Request, principal: Principal) -> Response:
        """Cancel a job (section 3)."""
        self._negotiation.check_status(request)
        job_id = _job_id(request)
        try:
            job = await self._service.cancel(principal, job_id)
        except Refused as refused:
            before = await self._service.cancelled_before(principal, job_id)
            if refused.reason is Reason.JOB_CANCELLED and before is not None:
                response = await self._views[before.request.kind].cancelled_before(before)
                if response is not None:
                    return response
            raise
        return await self._views[job.request.kind].cancelled(job)

    async def file(self, request: Request, principal: Principal) -> Response:
        """Serve a file (section 4)."""
        part = await self._service.file(principal, request.path_params["file"])
        response = await self._delivery.response(request, part)
        if request.method == "GET" and response.status_code != FileStatus.UNCHANGED:
            try:
                await self._service.served(principal, part, int(response.headers["Content-Length"]))
            except Refused:
                await self._delivery.abandon(response)
                raise
        return response


def _job_id(request: Request) -> str:
    """The job id of a poll or a cancel: in the path, or in the query string (AS-07)."""
    if job_id := request.path_params.get("job"):
        return str(job_id)
    raise Refused(Reason.JOB_ID_MISSING, "Use the URL of the Content-Location header, unchanged.")
