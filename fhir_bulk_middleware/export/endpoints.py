"""The endpoints of an export: each parses, calls one method of the service, and renders."""

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.addresses import Addresses
from fhir_bulk_middleware.dialects.model import Dialect, RequiredHeader
from fhir_bulk_middleware.export import parameters
from fhir_bulk_middleware.export.delivery import Delivery
from fhir_bulk_middleware.export.job import JobState
from fhir_bulk_middleware.export.manifest import manifest, progress
from fhir_bulk_middleware.export.preferences import Preferences
from fhir_bulk_middleware.export.query import Level
from fhir_bulk_middleware.export.service import ExportService
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.principal import Principal
from fhir_bulk_middleware.replies import Replies
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportEndpoints"]

_JSON = frozenset({"application/fhir+json", "application/json", "application/*", "*/*"})
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
    ) -> None:
        self._service = service
        self._dialect = dialect
        self._replies = replies
        self._delivery = delivery
        self._addresses = addresses
        self._settings = settings
        self._notes = notes

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
        job = await self._service.look(principal, _job_id(request))
        if job.state is not JobState.COMPLETED:
            headers = {
                "X-Progress": progress(self._dialect, job),
                "Retry-After": self._replies.retry_after(self._service.pause(job)),
            }
            return self._replies.empty(self._dialect.in_progress, headers)
        base = self._addresses.base(request)
        parts = await self._service.parts(job)
        document = manifest(self._dialect, job, parts, lambda file_id: self._addresses.file(base, file_id), self._notes)
        return self._replies.json(
            self._dialect.completed, document, {"Expires": instant.http_date(self._service.expires_at(job))}
        )

    async def cancel(self, request: Request, principal: Principal) -> Response:
        """End a job (section 3)."""
        await self._service.cancel(principal, _job_id(request))
        return self._replies.empty(self._dialect.cancelled, {})

    async def file(self, request: Request, principal: Principal) -> Response:
        """Fetch a file (section 4)."""
        part = await self._service.file(principal, request.path_params["file"])
        return await self._delivery.response(request, part)

    async def _kick_off(self, request: Request, principal: Principal, level: Level, group_id: str | None) -> Response:
        base = self._addresses.base(request)
        self._check_headers(request)
        sent = parameters.from_query(request.scope["query_string"])
        if request.method == "POST" and (body := await _body(request, self._settings.body_bytes)):
            if sent:
                # Two places could contradict each other; nobody needs both (KO-09).
                raise Refused(
                    Reason.BODY_MALFORMED,
                    "Give the parameters in the query string or in the body, not in both.",
                    part="http.query",
                )
            sent = parameters.from_body(body)
        url = self._addresses.kick_off(request)
        job = await self._service.begin(principal, level, group_id, parameters.asked(sent), url)
        return self._replies.empty(self._dialect.accepted, {"Content-Location": self._addresses.status(base, job.id)})

    def _check_headers(self, request: Request) -> None:
        required = self._dialect.required_headers
        accept = request.headers.getlist("accept")
        if RequiredHeader.ACCEPT in required and not accept:
            raise Refused(Reason.HEADER_MISSING, "Send Accept: application/fhir+json.", part="http.Accept")
        if accept and not any(_media_type(item) in _JSON for line in accept for item in line.split(",")):
            raise Refused(Reason.ACCEPT_UNUSABLE, "Answers here are application/fhir+json; accept that.", part="http.Accept")
        try:
            preferences = Preferences.parse(request.headers.getlist("prefer"))
        except ValueError as error:
            raise Refused(Reason.HEADER_INVALID, f"Prefer: {error}.", part="http.Prefer") from None
        if RequiredHeader.PREFER in required and not preferences.respond_async:
            raise Refused(Reason.HEADER_MISSING, "Send Prefer: respond-async.", part="http.Prefer")


def _job_id(request: Request) -> str:
    """The job id of a poll or a cancel: in the path, or in the query string (AS-07)."""
    if "job" in request.path_params:
        return str(request.path_params["job"])
    raise Refused(Reason.JOB_ID_MISSING, "Use the URL of the Content-Location header, unchanged.")


def _media_type(item: str) -> str:
    return item.partition(";")[0].strip().lower()


async def _body(request: Request, limit: int) -> bytes:
    """The body of a kick-off, no longer than the limit."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise Refused(Reason.BODY_TOO_LARGE, f"A kick-off may have {limit} bytes at most.")
        chunks.append(chunk)
    if size and _media_type(request.headers.get("content-type", "")) not in _BODIES:
        raise Refused(
            Reason.CONTENT_TYPE_UNSUPPORTED,
            "Send a Parameters resource as Content-Type: application/fhir+json.",
            part="http.Content-Type",
        )
    return b"".join(chunks)
