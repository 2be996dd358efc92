"""A SMART Backend Services authorization server: tokens for clients that authenticate with a key (SE-23).

For development and small installations. It has no users, no refresh tokens, no dynamic registration and one signing key. With
another authorization server, use `JoseTokenVerifier` for its tokens.
"""

import logging
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fhir_bulk_middleware.contract.access import TokenRejected
from fhir_bulk_middleware.fhir.definitions import definitions
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http import bodies
from fhir_bulk_middleware.http.protective import ProtectiveHeaders
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.jose.verifier import JoseTokenVerifier
from fhir_bulk_middleware.outcomes import Refused
from fhir_bulk_middleware.smart import oauth_replies as replies
from fhir_bulk_middleware.smart.assertions import ALGORITHMS, Assertions
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.configuration import SmartConfiguration
from fhir_bulk_middleware.smart.grants import granted, spelled
from fhir_bulk_middleware.smart.oauth_replies import OAuthError, OAuthRefused
from fhir_bulk_middleware.smart.replay import ReplayLog

__all__ = ["ASSERTION_TYPE", "LONGEST_TOKEN_LIFETIME", "TOKEN_LIFETIME", "AuthorizationServer"]

_log = logging.getLogger("fhir_bulk_middleware")

TOKEN_LIFETIME: Final = 300
"""Default lifetime of an access token in seconds, the longest that SMART recommends (SE-05)."""

LONGEST_TOKEN_LIFETIME: Final = 86_400
"""Upper bound of the lifetime, in seconds. Law 9 has no cap for access tokens; the five minutes of SE-23 are for assertions."""

_BODY_BYTES: Final = 64 * 1024
_BODY_SECONDS: Final = 30.0
_MOST_FIELDS: Final = 20
_LONGEST_SCOPE: Final = 4096
_FORM: Final = "application/x-www-form-urlencoded"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""The only `client_assertion_type` (RFC 7523)."""


class AuthorizationServer:
    """The authorization server: an application to mount at its URL, a token verifier and a SMART configuration.

    ```python
    server = AuthorizationServer("https://ehr.example/fhir/auth", "https://ehr.example/fhir", [client],
                                 key=SigningKey.load(path), replay=SQLiteReplayLog("assertions.db"))
    bulk = BulkData(verifier=server.verifier(), settings=Settings(smart=server.configuration), ...)
    app.mount("/fhir/auth", server.app)
    ```

    Args:
        url: its public URL without a final slash; the tokens' `iss`. The token endpoint is `{url}/token`.
        audience: the tokens' `aud`: the URL of the FHIR server.
        clients: the registered clients.
        key: signs the tokens.
        replay: the log of used assertions. All processes that serve the same clients must share it: a `SQLiteReplayLog` on one
            machine, a `MemoryReplayLog` for a single process.
        lifetime: seconds that an access token is valid, 1 to 86,400. SMART recommends at most 300 (SE-05).
        body_seconds: time limit for the body of a token request to arrive (law 38).
        version: FHIR version of the resource types in scopes.
        clock: returns the current time.

    Raises:
        ValueError: the lifetime is out of bounds, the URL is not absolute, two clients have the same id, or a scope names an
            unknown resource type.
        TypeError: there is no replay log.
    """

    def __init__(
        self,
        url: str,
        audience: str,
        clients: Iterable[Client],
        *,
        key: SigningKey,
        replay: ReplayLog,
        lifetime: int = TOKEN_LIFETIME,
        body_seconds: float = _BODY_SECONDS,
        version: FhirVersion = FhirVersion.R4,
        clock: Clock = system_clock,
    ) -> None:
        clients = tuple(clients)
        if not 0 < lifetime <= LONGEST_TOKEN_LIFETIME:
            raise ValueError(f"an access token lives from 1 to {LONGEST_TOKEN_LIFETIME:,} seconds")
        if len({client.id for client in clients}) != len(clients):
            raise ValueError("two clients have the same id")
        if not callable(getattr(replay, "first_use", None)):
            raise TypeError(
                "replay: without a replay log a client assertion would be good twice; give a SQLiteReplayLog, or, for a server "
                "with a single process, a MemoryReplayLog"
            )
        types = definitions(version).resource_types
        for client in clients:
            _check_types(client, types, version)
        self.configuration = SmartConfiguration(
            token_endpoint=f"{url}/token",
            jwks_uri=f"{url}/jwks",
            scopes_supported=_supported(clients),
            token_endpoint_auth_signing_alg_values_supported=ALGORITHMS,
        )
        """The SMART configuration for `Settings.smart`."""
        self.app = Starlette(
            routes=[Route("/token", self._token, methods=["POST"]), Route("/jwks", self._jwks)],
            middleware=[Middleware(ProtectiveHeaders)],
            exception_handlers={HTTPException: _no_route},
        )
        """The ASGI application with the token endpoint and the key set, to be mounted at the URL."""
        self._url = url
        self._audience = audience
        self._key = key
        self._lifetime = lifetime
        self._types = types
        self._body_seconds = body_seconds
        self._clock = clock
        self._assertions = Assertions(clients, f"{url}/token", replay, clock)

    def verifier(self) -> JoseTokenVerifier:
        """A verifier that accepts only this server's tokens."""
        return JoseTokenVerifier(jwks=self._key.jwks, issuer=self._url, audience=self._audience, clock=self._clock)

    async def _jwks(self, request: Request) -> Response:
        del request
        return replies.document(self._key.jwks)

    async def _token(self, request: Request) -> Response:
        try:
            form = await _form(request, self._body_seconds)
            if "client_assertion" not in form and "authorization" in request.headers:
                raise OAuthRefused(OAuthError.CLIENT_BY_HEADER, "A client shows who it is by a client_assertion.")
            return replies.token(await self._issued(form))
        except OAuthRefused as refused:
            _log.info("token request refused: %s: %s", refused.error.value[0], refused.reason)
            return replies.refusal(refused)
        except Exception:  # noqa: BLE001 - the only place that handles faults; the log has all details, the client none
            _log.exception("a token request failed")
            return replies.refusal(OAuthRefused(OAuthError.SERVER_ERROR, "Something went wrong on the server."))

    async def _issued(self, form: Mapping[str, str]) -> dict[str, Any]:
        grant_type = form.get("grant_type")
        if grant_type is None:
            raise OAuthRefused(OAuthError.INVALID_REQUEST, "grant_type is missing.")
        if grant_type != "client_credentials":
            raise OAuthRefused(OAuthError.UNSUPPORTED_GRANT_TYPE, "grant_type must be client_credentials.")
        client = await self._client(form)
        asked = form.get("scope", "")
        scopes = granted(asked.split(), client.scopes, self._types) if len(asked) <= _LONGEST_SCOPE else ()
        if not scopes:
            raise OAuthRefused(OAuthError.INVALID_SCOPE, "scope must name SMART system/ scopes that this client may have.")
        return {
            "access_token": self._signed(client, " ".join(scopes)),
            "token_type": "bearer",
            "expires_in": self._lifetime,
            "scope": " ".join(scopes),
        }

    async def _client(self, form: Mapping[str, str]) -> Client:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthRefused(OAuthError.INVALID_REQUEST, f"client_assertion_type must be {ASSERTION_TYPE}.")
        if "client_assertion" not in form:
            raise OAuthRefused(OAuthError.INVALID_REQUEST, "client_assertion is missing.")
        try:
            return await self._assertions.client(form["client_assertion"], form.get("client_id"))
        except TokenRejected as rejected:
            reason = f"client assertion rejected: {rejected}"
            raise OAuthRefused(OAuthError.INVALID_CLIENT, "The client assertion is not good here.", reason=reason) from None
        except Refused as busy:
            description = "The assertion cannot be checked just now."
            raise OAuthRefused(
                OAuthError.TEMPORARILY_UNAVAILABLE, description, reason=busy.detail, retry_after=busy.retry_after
            ) from None

    def _signed(self, client: Client, scope: str) -> str:
        issued_at = self._clock() // 1_000_000
        claims = {
            "iss": self._url,
            "aud": self._audience,
            "sub": client.id,
            "client_id": client.id,
            "scope": scope,
            "iat": issued_at,
            "exp": issued_at + self._lifetime,
            "jti": secrets.token_urlsafe(16),
        }
        return self._key.sign(claims, {"typ": "at+jwt"})


