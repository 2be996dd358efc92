"""What goes over the wire: each dialect driven with curl as its document shows it, and downloads resumed by real downloaders."""

import asyncio
import gzip
import hashlib
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from house import House, populate

from fhir_bulk_middleware.dialects import HEALTH_CONNECT_AU, SOARIAN, STANDARD, SUBJECT_BOUND

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed; it is the client under test"),
]


@asynccontextmanager
async def served(house: House) -> AsyncIterator[str]:
    """The house's application on loopback, under a real server; its address."""
    config = uvicorn.Config(house.bulk.app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await anyio.lowlevel.checkpoint()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def curl(*arguments: str | Path) -> bytes:
    """What curl prints."""
    done = await anyio.run_process(["curl", "-sS", "--max-time", "20", *map(str, arguments)])
    return done.stdout


async def exchange(house: House, *arguments: str) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body of one request."""
    raw = await curl("-i", "-H", f"Authorization: Bearer {house.token()}", *arguments)
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


def local(url: str, server: str) -> str:
    """A URL that we handed out, at the address where this test serves it."""
    return url.replace("https://ehr.example/fhir", server)


async def test_the_standard_lifecycle(make_house: Any) -> None:
    """AS-01, AS-02."""
    async with make_house(STANDARD) as house, served(house) as server:
        await populate(house)
        status, headers, body = await exchange(house, "-H", "Prefer: respond-async", f"{server}/$export?_type=Patient")
        assert (status, body) == ("HTTP/1.1 202 Accepted", b"")
        location = local(headers["content-location"], server)
        status, headers, body = await exchange(house, location)
        assert (status, body, headers["x-progress"]) == ("HTTP/1.1 202 Accepted", b"", "Export queued")
        await house.runner.finish()
        status, headers, body = await exchange(house, "-H", "Accept: application/json", location)
        assert (status, headers["content-type"]) == ("HTTP/1.1 200 OK", "application/json")
        url = local(re.findall(r'"url":"([^"]+)"', body.decode())[0], server)
        status, headers, body = await exchange(house, url)
        assert (status, headers["content-type"], len(body.splitlines())) == ("HTTP/1.1 200 OK", "application/fhir+ndjson", 3)
        assert (await exchange(house, "-X", "DELETE", location))[0] == "HTTP/1.1 202 Accepted"
        assert (await exchange(house, url))[0] == "HTTP/1.1 404 Not Found"
        assert (await curl("-i", location)).startswith(b"HTTP/1.1 401 Unauthorized")


async def test_health_connect_au_as_its_pages_show_it(make_house: Any) -> None:
    """GET [base url]/$export-poll-status?_jobId=..., then DELETE of the same."""
    async with make_house(HEALTH_CONNECT_AU) as house, served(house) as server:
        await populate(house)
        _, headers, _ = await exchange(house, "-X", "POST", f"{server}/$export")
        location = local(headers["content-location"], server)
        assert re.fullmatch(rf"{server}/\$export-poll-status\?_jobId=[0-9a-f-]{{36}}", location)
        await house.runner.step()
        status, headers, body = await exchange(house, "-H", "Accept: application/json", location)
        assert (status, body) == ("HTTP/1.1 202 Accepted", b"")
        assert re.fullmatch(r"\d+", headers["retry-after"])
        assert re.fullmatch(r"Search in progress - found [\d,]+ of [\d,]+ resources", headers["x-progress"])
        status, headers, body = await exchange(house, "-X", "DELETE", location)
        assert (status, body) == ("HTTP/1.1 202 Accepted", b"")
        assert (await exchange(house, location))[0] == "HTTP/1.1 404 Not Found"
        status, headers, body = await exchange(house, "-X", "DELETE", location[:-12] + "0" * 12)
        assert status == "HTTP/1.1 400 Bad Request"
        assert b'"diagnostics":"Endpoint artefact not found for the provided job ID."' in body


async def test_soarian_as_its_page_shows_it_but_for_the_verb(make_house: Any) -> None:
    """.../bulk-api/request/{id} with Accept, Authorization and Prefer; a GET never cancels (CD-01)."""
    required = ["-H", "Accept: application/fhir+json", "-H", "Prefer: respond-async"]
    async with make_house(SOARIAN) as house, served(house) as server:
        await populate(house)
        _, headers, _ = await exchange(house, *required, f"{server}/Patient/$export")
        location = local(headers["content-location"], server)
        assert (await exchange(house, *required, location))[0] == "HTTP/1.1 202 Accepted"
        status, headers, body = await exchange(house, *required, "-X", "DELETE", location)
        assert (status, headers["content-type"]) == ("HTTP/1.1 202 Accepted", "application/fhir+json")
        assert headers["opc-request-id"]
        job = location.rpartition("/")[2]
        assert f"Cancellation of Bulkdata request <{job}> has been accepted.\\n\\t\\t\\t\\t\\tCancellation".encode() in body
        status, _, body = await exchange(house, *required, "-X", "DELETE", location)
        assert (status, b'"code":"deleted"' in body) == ("HTTP/1.1 404 Not Found", True)
        status, _, body = await exchange(house, "-H", "Accept: text/html", location)
        assert (status, b'"code":"structure"' in body) == ("HTTP/1.1 406 Not Acceptable", True)


async def test_subject_bound_as_its_page_shows_it(make_house: Any) -> None:
    async with make_house(SUBJECT_BOUND) as house, served(house) as server:
        await populate(house)
        status, headers, body = await exchange(house, f"{server}/Group/both/$export?_type=Patient,Observation")
        assert (status, body) == ("HTTP/1.1 202 Accepted", b"")
        location = local(headers["content-location"], server)
        status, headers, body = await exchange(house, location)
        assert (headers["x-progress"], body) == ("scheduled", b"")
        other = await curl("-i", "-H", f"Authorization: Bearer {house.token('mallory')}", location)
        assert other.startswith(b"HTTP/1.1 404 Not Found")
        assert b'"code":"forbidden"' in other
        await house.runner.finish()
        assert b'"transactionTime":"2026-03-01T12:00:01Z"' in (await exchange(house, location))[2]


@pytest.fixture
async def download(make_house: Any) -> AsyncIterator[tuple[House, str, bytes]]:
    """A file of several MiB on a real server: the house, its URL and its plain content."""
    async with make_house() as house, served(house) as server:
        for number in range(900):
            text = hashlib.sha512(str(number).encode()).hexdigest() * 29
            await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"text": text}]}, f"p{number}")
        house.clock.advance(1)
        location = await house.kick_off()
        await house.runner.finish()
        (item,) = (await house.ask("GET", location)).json()["output"]
        url = local(item["url"], server)
        plain = await curl("-H", f"Authorization: Bearer {house.token()}", url)
        assert hashlib.sha256(plain).hexdigest() == item["extension"]["sha256"]
        yield house, url, plain


@pytest.mark.parametrize("cut", [1, 1_000_000, 1_048_576, 2_500_001])
async def test_curl_resumes_a_plain_download_that_was_cut(download: tuple[House, str, bytes], tmp_path: Path, cut: int) -> None:
    """FR-08: `curl -C -`."""
    house, url, plain = download
    target = tmp_path / "Patient.ndjson"
    target.write_bytes(plain[:cut])
    await curl("-C", "-", "-o", target, "-H", f"Authorization: Bearer {house.token()}", url)

    assert target.read_bytes() == plain


@pytest.mark.parametrize("cut", [1, 300_000])
async def test_curl_resumes_a_gzipped_download_that_was_cut(download: tuple[House, str, bytes], tmp_path: Path, cut: int) -> None:
    house, url, plain = download
    headers = ["-H", f"Authorization: Bearer {house.token()}", "-H", "Accept-Encoding: gzip"]
    whole = await curl(*headers, url)
    target = tmp_path / "Patient.ndjson.gz"
    target.write_bytes(whole[:cut])
    await curl("-C", "-", "-o", target, *headers, url)

    assert target.read_bytes() == whole
    assert gzip.decompress(whole) == plain


@pytest.mark.skipif(shutil.which("aria2c") is None, reason="aria2c is not installed")
async def test_aria2_downloads_in_pieces_at_the_same_time(download: tuple[House, str, bytes], tmp_path: Path) -> None:
    house, url, plain = download
    token = f"--header=Authorization: Bearer {house.token()}"
    pieces = ["-x4", "-s4", "-k1M", "--min-split-size=1M", "--file-allocation=none", "--quiet"]
    await anyio.run_process(["aria2c", *pieces, token, "-d", str(tmp_path), "-o", "file", url], check=True)

    assert (tmp_path / "file").read_bytes() == plain
