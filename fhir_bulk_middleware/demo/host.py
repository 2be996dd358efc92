"""A small FHIR server, the host of the middleware in the demo.

It has routes, statuses and authorisation of its own, which must go on working with the middleware installed. So it uses HTTP
statuses directly, which the rest of the package leaves to its dialects. It supports read, vread, create, update and search. It
has no delete, so that DELETE visibly comes from the middleware; a deleted resource is then 410, with its history. All routes but
the CapabilityStatement require a token.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fhir_bulk_middleware.contract.access import TokenRejected, TokenVerifier
from fhir_bulk_middleware.demo.fhir_responses import Refusal, document, outcome, resource, searchset
from fhir_bulk_middleware.demo.request_reading import after_of, body_of, count_of, if_match_of, query_of
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.protective import ProtectiveHeaders
from fhir_bulk_middleware.outcomes import Refused
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.stores.versioned import Stored, VersionConflict

if TYPE_CHECKING:
    from fhir_bulk_middleware.stores.postgres import PostgresResourceStore

__all__ = ["fhir_host"]

_LONGEST_NUMBER: Final = 18


def fhir_host(
    store: "SQLiteResourceStore | PostgresResourceStore",
    verifier: TokenVerifier,
    *,
    base: str = "/fhir",
    public_base_url: str | None = None,
    operations: Sequence[Mapping[str, str]] = (),
) -> Starlette:
    """The host as an ASGI application.

    Args:
        store: the resource store.
        verifier: verifies bearer tokens.
        base: path prefix of all routes.
        public_base_url: the public URL of `base`; None to take it from each request.
        operations: further operations (name and definition) for `rest.operation` of its CapabilityStatement.
    """
    host = _Host(store, verifier, base, public_base_url, operations)
    app = Starlette(
        routes=[
            Route(f"{base}/metadata", host.metadata),
            Route(f"{base}/{{type}}", host.search, methods=["GET"]),
            Route(f"{base}/{{type}}", host.create, methods=["POST"]),
            Route(f"{base}/{{type}}/{{id}}", host.read, methods=["GET"]),
            Route(f"{base}/{{type}}/{{id}}", host.update, methods=["PUT"]),
            Route(f"{base}/{{type}}/{{id}}/_history/{{version}}", host.vread, methods=["GET"]),
        ],
        middleware=[Middleware(ProtectiveHeaders)],
        exception_handlers={Refusal: _refused, Refused: _busy, HTTPException: _no_route, Exception: _broken},
    )
    # A redirect could make a client repeat a DELETE at another URL.
    app.router.redirect_slashes = False
    return app


class _Host:
    """The endpoints of the host."""

    def __init__(
        self,
        store: "SQLiteResourceStore | PostgresResourceStore",
        verifier: TokenVerifier,
        base: str,
        public_base_url: str | None,
        operations: Sequence[Mapping[str, str]],
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._base = base
        self._public_base_url = public_base_url
        self._operations = operations
        self._types = definitions(FhirVersion.R4).resource_types

    async def metadata(self, request: Request) -> Response:
        """The CapabilityStatement; the only endpoint without a token."""
        interactions = ["read", "vread", "create", "update", "search-type"]
        resources = [
            {
                "type": type_,
                "interaction": [{"code": code} for code in interactions],
                "versioning": "versioned-update",
                "readHistory": True,
                "updateCreate": True,
                "searchParam": [{"name": "_id", "type": "token"}],
            }
            for type_ in sorted(self._types)
        ]
        operations = {"operation": list(self._operations)} if self._operations else {}  # FHIR has no empty lists
        return document(
            {
                "resourceType": "CapabilityStatement",
                "status": "active",
                "date": "2026-01-01",
                "kind": "instance",
                "implementation": {"description": "The demo host of fhir-bulk-middleware", "url": self._base_url(request)},
                "fhirVersion": FhirVersion.R4.value,
                "format": ["json"],
                "rest": [{"mode": "server", "resource": resources, **operations}],
            }
        )

    async def read(self, request: Request) -> Response:
        """Read the current version of a resource."""
        type_ = await self._admit(request, "r")
        stored = await self._store.read(type_, request.path_params["id"])
        return resource(_alive(stored))

    async def vread(self, request: Request) -> Response:
        """Read an old version of a resource."""
        type_ = await self._admit(request, "r")
        version = request.path_params["version"]
        if not version.isascii() or not version.isdecimal() or len(version) > _LONGEST_NUMBER:
            raise _not_found()
        return resource(_alive(await self._store.vread(type_, request.path_params["id"], int(version))))

    async def create(self, request: Request) -> Response:
        """Create a resource with an id of the server."""
        type_ = await self._admit(request, "c")
        body, _ = await body_of(request, type_)
        try:
            stored = await self._store.create(type_, body)
        except ValueError as error:
            raise _unprocessable(error) from error
        return resource(stored, status=HTTPStatus.CREATED, location=self._location(request, stored))

    async def update(self, request: Request) -> Response:
        """Create or update a resource; `If-Match` names the version to replace."""
        type_ = await self._admit(request, "u")
        id_ = request.path_params["id"]
        body, content = await body_of(request, type_)
        if content.get("id") != id_:
            raise Refusal(HTTPStatus.BAD_REQUEST, "invalid", f"the resource's id must be that of the URL, {id_}")
        try:
            stored = await self._store.update(type_, id_, body, if_match=if_match_of(request))
        except VersionConflict as error:
            raise Refusal(HTTPStatus.PRECONDITION_FAILED, "conflict", "the resource has another version") from error
        except ValueError as error:
            raise _unprocessable(error) from error
        status = HTTPStatus.CREATED if stored.version == 1 else HTTPStatus.OK
        return resource(stored, status=status, location=self._location(request, stored))

    async def search(self, request: Request) -> Response:
        """Search a type, in pages; `_id` is the only search parameter."""
        type_ = await self._admit(request, "rs")
        query = query_of(request)
        ids = query["_id"].split(",") if "_id" in query else None
        page = await self._store.search(type_, ids=ids, count=count_of(query), after=after_of(query))
        links = {"self": query}
        if page.next is not None:
            links["next"] = query | {"_count": str(count_of(query)), "_after": page.next}
        return searchset(self._base_url(request), type_, page.resources, links)

    async def _admit(self, request: Request, letters: str) -> str:
        """The resource type in the URL, after checks of the type, the token and its scopes."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(HTTPStatus.UNAUTHORIZED, "login", "a bearer token is required", {"www-authenticate": "Bearer"})
        try:
            principal = await self._verifier.verify(token.strip())
        except TokenRejected as error:
            challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Refusal(HTTPStatus.UNAUTHORIZED, "login", "the token is not good", challenge) from error
        type_: str = request.path_params["type"]
        if type_ not in self._types:
            raise Refusal(HTTPStatus.NOT_FOUND, "not-supported", "there is no such resource type")
        granted = Scopes.parse(principal.scopes).granted
        if not set(letters) <= granted.get(type_, frozenset()) | granted.get("*", frozenset()):
            raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", f"the scope system/{type_}.{letters} is required")
        return type_

    def _base_url(self, request: Request) -> str:
        return self._public_base_url or f"{request.url.scheme}://{request.url.netloc}{self._base}"

    def _location(self, request: Request, stored: Stored) -> str:
        return f"{self._base_url(request)}/{stored.type}/{stored.id}/_history/{stored.version}"


def _alive(stored: Stored | None) -> Stored:
    if stored is None:
        raise _not_found()
    if stored.deleted:
        raise Refusal(HTTPStatus.GONE, "deleted", "the resource was deleted", {"etag": f'W/"{stored.version}"'})
    return stored


def _not_found() -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "not-found", "there is no such resource")


def _unprocessable(error: ValueError) -> Refusal:
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", str(error))


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return outcome(error.status, error.code, error.diagnostics, error.headers)


async def _busy(_: Request, error: Exception) -> Response:
    """The response if the verifier has no keys, which it reports by `Refused`."""
    seconds = error.retry_after if isinstance(error, Refused) else None
    headers = {"retry-after": str(seconds)} if seconds is not None else None
    return outcome(HTTPStatus.SERVICE_UNAVAILABLE, "transient", "tokens can not be checked just now", headers)


async def _broken(_: Request, __: Exception) -> Response:
    """The response to an unexpected exception, which the server logs."""
    return outcome(HTTPStatus.INTERNAL_SERVER_ERROR, "exception", "something went wrong on the server")


async def _no_route(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return outcome(error.status_code, "not-supported", error.detail, error.headers)
