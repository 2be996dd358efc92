"""Behind a real nginx: our URLs resolve from outside or the log says which setting is missing; none names an inside address.

nginx runs with the blocks of `examples/proxies.md`, with TLS, and with blocks that are wrong as people get them wrong.
"""

import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback import free_socket, served
from nginx_server import NAME, NGINX, blocks, nginx
from starlette.applications import Starlette
from waiting import PATIENCE

from fhir_bulk_middleware import (
    BulkData,
    JoseTokenVerifier,
    MemoryJobStore,
    MemoryOutputStore,
    MemoryResourceStore,
    Settings,
)
from fhir_bulk_middleware.testing import TokenMint

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed; it is the proxy under test"),
]

KEPT, STRIPPED = blocks(Path(__file__).resolve().parent.parent.parent / "examples" / "proxies.md", "nginx")
PUBLIC = "https://ehr.example/fhir"


def without(block: str, *settings: str) -> str:
    """The block without the lines that set these headers, or drop what a client sends under these names."""
    for name in settings:
        block, found = re.subn(rf" *proxy_set_header {name} .*\n", "", block)
        assert found == 1
    return block


@dataclass
class Front:
    """A mount behind nginx.

    Attributes:
        http: a client outside.
        inside: the port of the server, which none outside may see.
        headers: of its requests.
    """

    http: httpx2.AsyncClient
    inside: int
    headers: dict[str, str]
    answers: list[httpx2.Response] = field(default_factory=list)

    async def ask(self, url: str, **headers: str) -> httpx2.Response:
        answer = await self.http.get(url, headers={**self.headers, **headers})
        self.answers.append(answer)
        return answer

    async def export(self, prefix: str, **headers: str) -> list[str]:
        """All URLs of an export, each of which was fetched from outside and found."""
        url = f"https://{NAME}{prefix}/Patient/$export?allowPartialManifests=true"
        accepted = await self.ask(url, Prefer="respond-async", **headers)
        assert accepted.status_code == 202, accepted.text
        following: str | None = accepted.headers["Content-Location"]
        found: list[str] = []
        while following is not None:
            found.append(following)
            manifest = await self.ask(following, **headers)
            if manifest.status_code == 202:
                await anyio.sleep(0.01)
                continue
            page = manifest.json()
            assert page["request"] == url
            files = [item["url"] for item in page["output"]]
            assert [(await self.ask(file, **headers)).status_code for file in files] == [200] * len(files)
            found += files
            following = next((link["url"] for link in page.get("link", []) if link["relation"] == "next"), None)
        assert len(found) >= 4, "a polling location, two pages and two files at least"
        return found

    def names_nothing_inside(self, *others: str) -> bool:
        """Whether no answer names the server's own address, or something that a client made up."""
        said = "".join(f"{answer.headers!r}{answer.text}" for answer in self.answers)
        return not any(name in said for name in ("127.0.0.1", f":{self.inside}", *others))


@contextmanager
def host(mint: TokenMint, settings: Settings, **options: Any) -> Iterator[int]:
    """A Starlette host with us, under uvicorn; its port."""
    store = MemoryResourceStore()
    store.load(b'{"resourceType":"Patient","id":"p%d"}' % number for number in range(2))
    store.load(
        [b'{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"}}']
    )
    bulk = BulkData(
        resources=store,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer="https://auth.example", audience="https://ehr.example/fhir"),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        settings=settings,
    )
    app = Starlette()
    bulk.install(app)
    listener = free_socket()
    port: int = listener.getsockname()[1]
    with served(app, listener, longest=None, **options):
        yield port


@asynccontextmanager
async def behind(block: str, folder: Path, *, public: str | None = None, **options: Any) -> AsyncIterator[Front]:
    """A mount behind nginx with a block."""
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    settings = Settings(public_base_url=public, manifest_files=1, polls_per_second=1000, poll_burst=1000)
    with host(mint, settings, **options) as inside, nginx(block, inside, folder) as outside:
        async with httpx2.AsyncClient(transport=outside, timeout=PATIENCE) as http:
            yield Front(http, inside, {"Authorization": f"Bearer {mint.token('me', 'system/*.rs')}"})


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """What the log says about the address."""
    caplog.set_level(logging.INFO, "fhir_bulk_middleware")

    def found() -> list[tuple[str, str]]:
        return [(each.levelname, each.getMessage()) for each in caplog.records if "public_base_url" in each.getMessage()]

    return found


