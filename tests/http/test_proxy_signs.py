"""What the log says about the address of requests, and which are refused, without `public_base_url` (KO-114)."""

import logging
from typing import Any

import httpx2
import pytest
from house import KICK_OFF, House
from starlette.applications import Starlette

from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.settings import Settings

pytestmark = pytest.mark.anyio

PUBLIC = "ehr.example"
INSIDE = ["127.0.0.1:8000", "localhost", "10.0.0.7", "[::1]:8000", "[fd00::1]", "backend", "ehr.clinic.internal", "ehr.local:80"]


async def asked(
    house: House, host: str, headers: dict[str, str] | None = None, client: str = "127.0.0.1", **transport: Any
) -> httpx2.Response:
    """A kick-off as it arrives at the server."""
    app = Starlette()
    house.bulk.install(app)
    over = httpx2.ASGITransport(app, client=(client, 1), **transport)
    async with httpx2.AsyncClient(transport=over, base_url="http://server") as http:
        token = {"Authorization": f"Bearer {house.token()}", "Host": host}
        return await http.get("/fhir/Patient/$export", headers={**KICK_OFF, **token, **(headers or {})})


@pytest.fixture
async def house(mint: Any, caplog: pytest.LogCaptureFixture) -> Any:
    made = House(mint, STANDARD, Settings())
    async with made.bulk.running():
        caplog.set_level(logging.INFO, "fhir_bulk_middleware")
        yield made


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records if "public_base_url" in each.getMessage()]


@pytest.mark.parametrize("sign", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "Via", "Forwarded"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost", "10.0.0.7", "[::1]:8000", "[fd00::1]", "backend", "ehr.clinic.internal", "ehr.local:80"],
)
async def test_an_inside_address_from_a_proxy_is_refused(
    house: House, caplog: pytest.LogCaptureFixture, host: str, sign: str
) -> None:
    for _ in range(3):
        refused = await asked(house, host, {sign: "https"})
        assert refused.status_code == 500
        assert host not in refused.text
    ((level, _),) = said(caplog)
    assert level == "ERROR"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "other.example"},
        {"X-Forwarded-Host": "other.example, another.example"},
        {"Forwarded": 'for=1.2.3.4;host="other.example:443"'},
    ],
)
async def test_a_host_that_is_not_the_one_that_was_forwarded_is_refused(house: House, headers: dict[str, str]) -> None:
    assert (await asked(house, PUBLIC, headers)).status_code == 500


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": f"{PUBLIC}:443"},
        {"X-Forwarded-Host": f"{PUBLIC.upper()}, inner.example"},
        {"Forwarded": f"for=1.2.3.4;host={PUBLIC};proto=http"},
        {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "http"},
    ],
)
async def test_a_host_that_was_forwarded_is_used_and_the_setting_is_advised_once(
    house: House, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    for _ in range(2):
        accepted = await asked(house, PUBLIC, headers)
        assert accepted.headers["Content-Location"].startswith(f"http://{PUBLIC}/fhir/")
    ((level, _),) = said(caplog)
    assert level == "WARNING"


async def test_each_contradiction_is_logged_once_and_never_with_what_a_client_sent(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        forged = {"X-Forwarded-Proto": f"forged{number}", "X-Forwarded-Prefix": f"/forged{number}"}
        await asked(house, PUBLIC, forged, root_path="/tenants")
        await asked(house, PUBLIC, {"X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/tenants/"}, root_path="/tenants")
    found = said(caplog)
    assert [message.count("X-Forwarded-") for _, message in found] == [2, 0]
    assert "forged" not in caplog.text


@pytest.mark.parametrize(("client", "level"), [("127.0.0.1", "INFO"), ("172.17.0.1", "WARNING")])
async def test_a_client_that_asks_by_a_loopback_name_gets_urls_with_it_and_the_log_says_that_others_cannot_use_them(
    house: House, caplog: pytest.LogCaptureFixture, client: str, level: str
) -> None:
    for _ in range(2):
        accepted = await asked(house, "localhost:8000", client=client)
        assert accepted.headers["Content-Location"].startswith("http://localhost:8000/fhir/")
    ((found, message),) = said(caplog)
    assert found == level
    assert "loopback" in message


async def test_a_client_that_asks_directly_by_any_other_name_is_not_remarked_on(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for host in (PUBLIC, "backend", "10.0.0.7:8000"):
        assert (await asked(house, host)).status_code == 202
    assert said(caplog) == []
