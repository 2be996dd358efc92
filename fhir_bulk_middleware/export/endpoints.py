"""The kick-off endpoints: parse the request, call the service, render the answer."""

from collections.abc import Iterable

import anyio
from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.export.kick_off import KickOff
from fhir_bulk_middleware.export.leniency import Leniency
from fhir_bulk_middleware.export.parameter_reading import ParametersReader
from fhir_bulk_middleware.export.service import ExportService
from fhir_bulk_middleware.http import bodies, parameters
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.idempotency import idempotency_key
from fhir_bulk_middleware.http.negotiation import Negotiation, media_type
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import KICK_OFF_PATHS, ONE_PATIENT_PATH, Row
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["ExportEndpoints"]

_BODIES = frozenset({"application/fhir+json", "application/json"})


class ExportEndpoints:
    """The endpoints that begin exports.

    Args:
        service: accepts or refuses exports.
        dialect: which levels, methods and parameters are offered.
        replies: makes responses.
        addresses: builds URLs.
        settings: size and time limits of bodies.
    """

    def __init__(
        self, *, service: ExportService, dialect: Dialect, replies: Replies, addresses: Addresses, settings: Settings
    ) -> None:
        self._service = service
        self._dialect = dialect
        self._replies = replies
        self._addresses = addresses
        self._settings = settings
        self._negotiation = Negotiation(dialect)
        self._reading = anyio.Lock()
        """Held while parameters are parsed: one kick-off at a time, so that polls run between two (law 38)."""

    def rows(self, levels: Iterable[Level]) -> tuple[Row, ...]:
        """The kick-off rows of the route table.

        Args:
            levels: the levels that the adapter supports.
        """
        kick_offs = {Level.SYSTEM: self.system, Level.PATIENT: self.patient, Level.GROUP: self.group}
        paths = [(level, KICK_OFF_PATHS[level], kick_offs[level]) for level in levels]
        if self._dialect.one_patient:
            paths.append((Level.PATIENT, ONE_PATIENT_PATH, self.one_patient))
        return tuple(
            Row(method, path, Operation.KICK_OFF, kick_off)
            for level, path, kick_off in paths
            for method in self._dialect.kick_off.get(level, ())
        )

    async def system(self, request: Request, principal: Principal) -> Response:
        """Kick off at system level (KO-01)."""
        return await self._kick_off(request, principal, Level.SYSTEM, None)

    async def patient(self, request: Request, principal: Principal) -> Response:
        """Kick off at Patient level (KO-02)."""
        return await self._kick_off(request, principal, Level.PATIENT, None)

    async def one_patient(self, request: Request, principal: Principal) -> Response:
        """Kick off at Patient level with exactly the patient of the path."""
        return await self._kick_off(request, principal, Level.PATIENT, None, request.path_params["patient"])

    async def group(self, request: Request, principal: Principal) -> Response:
        """Kick off at Group level (KO-03)."""
        return await self._kick_off(request, principal, Level.GROUP, request.path_params["group"])

    async def _kick_off(
        self, request: Request, principal: Principal, level: Level, group_id: str | None, patient_id: str | None = None
    ) -> Response:
        self._service.pace(principal)
        base = self._addresses.base(request)
        host = self._settings.fhir_base_url or base
        own = tuple(dict.fromkeys((base, host)))
        preferences = self._negotiation.kick_off(request)
        leniency = Leniency(lenient=preferences.handling == "lenient")
        sent = await self._sent(request)
        separate = preferences.separate_export_status and self._dialect.separate_export_status
        async with self._reading:
            parameters = ParametersReader(self._dialect.parameters, self._dialect.lists, own).read(sent, leniency)
        kick_off = KickOff(
            level=level,
            group_id=group_id,
            parameters=parameters,
            leniency=leniency,
            url=self._addresses.kick_off(request),
            base_url=host,
            base_urls=own,
            separate_status=separate,
            idempotency_key=idempotency_key(request),
            patient_id=patient_id,
        )
        job = await self._service.begin(principal, kick_off)
        headers = {"Content-Location": self._addresses.status(base, job.id)}
        if separate:
            headers["Preference-Applied"] = "respond-async, separate-export-status"
        return self._replies.empty(self._dialect.accepted, headers)

    async def _sent(self, request: Request) -> list[Parameter]:
        """The parameters, from the query string or from the body."""
        sent = parameters.from_query(request.scope["query_string"])
        if request.method != "POST":
            for parameter in sent:
                if parameter.name in self._dialect.post_only & self._dialect.parameters:
                    detail = f"{parameter.name} belongs in the body of a POST, not in a URL."
                    raise Refused(Reason.PARAMETER_UNSUPPORTED, detail, part=parameter.part)
            return sent
        body = await _body(request, self._settings.body_bytes, self._settings.body_seconds)
        if body and sent:
            # The two could contradict each other (KO-09).
            detail = "Give the parameters in the query string or in the body, not in both."
            raise Refused(Reason.BODY_MALFORMED, detail, part="http.query")
        async with self._reading:
            return sent or parameters.from_body(body)


async def _body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a kick-off. Refuses one above the limit, or of a media type that is not JSON."""
    body = await bodies.whole(request, limit, seconds)
    if body and media_type(request.headers.get("content-type", "")) not in _BODIES:
        raise Refused(
            Reason.CONTENT_TYPE_UNSUPPORTED,
            "Send a Parameters resource as Content-Type: application/fhir+json.",
            part="http.Content-Type",
        )
    return body
