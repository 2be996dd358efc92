"""Scripts of another origin: the CORS settings of `examples/proxies.md` let them export, and show them what they need to see."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import BASE, House, populate
from nginx_server import blocks
from starlette.applications import Starlette
from starlette.middleware.cors import SAFELISTED_HEADERS, CORSMiddleware

from fhir_bulk_middleware import BulkDataMiddleware, Settings
from fhir_bulk_middleware.dialects import STANDARD

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example"
(_PAGE,) = [
    block
    for block in blocks(Path(__file__).resolve().parent.parent.parent / "examples" / "proxies.md", "python")
    if "CORSMiddleware" in block
]
_SHOWN = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
"""Response headers that each script may read (the Fetch standard, CORS-safelisted response-header name)."""
_FOR_BROWSERS = {"vary", "x-content-type-options", "content-security-policy", "x-frame-options", "referrer-policy"}


def cors() -> dict[str, Any]:
    """The settings of the page."""
    names: dict[str, Any] = {}
    exec(_PAGE, names)  # noqa: S102 - a page of ours
    found: dict[str, Any] = names["CORS"]
    return found


def installed(house: House) -> Any:
    app = Starlette()
    house.bulk.install(app)
    app.add_middleware(CORSMiddleware, **cors())
    return app


def outside(house: House) -> Any:
    return CORSMiddleware(BulkDataMiddleware(Starlette(), house.bulk), **cors())


class Browser:
    """Sends each request as a browser does for a script: a preflight first, and the answer with the exposed headers only."""

    def __init__(self, app: Any, token: str) -> None:
        self._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example")
        self._token = token
        self.hidden: set[str] = set()

    async def ask(self, method: str, url: str, **headers: str) -> httpx2.Response:
        headers["Authorization"] = f"Bearer {self._token}"
        preflight = await self._http.options(
            url,
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": ",".join(sorted(name.lower() for name in headers)),
            },
        )
        assert preflight.status_code == 200, preflight.text
        assert method in preflight.headers["Access-Control-Allow-Methods"]
        allowed = {name.strip().lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(",")}
        assert {name.lower() for name in headers} <= allowed | {name.lower() for name in SAFELISTED_HEADERS}
        answer = await self._http.request(method, url, headers={"Origin": ORIGIN, **headers})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        shown = {name.strip().lower() for name in answer.headers["Access-Control-Expose-Headers"].split(",")} | _SHOWN
        sent = {name.lower() for name in answer.headers if not name.lower().startswith("access-control-")}
        self.hidden |= sent - shown - _FOR_BROWSERS
        return answer


@pytest.mark.parametrize("attached", [installed, outside])
async def test_a_script_of_another_origin_exports_and_sees_every_header_that_it_needs(mint: Any, attached: Any) -> None:
    house = House(mint, STANDARD, Settings(public_base_url=BASE, first_poll_wait=0))
    await populate(house)
    app = attached(house)
    async with house.bulk.running():
        browser = Browser(app, house.token(scope="system/*.cruds"))
        accept = {"Accept": "application/fhir+json", "X-Request-ID": "request-1"}
        wanted = "respond-async, separate-export-status"
        accepted = await browser.ask("POST", "/fhir/$export", Prefer=wanted, **accept, **{"Idempotency-Key": "k"})
        assert (accepted.status_code, "Content-Location" in accepted.headers) == (202, True)
        location = accepted.headers["Content-Location"]
        running = await browser.ask("GET", location)
        assert {"retry-after", "x-progress", "x-export-status"} <= set(running.headers)
        await house.runner.finish()
        manifest = (await browser.ask("GET", location)).json()
        url = manifest["output"][0]["url"]
        file = await browser.ask("GET", url, Range="bytes=0-9")
        assert file.status_code == 206
        same = await browser.ask("GET", url, **{"If-None-Match": (await browser.ask("GET", url)).headers["ETag"]})
        assert same.status_code == 304
        assert (await browser.ask("DELETE", "/fhir/Patient/p3", **{"If-Match": 'W/"7"'})).status_code == 412
        assert (await browser.ask("DELETE", "/fhir/Patient/p3")).headers["ETag"]
        assert (await browser.ask("PUT", "/fhir/$export")).status_code == 405
        assert (await browser.ask("DELETE", location)).status_code == 202
    assert browser.hidden == set()


async def test_inside_ours_the_middleware_of_the_page_would_never_see_a_preflight(mint: Any) -> None:
    """As the page says of `BulkDataMiddleware`."""
    house = House(mint, STANDARD, Settings(public_base_url=BASE))
    app = BulkDataMiddleware(CORSMiddleware(Starlette(), **cors()), house.bulk)
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    async with (
        house.bulk.running(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http,
    ):
        preflight = await http.options("/fhir/$export", headers=headers)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert preflight.status_code == 401