async def _no_route(_: Request, error: Exception) -> Response:
    """The response for an unknown path or method, in OAuth's format (RFC 6749, section 5.2)."""
    if not isinstance(error, HTTPException):
        raise error
    return replies.elsewhere(error.status_code, error.detail, error.headers or {})


async def _form(request: Request, seconds: float) -> dict[str, str]:
    """The form fields of the body; an empty field counts as missing (RFC 6749, section 3.2)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise OAuthRefused(OAuthError.INVALID_REQUEST, f"The body must be {_FORM}.")
    try:
        body = await bodies.whole(request, _BODY_BYTES, seconds)
    except Refused as refused:
        raise OAuthRefused(OAuthError.INVALID_REQUEST, refused.detail) from None
    try:
        pairs = parse_qsl(body.decode("ascii"), errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise OAuthRefused(OAuthError.INVALID_REQUEST, "The body is not a form, or has too many fields.") from None
    if len(dict(pairs)) != len(pairs):
        raise OAuthRefused(OAuthError.INVALID_REQUEST, "A field is given twice.")
    return dict(pairs)


def _check_types(client: Client, types: frozenset[str], version: FhirVersion) -> None:
    """Refuse scopes on unknown types, since a misspelled type would silently grant nothing."""
    unknown = sorted({scope.type for scope in client.scopes} - types - {"*"})
    if unknown:
        raise ValueError(f"a scope of client {client.id} names {', '.join(unknown)}: FHIR {version.value} has no such type")


def _supported(clients: Iterable[Client]) -> tuple[str, ...]:
    """The scopes to publish, without the queries of granular scopes, which may be confidential."""
    return tuple(sorted({spelled(scope.type, scope.letters) for client in clients for scope in client.scopes}))
