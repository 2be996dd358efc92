"""The endpoints of deletes. Each parses the request, calls one method of the service, and renders the result."""

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.delete import conditions
from fhir_bulk_middleware.delete.conditions import Control
from fhir_bulk_middleware.delete.if_match import IfMatch
from fhir_bulk_middleware.delete.policy import DeletePolicy, Return
from fhir_bulk_middleware.delete.responses import DeleteResponses
from fhir_bulk_middleware.delete.result import DeleteRequest, Result
from fhir_bulk_middleware.delete.service import DeleteService
from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http import bodies, parameters
from fhir_bulk_middleware.http.addresses import Addresses
from fhir_bulk_middleware.http.idempotency import idempotency_key
from fhir_bulk_middleware.http.parameters import Parameter
from fhir_bulk_middleware.http.preferences import Preferences
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import Row
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused

__all__ = ["DeleteEndpoints"]

_RETURNS = {preference.value.lower(): preference for preference in Return}


class DeleteEndpoints:
    """The endpoints behind the routes of deletes.

    Args:
        service: carries out deletes.
        policy: what clients may ask for, and how outcomes are rendered.
        dialect: renders jobs.
        replies: makes responses.
        addresses: builds URLs.
        version: the FHIR release of the search parameters.
        body_seconds: the time in which the body of a request must arrive.
    """

    def __init__(
        self,
        *,
        service: DeleteService,
        policy: DeletePolicy,
        dialect: Dialect,
        replies: Replies,
        addresses: Addresses,
        version: FhirVersion,
        body_seconds: float,
    ) -> None:
        self._service = service
        self._policy = policy
        self._body_seconds = body_seconds
        self._dialect = dialect
        self._replies = replies
        self._responses = DeleteResponses(policy, replies)
        self._addresses = addresses
        self._version = version

    def rows(self, *, conditional: bool) -> tuple[Row, ...]:
        """The route rows of deletes.

        Args:
            conditional: whether the adapter can delete by criteria.
        """
        one = Row("DELETE", "/{type}/{id}", Operation.DELETE, self.one, shared=True)
        matching = Row("DELETE", "/{type}", Operation.CONDITIONAL_DELETE, self.matching, shared=True)
        return (one, matching) if conditional else (one,)

    async def one(self, request: Request, principal: Principal) -> Response:
        """Delete a resource by its id."""
        type_, id_ = request.path_params["type"], request.path_params["id"]
        control, others = await self._read(request)
        if others:
            detail = f"A delete of one resource has no parameter {others[0].name[:80]}; nothing was deleted."
            raise Refused(Reason.PARAMETER_UNKNOWN, detail, part="http.query")
        asked = DeleteRequest(if_match=_if_match(request), dry_run=control.dry_run)
        preferences = _preferences(request)
        base = self._addresses.base(request)
        result = await self._service.delete(principal, type_, id_, asked)
        return self._rendered(result, base, type_, preferences, control, cap=1)

    async def matching(self, request: Request, principal: Principal) -> Response:
        """Delete the resources that meet the criteria of the query string."""
        type_ = request.path_params["type"]
        control, others = await self._read(request)
        criteria = conditions.criteria(self._version, type_, others)
        asked = DeleteRequest(if_match=_if_match(request), dry_run=control.dry_run, remove_all=self._wants_all(request))
        preferences = _preferences(request)
        base = self._addresses.base(request)
        job_wanted = preferences.respond_async and asked.remove_all and not asked.dry_run and self._service.has_jobs
        if job_wanted:
            url, key = self._addresses.kick_off(request), idempotency_key(request)
            found = await self._service.begin(principal, criteria, asked, url, key)
            if not isinstance(found, Result):
                headers = {"Content-Location": self._addresses.status(base, found.id), "Preference-Applied": "respond-async"}
                return self._replies.empty(self._dialect.accepted, headers)
            result = found
        else:
            result = await self._service.delete_matching(principal, criteria, asked)
        return self._rendered(result, base, type_, preferences, control, cap=self._service.cap(asynchronous=job_wanted))

    def _rendered(
        self, result: Result, base: str, type_: str, preferences: Preferences, control: Control, *, cap: int
    ) -> Response:
        prefers = _RETURNS.get(preferences.returns or "")
        return self._responses.render(result, base=base, type_=type_, prefers=prefers, no_content=control.no_content, cap=cap)

    async def _read(self, request: Request) -> tuple[Control, list[Parameter]]:
        """Parse the query string, and refuse a body: criteria in it would be ignored (RD-04)."""
        if not await bodies.is_empty(request, self._body_seconds):
            raise Refused(Reason.BODY_MALFORMED, "A DELETE has no body; criteria belong in the URL. Nothing was deleted.")
        return conditions.separate(self._policy, parameters.from_query(request.scope["query_string"]))

    def _wants_all(self, request: Request) -> bool:
        if self._policy.remove_all_header is None:
            return False
        name, value = self._policy.remove_all_header
        given = request.headers.getlist(name)
        if given and [each.strip().lower() for each in given] != [value]:
            raise Refused(Reason.HEADER_INVALID, f"{name} can only be {value}; nothing was deleted.", part=f"http.{name}")
        return bool(given)


def _if_match(request: Request) -> IfMatch | None:
    try:
        return IfMatch.parse(request.headers.getlist("if-match"))
    except ValueError as error:
        raise Refused(Reason.HEADER_INVALID, f"If-Match: {error}; nothing was deleted.", part="http.If-Match") from None


def _preferences(request: Request) -> Preferences:
    try:
        return Preferences.parse(request.headers.getlist("prefer"))
    except ValueError as error:
        raise Refused(Reason.HEADER_INVALID, f"Prefer: {error}; nothing was deleted.", part="http.Prefer") from None
