"""The bulk client, against a scripted server: what it asks, how it waits, and that it believes nothing unchecked."""

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fhir_bulk_middleware.demo.client import BulkClient, InProgress, Unexpected
from fhir_bulk_middleware.demo.manifest_reading import Manifest

pytestmark = pytest.mark.anyio

LINES = b'{"resourceType":"Patient","id":"1"}\n{"resourceType":"Patient","id":"2"}\n'


def manifest(**file: Any) -> dict[str, Any]:
    facts = {"type": "Patient", "url": "http://ehr/file", "count": 2, "size": len(LINES), **file}
    facts.setdefault("extension", {"sha256": hashlib.sha256(LINES).hexdigest()})
    return {
        "transactionTime": "2026-01-01T00:00:00Z",
        "request": "http://ehr/$export",
        "requiresAccessToken": True,
        "output": [facts],
        "error": [],
    }


class Server:
    """Gives the scripted answers, one after the other, and remembers what it was asked."""

    def __init__(self, *answers: Response) -> None:
        self.asked: list[Request] = []
        self._answers = list(answers)

    def client(self, sleep: Callable[[float], Awaitable[None]] | None = None) -> BulkClient:
        async def answer(request: Request) -> Response:
            self.asked.append(request)
            return self._answers.pop(0)

        app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "DELETE"])])
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr")
        return BulkClient(http, lambda: "secret", sleep=sleep) if sleep else BulkClient(http, lambda: "secret")


async def test_a_kick_off_asks_for_an_asynchronous_answer_with_the_token() -> None:
    server = Server(Response(status_code=202, headers={"content-location": "http://ehr/status/1"}))

    status_url = await server.client().kick_off("/$export", {"_type": "Patient"})

    (request,) = server.asked
    assert status_url == "http://ehr/status/1"
    assert request.url.query == "_type=Patient"
    assert {name: request.headers[name] for name in ("prefer", "accept", "authorization")} == {
        "prefer": "respond-async",
        "accept": "application/fhir+json",
        "authorization": "Bearer secret",
    }


async def test_a_refusal_is_told_in_the_servers_words() -> None:
    issue = {"severity": "error", "code": "invalid", "diagnostics": "_since is no instant"}
    server = Server(JSONResponse({"resourceType": "OperationOutcome", "issue": [issue]}, 400))

    with pytest.raises(Unexpected, match="400 Bad Request: _since is no instant") as caught:
        await server.client().kick_off("/$export")

    assert caught.value.status == 400


async def test_it_waits_as_long_as_the_server_asks_and_stops_at_the_manifest() -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    server = Server(
        Response(status_code=202, headers={"x-progress": "10 %", "retry-after": "3"}),
        Response(status_code=429, headers={"retry-after": "20"}),
        Response(status_code=202),
        JSONResponse(manifest()),
    )

    answers = [answer async for answer in server.client(sleep).wait("http://ehr/status/1")]

    assert answers[0] == InProgress("10 %", 3.0)
    assert isinstance(answers[-1], Manifest)
    assert waited == [3.0, 20.0, 1.0]


async def test_a_retry_after_may_be_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = format_datetime(now.replace(second=30), usegmt=True)
    server = Server(Response(status_code=202, headers={"retry-after": later}))

    with time_machine.travel(now, tick=False):
        answer = await server.client().poll("http://ehr/status/1")

    assert answer == InProgress("", 30.0)


async def test_a_failed_export_ends_the_waiting() -> None:
    server = Server(Response("out of memory", status_code=500))

    with pytest.raises(Unexpected, match="out of memory"):
        [answer async for answer in server.client().wait("http://ehr/status/1")]


async def test_cancelling_what_is_gone_is_an_error() -> None:
    server = Server(Response(status_code=202), Response(status_code=404))
    client = server.client()

    await client.cancel("http://ehr/status/1")
    with pytest.raises(Unexpected, match="404"):
        await client.cancel("http://ehr/status/1")


@pytest.mark.parametrize("zipped", [True, False])
async def test_a_file_that_is_as_promised_gets_its_name(tmp_path: Path, zipped: bool) -> None:
    body = gzip.compress(LINES) if zipped else LINES
    server = Server(Response(body, headers={"content-encoding": "gzip"} if zipped else {}))
    progress: list[int] = []

    (file,) = await server.client().fetch(Manifest.of(manifest()), tmp_path / "out", progress=progress.append)

    assert file.path == tmp_path / "out" / "Patient-001.ndjson"
    assert file.path.read_bytes() == LINES
    assert (file.problems, file.count, file.size, file.transferred) == ((), 2, len(LINES), len(body))
    assert sum(progress) == len(LINES)
    assert server.asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"count": 3}, "lines: 2, the manifest says 3"),
        ({"size": 1}, f"bytes: {len(LINES)}, the manifest says 1"),
        ({"extension": {"sha256": "0"}}, f"sha256: {hashlib.sha256(LINES).hexdigest()}, the manifest says 0"),
    ],
)
async def test_a_file_that_is_not_as_promised_is_kept_apart(tmp_path: Path, wrong: dict[str, Any], problem: str) -> None:
    (file,) = await Server(Response(LINES)).client().fetch(Manifest.of(manifest(**wrong)), tmp_path)

    assert file.problems == (problem,)
    assert file.path == tmp_path / "Patient-001.ndjson.part"


async def test_a_refused_file_ends_the_fetching(tmp_path: Path) -> None:
    document = manifest()
    document["output"] = document["output"] * 2
    server = Server(Response("gone", status_code=404), Response("gone", status_code=404))

    with pytest.raises(Unexpected, match="404 Not Found: gone"):
        await server.client().fetch(Manifest.of(document), tmp_path)


async def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    (file,) = await Server(Response(LINES[:-1])).client().fetch(Manifest.of(manifest(count=3)), tmp_path)

    assert file.count == 2


async def test_no_token_goes_to_files_that_want_none(tmp_path: Path) -> None:
    server = Server(Response(LINES))

    await server.client().fetch(Manifest.of(manifest() | {"requiresAccessToken": False}), tmp_path)

    assert "authorization" not in server.asked[0].headers


async def test_what_the_server_calls_a_type_leads_nowhere_else(tmp_path: Path) -> None:
    (file,) = await Server(Response(LINES)).client().fetch(Manifest.of(manifest(type="../../etc/passwd")), tmp_path)

    assert file.path == tmp_path / "resources-001.ndjson"


async def test_files_keep_the_manifests_order_however_many_connections_fetch_them(tmp_path: Path) -> None:
    document = manifest()
    document["output"] = document["output"] * 5

    files = await Server(*(Response(LINES) for _ in range(5))).client().fetch(Manifest.of(document), tmp_path, connections=3)

    assert [file.path.name for file in files] == [f"Patient-00{number}.ndjson" for number in range(1, 6)]


async def test_a_manifest_without_its_required_fields_is_none() -> None:
    with pytest.raises(KeyError):
        Manifest.of({"output": []})


async def test_a_manifest_may_go_on_elsewhere() -> None:
    assert Manifest.of(manifest() | {"link": [{"relation": "next", "url": "http://ehr/2"}]}).next == "http://ehr/2"


async def test_size_and_digest_are_found_in_extensions_of_either_form() -> None:
    url = "https://server.example/extension"
    old = {"size": 7, "sha256": "d1"}
    new = [{"url": f"{url}/size", "valueInteger64": 7}, {"url": f"{url}/sha256", "valueString": "d1"}]

    for form in (old, new):
        document = manifest(extension=form)
        del document["output"][0]["size"]
        (file,) = Manifest.of(document).files
        assert (file.size, file.sha256) == (7, "d1")
