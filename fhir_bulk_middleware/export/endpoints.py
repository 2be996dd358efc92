"""The endpoints of an export: each parses, calls one method of the service, and renders."""

import re
from functools import lru_cache
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.caps import IDEMPOTENCY_KEY
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job, JobKind, JobState, Standing
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.delete.status import RemovalResults
from fhir_bulk_middleware.dialects.model import Dialect, RequiredHeader
from fhir_bulk_middleware.export.admission import Wish
from fhir_bulk_middleware.export.kick_off import Leniency, Reader
from fhir_bulk_middleware.export.manifest import Page, manifest, progress
from fhir_bulk_middleware.export.service import ExportService
from fhir_bulk_middleware.files.delivery import Delivery
from fhir_bulk_middleware.http import bodies, parameters
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.http.preferences import Preferences
from fhir_bulk_middleware.http.replies import FileStatus, Replies
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportEndpoints", "idempotency_key"]

_ANYTHING = frozenset({"application/*", "*/*"})
_JSON = frozenset({"application/fhir+json", "application/json"}) | _ANYTHING
_PAGE = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_LONG_LIST = 500
_BODIES = frozenset({"application/fhir+json", "application/json"})


class ExportEndpoints:
    """What stands behind the routes of an export.

    Args:
        service: decides.
        dialect: has the shapes.
        replies: renders what is not a file.
        delivery: renders files.
        addresses: builds URLs.
        settings: limits.
        notes: what manifests say of the storage's promises (law 6).
        removals: renders what came of long remove-alls, which are jobs too.
    """

    def __init__(
        self,
        *,
        service: ExportService,
        dialect: Dialect,
        replies: Replies,
        delivery: Delivery,
        addresses: Addresses,
        settings: Settings,
        notes: dict[str, bool],
        removals: RemovalResults,
    ) -> None:
        self._service = service
        self._dialect = dialect
        self._replies = replies
        self._delivery = delivery
        self._addresses = addresses
        self._settings = settings
        self._notes = notes
        self._removals = removals
        self._reading = anyio.Lock()
        """One kick-off is read at a time, so that polls have their turn between two (law 38)."""
        self._status_accept = dialect.status_accept and dialect.status_accept | _ANYTHING

    async def system(self, request: Request, principal: Principal) -> Response:
        """Kick off at system level (KO-01)."""
        return await self._kick_off(request, principal, Level.SYSTEM, None)

    async def patient(self, request: Request, principal: Principal) -> Response:
        """Kick off at Patient level (KO-02)."""
        return await self._kick_off(request, principal, Level.PATIENT, None)

    async def group(self, request: Request, principal: Principal) -> Response:
        """Kick off at Group level (KO-03)."""
        return await self._kick_off(request, principal, Level.GROUP, request.path_params["group"])

    async def status(self, request: Request, principal: Principal) -> Response:
        """Poll (section 2)."""
        self._check_status_headers(request)
        return await self._told(request, principal, await self._service.look(principal, _job_id(request)), 0)

    async def page(self, request: Request, principal: Principal) -> Response:
        """A further page of a manifest; a status request too (SE-03, ST-46, ST-47)."""
        number = request.path_params["page"]
        standing = await self._service.look(principal, _job_id(request))
        if _PAGE.fullmatch(number) is None:
            raise Refused(Reason.FILE_UNKNOWN)
        return await self._told(request, principal, standing, int(number))

    async def _told(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
        """How a job stands, with the page of its manifest that has this number."""
        job = standing.job
        if job.request.kind is JobKind.REMOVE_ALL and not job.state.working:
            return await self._removals.ended(request, principal, standing)
        if job.state is JobState.FAILED:
            response = self._replies.refusal(Operation.STATUS, _failure(job))
        else:
            response = await self._standing(request, standing, number)
        return self._replies.separated(response) if job.request.options.separate_status else response

    async def _standing(self, request: Request, standing: Standing, number: int) -> Response:
        job = standing.job
        complete = job.state is JobState.COMPLETED
        partial = job.request.options.partial_manifests
        page = None
        if complete or partial:
            size = self._settings.manifest_files if partial else None
            page = Page.of(self._service.published(standing), number, size, complete=complete)
        if page is None and number:
            raise Refused(Reason.FILE_UNKNOWN)
        headers: dict[str, str] = {}
        if complete:
            headers["Expires"] = instant.http_date(job.expires_at)
        else:
            headers["X-Progress"] = progress(self._dialect, job)
            headers["Retry-After"] = self._replies.retry_after(self._service.pause(job))
        status = self._dialect.completed if complete else self._dialect.in_progress
        if page is None:
            return self._replies.empty(status, headers)
        shown = page

        def listed() -> Response:
            return self._replies.json(status, self._manifest(request, job, shown), headers)

        # A client may ask for small files, and so for many: a long list is written beside the loop (law 38).
        return await anyio.to_thread.run_sync(listed) if len(page.parts) > _LONG_LIST else listed()

    def _manifest(self, request: Request, job: Job, page: Page) -> dict[str, Any]:
        base = self._addresses.base(request)
        following = self._addresses.page(base, job.id, page.number + 1) if page.more else None
        return manifest(
            self._dialect, job, page, lambda file_id: self._addresses.file(base, file_id), following=following, notes=self._notes
        )

    async def cancel(self, request: Request, principal: Principal) -> Response:
        """End a job (section 3)."""
        self._check_status_headers(request)
        job_id = _job_id(request)
        try:
            job = await self._service.cancel(principal, job_id)
        except Refused as refused:
            before = await self._service.cancelled_before(principal, job_id)
            if refused.reason is Reason.JOB_CANCELLED and before is not None and before.request.kind is JobKind.REMOVE_ALL:
                return await self._removals.cancelled_before(before)
            raise
        if job.request.kind is JobKind.REMOVE_ALL:
            return await self._removals.cancelled(job)
        answer = self._dialect.cancelled_answer
        if answer is None:
            return self._replies.empty(self._dialect.cancelled, {})
        now = instant.render(job.changed_at, instant.Precision.SECONDS)
        return self._replies.told(answer, answer.text.format(job=job.id, now=now))

    async def file(self, request: Request, principal: Principal) -> Response:
        """Fetch a file (section 4)."""
        part = await self._service.file(principal, request.path_params["file"])
        response = await self._delivery.response(request, part)
        if request.method == "GET" and response.status_code != FileStatus.UNCHANGED:
            try:
                await self._service.served(principal, part, int(response.headers["Content-Length"]))
            except Refused:
                await self._delivery.abandon(response)
                raise
        return response

    async def _kick_off(self, request: Request, principal: Principal, level: Level, group_id: str | None) -> Response:
        self._service.pace(principal)
        base = self._addresses.base(request)
        host = self._settings.fhir_base_url or base
        own = tuple(dict.fromkeys((base, host)))
        preferences = self._kick_off_preferences(request)
        leniency = Leniency(lenient=preferences.handling == "lenient", report=self._replies.report)
        sent = await self._sent(request)
        separate = preferences.separate_export_status and self._dialect.separate_export_status
        async with self._reading:
            asked = Reader(self._dialect.parameters, self._dialect.lists, own).read(sent, leniency)
        wish = Wish(
            level=level,
            group_id=group_id,
            asked=asked,
            leniency=leniency,
            url=self._addresses.kick_off(request),
            base_url=host,
            base_urls=own,
            separate_status=separate,
            unreadable=self._replies.unreadable(),
            idempotency_key=idempotency_key(request),
        )
        job = await self._service.begin(principal, wish)
        headers = {"Content-Location": self._addresses.status(base, job.id)}
        if separate:
            headers["Preference-Applied"] = "respond-async, separate-export-status"
        return self._replies.empty(self._dialect.accepted, headers)

    async def _sent(self, request: Request) -> list[Parameter]:
        """The parameters, from the one place where they may stand."""
        sent = parameters.from_query(request.scope["query_string"])
        if request.method != "POST":
            for parameter in sent:
                if parameter.name in self._dialect.post_only & self._dialect.parameters:
                    detail = f"{parameter.name} belongs in the body of a POST, not in a URL."
                    raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameter.part)
            return sent
        body = await _body(request, self._settings.body_bytes, self._settings.body_seconds)
        if body and sent:
            # Two places could contradict each other; nobody needs both (KO-09).
            detail = "Give the parameters in the query string or in the body, not in both."
            raise Refused(Reason.BODY_MALFORMED, detail, part="http.query")
        async with self._reading:
            return sent or parameters.from_body(body)

    def _kick_off_preferences(self, request: Request) -> Preferences:
        preferences = self._preferences(request)
        _check_accept(request, self._dialect.required_headers, _JSON)
        if RequiredHeader.PREFER in self._dialect.required_headers and not preferences.respond_async:
            raise Refused(Reason.HEADER_MISSING, "Send Prefer: respond-async.", part="http.Prefer")
        return preferences

    def _check_status_headers(self, request: Request) -> None:
        required = self._dialect.status_requires
        _check_accept(request, required, self._status_accept)
        if RequiredHeader.PREFER in required and not self._preferences(request).respond_async:
            raise Refused(Reason.HEADER_MISSING, "Send Prefer: respond-async.", part="http.Prefer")

    def _preferences(self, request: Request) -> Preferences:
        try:
            return Preferences.parse(request.headers.getlist("prefer"))
        except ValueError as error:
            raise Refused(Reason.HEADER_INVALID, f"Prefer: {error}.", part="http.Prefer") from None


