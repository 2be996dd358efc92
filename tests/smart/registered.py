"""A token endpoint with two clients, and what a client sends to it."""

import secrets
from collections.abc import Mapping
from typing import Any

import httpx2

from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import MemoryReplayLog, ReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer

URL = "https://ehr.example/fhir/auth"
AUDIENCE = "https://ehr.example/fhir"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
NOW = parse("2026-03-01T12:00:00Z")
SECONDS = NOW // 1_000_000

KEYS = {algorithm: SigningKey(algorithm) for algorithm in ("ES384", "RS384", "ES256", "RS256")}
OTHER = SigningKey("ES384")
SERVER = SigningKey("ES384")


class Endpoint:
    """The server, its clients' keys, and a clock that stands still until it is moved."""

    def __init__(self, replay: ReplayLog | None = None, scopes: tuple[str, ...] = ("system/*.rs",)) -> None:
        self.now = NOW
        both = {"keys": [key for signing in KEYS.values() for key in signing.jwks["keys"]]}
        clients = [Client.registered("backend", both, scopes), Client.registered("other", OTHER.jwks, ["system/Patient.rs"])]
        self.server = AuthorizationServer(
            URL, AUDIENCE, clients, key=SERVER, replay=replay or MemoryReplayLog(), clock=self.clock
        )

    def clock(self) -> Instant:
        return self.now

    async def post(self, form: Mapping[str, str] | str | bytes, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.server.app), base_url="https://ehr.example") as http:
            if isinstance(form, Mapping):
                return await http.post("/token", data=dict(form), headers=headers)
            content_type = {"Content-Type": "application/x-www-form-urlencoded"}
            return await http.post("/token", content=form, headers=content_type | headers)


def assertion(
    key: SigningKey | None = None, header: Mapping[str, Any] | None = None, without: tuple[str, ...] = (), **claims: Any
) -> str:
    """A good assertion of `backend`, but for what is said otherwise."""
    good = {
        "iss": "backend",
        "sub": "backend",
        "aud": f"{URL}/token",
        "exp": SECONDS + 300,
        "jti": secrets.token_hex(16),
    }
    said = {name: value for name, value in (good | claims).items() if name not in without}
    return (key or KEYS["ES384"]).sign(said, {"typ": "JWT"} | dict(header or {}))


def form(client_assertion: str | None = None, **fields: str | None) -> dict[str, str]:
    """A good token request, but for what is said otherwise; None leaves a field out."""
    good = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion or assertion(),
    }
    return {name: value for name, value in (good | fields).items() if value is not None}