@pytest.mark.parametrize(
    ("block", "prefix", "options"),
    [(KEPT, "/fhir", {}), (STRIPPED, "/north/fhir", {}), (STRIPPED, "/north/fhir", {"root_path": "/north"})],
    ids=["kept", "stripped", "stripped, and the server knows the prefix"],
)
async def test_with_a_public_base_url_all_urls_resolve_whatever_a_client_forges(
    block: str, prefix: str, options: dict[str, str], tmp_path: Path, said: Any
) -> None:
    """KO-114."""
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Prefix": "/evil.example",
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6;host=evil.example;proto=gopher",
        "X-Real-IP": "6.6.6.6",
    }
    async with behind(block, tmp_path, public=f"https://{NAME}{prefix}", **options) as front:
        for headers in ({}, forged):
            assert all(url.startswith(f"https://{NAME}{prefix}/") for url in await front.export(prefix, **headers))
        assert front.names_nothing_inside("evil.example", "6.6.6.6", "gopher")
    assert said() == []


@pytest.mark.parametrize(
    ("block", "prefix", "options"),
    [(KEPT, "/fhir", {}), (STRIPPED, "/north/fhir", {"root_path": "/north"})],
    ids=["kept", "stripped"],
)
async def test_without_it_they_resolve_if_the_proxy_forwards_host_and_scheme_and_the_log_advises_it_once(
    block: str, prefix: str, options: dict[str, str], tmp_path: Path, said: Any
) -> None:
    """KO-114."""
    async with behind(block, tmp_path, **options) as front:
        for _ in range(2):
            assert all(url.startswith(f"https://{NAME}{prefix}/") for url in await front.export(prefix))
        assert front.names_nothing_inside()
    ((level, message),) = said()
    assert level == "WARNING"
    assert "Host header and path that arrive here. Set public_base_url to the URL" in message


WRONG = {
    "no word of the scheme": (
        without(KEPT, "X-Forwarded-Proto"),
        "/fhir",
        {},
        "; no X-Forwarded-Proto says whether clients use https.",
    ),
    "a scheme that the server does not trust": (
        KEPT,
        "/fhir",
        {"forwarded_allow_ips": "10.9.9.9"},
        "; X-Forwarded-Proto names another scheme, and the server does not trust it.",
    ),
    "a stripped prefix that the server does not know": (
        STRIPPED,
        "/north/fhir",
        {},
        "; X-Forwarded-Prefix names a prefix that the server's root_path lacks.",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_where_urls_do_not_resolve_the_first_request_logs_once_what_is_missing(
    wrong: str, tmp_path: Path, said: Any
) -> None:
    block, prefix, options, contradiction = WRONG[wrong]
    async with behind(block, tmp_path, **options) as front:
        for _ in range(2):
            accepted = await front.ask(f"https://{NAME}{prefix}/$export", Prefer="respond-async")
            assert accepted.status_code == 202
            assert not accepted.headers["Content-Location"].startswith(f"https://{NAME}{prefix}/")
        assert front.names_nothing_inside()
    ((level, message),) = said()
    assert level == "WARNING"
    assert contradiction in message


HIDDEN = {
    "with nginx's own default": without(
        KEPT, "Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded"
    ).replace("proxy_http_version 1.1;", ""),
    "with headers beside it": without(KEPT, "Host"),
    "with a name inside": without(KEPT, "Host").replace(
        "proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_set_header Host backend.clinic.example;"
    ),
}


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_a_proxy_that_hides_the_host_of_the_client_is_refused_and_the_log_says_once_what_to_set(
    hidden: str, tmp_path: Path, said: Any
) -> None:
    async with behind(HIDDEN[hidden], tmp_path) as front:
        for _ in range(2):
            refused = await front.ask(f"{PUBLIC}/$export", Prefer="respond-async")
            assert (refused.status_code, refused.json()["resourceType"]) == (500, "OperationOutcome")
        assert front.names_nothing_inside("backend")
    ((level, message),) = said()
    assert level == "ERROR"
    assert "Set public_base_url" in message


@pytest.mark.parametrize("hidden", HIDDEN)
async def test_with_a_public_base_url_it_does_not_matter_what_the_proxy_hides(hidden: str, tmp_path: Path, said: Any) -> None:
    async with behind(HIDDEN[hidden], tmp_path, public=PUBLIC) as front:
        assert all(url.startswith(f"{PUBLIC}/") for url in await front.export("/fhir"))
        assert front.names_nothing_inside("backend")
    assert said() == []