def _check_accept(request: Request, required: frozenset[RequiredHeader], acceptable: frozenset[str]) -> None:
    """Refuse a request that accepts none of these media types; an empty set takes anything."""
    accept = tuple(value for name, value in request.scope["headers"] if name == b"accept")
    if RequiredHeader.ACCEPT in required and not accept:
        raise Refused(Reason.HEADER_MISSING, "Send Accept: application/fhir+json.", part="http.Accept")
    if acceptable and accept and acceptable.isdisjoint(_accepted(accept)):
        raise Refused(Reason.ACCEPT_UNUSABLE, "Answers here are application/fhir+json; accept that.", part="http.Accept")


@lru_cache(maxsize=64)
def _accepted(lines: tuple[bytes, ...]) -> frozenset[str]:
    """The media types of `Accept` headers; clients have few, and send them with every poll."""
    return frozenset(_media_type(item) for line in lines for item in line.decode("latin-1").split(","))


def _job_id(request: Request) -> str:
    """The job id of a poll or a cancel: in the path, or in the query string (AS-07)."""
    if job_id := request.path_params.get("job"):
        return str(job_id)
    raise Refused(Reason.JOB_ID_MISSING, "Use the URL of the Content-Location header, unchanged.")


def idempotency_key(request: Request) -> str | None:
    """The client's key, a string of any form (law 12)."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1 or not 0 < len(values[0]) <= IDEMPOTENCY_KEY:
        detail = f"Idempotency-Key must be one string of at most {IDEMPOTENCY_KEY} characters."
        raise Refused(Reason.HEADER_INVALID, detail, part="http.Idempotency-Key")
    return values[0]


def _failure(job: Job) -> Refused:
    """A failed job's answer, for as long as it is kept (ST-10).

    A fault of the moment is told in the same few words whatever it was; that of a job has a text for its owner, so it is told.
    """
    if job.failure is None:
        return Refused(Reason.JOB_FAILED)
    reason = Reason.JOB_FAILED if job.failure.reason is Reason.FAULT else job.failure.reason
    return Refused(reason, job.failure.detail)


def _media_type(item: str) -> str:
    return item.partition(";")[0].strip().lower()


async def _body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a kick-off, no longer than the limit."""
    body = await bodies.whole(request, limit, seconds)
    if body and _media_type(request.headers.get("content-type", "")) not in _BODIES:
        raise Refused(
            Reason.CONTENT_TYPE_UNSUPPORTED,
            "Send a Parameters resource as Content-Type: application/fhir+json.",
            part="http.Content-Type",
        )
    return body
