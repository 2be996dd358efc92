"""No answer of ours is kept by a cache, taken for a script, or hands its URL on: patient data and its URLs are in them."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, KICK_OFF, House, populate
from starlette.applications import Starlette

from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.dialects import DIALECTS, Dialect
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.configuration import SmartConfiguration
from fhir_bulk_middleware.smart.replay import MemoryReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

EVERYTHING = "system/*.cruds"


def check(response: httpx2.Response) -> None:
    where = f"{response.request.method} {response.request.url}: {response.status_code}"
    headers = response.headers
    assert headers.get_list("X-Content-Type-Options") == ["nosniff"], where
    assert headers.get_list("Referrer-Policy") == ["no-referrer"], where
    assert len(headers.get_list("Cache-Control")) == 1, where
    assert headers["Cache-Control"].partition(",")[0] == "no-store", where


class Watched:
    """Checks all answers that a client gets, and counts them."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.statuses: Counter[int] = Counter()
        http.event_hooks = {"response": [self._check]}

    async def _check(self, response: httpx2.Response) -> None:
        check(response)
        self.statuses[response.status_code] += 1


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_every_answer_of_a_mount_is_protected(make_house: Any, dialect: Dialect) -> None:
    smart = SmartConfiguration(token_endpoint="https://ehr.example/token")
    async with make_house(dialect=dialect, smart=smart) as house:
        await populate(house)
        watched = Watched(house.http)
        await exported(house)
        for method, path in [
            ("GET", "/nothing"),
            ("PUT", "/$export"),
            ("DELETE", "/Patient/p3"),
            ("DELETE", "/Patient/p3"),
            ("DELETE", "/Patient/p2?_dry-run=true"),
            ("DELETE", "/Observation?code:nonsense=a"),
            ("DELETE", "/Observation?_id=b3"),
        ]:
            await house.ask(method, path, scope=EVERYTHING)
        for path in ("/OperationDefinition/bulk.export", "/.well-known/smart-configuration"):
            await house.ask("GET", path, subject=None)

    assert {200, 202, 206, 304, 401, 404, 412, 416} <= watched.statuses.keys()


async def exported(house: House) -> None:
    """The life of an export, and what others see of it."""
    await house.ask("GET", "/$export", subject=None, headers=KICK_OFF)
    await house.ask("GET", "/$export", token="nonsense", headers=KICK_OFF)
    await house.ask("GET", "/$export", headers=KICK_OFF, scope="patient/*.rs")
    location = await house.kick_off()
    await house.ask("GET", location)
    await house.runner.finish()
    manifest = (await house.ask("GET", location)).json()
    for subject in ("mallory", None):
        for method in ("GET", "DELETE"):
            await house.ask(method, location, subject=subject)
    file = manifest["output"][0]["url"]
    whole = await house.ask("GET", file)
    for headers in (
        {"Range": "bytes=0-9", "Accept-Encoding": "identity"},
        {"Range": "bytes=0-1,4-5", "Accept-Encoding": "identity"},
        {"Range": "bytes=900000-"},
        {"If-None-Match": whole.headers["ETag"]},
        {"If-Match": '"another"'},
        {"Accept-Encoding": "gzip"},
    ):
        await house.ask("GET", file, headers=headers)
    await house.ask("HEAD", file)
    await house.ask("GET", file, subject="mallory")
    await house.ask("DELETE", location)
    await house.ask("GET", location)


@asynccontextmanager
async def talking_to(app: Starlette) -> AsyncIterator[tuple[httpx2.AsyncClient, Watched]]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        yield http, Watched(http)


async def test_every_answer_of_the_authorization_server_is_protected() -> None:
    client = Client.registered("a", SigningKey().jwks)
    server = AuthorizationServer("https://x.example/auth", AUDIENCE, [client], key=SigningKey(), replay=MemoryReplayLog())
    async with talking_to(server.app) as (http, watched):
        assert (await http.post("/token", data={"grant_type": "client_credentials"})).headers["Pragma"] == "no-cache"
        await http.get("/token")
        await http.get("/nothing")
    assert watched.statuses == {400: 1, 405: 1, 404: 1}

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(server.app), base_url="https://ehr.example") as http:
        keys = await http.get("/jwks")
    assert (keys.headers["Cache-Control"], keys.headers["X-Content-Type-Options"]) == ("max-age=300", "nosniff")


async def test_every_answer_of_the_demo_host_is_protected(mint: TokenMint, tmp_path: Path) -> None:
    store = SQLiteResourceStore(tmp_path / "store.db")
    host = fhir_host(store, JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE))
    async with talking_to(host) as (http, watched):
        await http.get("/fhir/metadata")
        await http.get("/fhir/Patient/a")
        http.headers["Authorization"] = f"Bearer {mint.token('a', EVERYTHING)}"
        created = await http.post("/fhir/Patient", json={"resourceType": "Patient"})
        await http.get("/fhir/Patient")
        await http.get(f"/fhir/Patient/{created.json()['id']}")
        await http.get("/fhir/Patient/none")
        await http.get("/nothing")
    store.close()
    assert watched.statuses == {200: 3, 201: 1, 401: 1, 404: 2}
