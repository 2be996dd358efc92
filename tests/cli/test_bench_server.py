"""`fhir-bulk bench --server`: measures any bulk data server from outside."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from house import AUDIENCE, ISSUER, people
from loopback import free_socket, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, MemoryJobStore, MemoryOutputStore, Settings
from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import LoopRunner


@pytest.fixture
def server(mint: TokenMint) -> Iterator[str]:
    """A mount with some people, on loopback."""
    resources = MemoryResourceStore()
    for resource in people():
        anyio.run(resources.create, resource["resourceType"], resource, resource["id"])
    listener = free_socket()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    made = BulkData(
        resources=resources,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        runner=LoopRunner(),
        settings=Settings(public_base_url=base),
    )
    with served(made.app, listener, longest=None):
        yield base


@pytest.fixture
def token(mint: TokenMint, tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text(mint.token("alice", "system/*.rs", expires_in=3600) + "\n")
    return str(file)


def test_each_round_is_an_export_that_was_downloaded_and_counted(
    server: str, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pid = str(os.getpid())

    assert (
        main(["bench", "--server", server, "--token-file", token, "--rounds", "2", "--pid", pid, "--out", str(out), "--json"])
        == 0
    )

    found = json.loads(capsys.readouterr().out)
    assert (found["server"], found["request"]) == (server, "$export")
    rounds = found["rounds"]
    assert [one["resources"] for one in rounds] == [len(people())] * 2
    for one in rounds:
        assert one["polls"] >= 1
        assert one["problems"] == 0
        assert one["transferred"] > 0
        assert min(one["kick_off"], one["manifest"], one["download"], one["client_cpu"], one["server_peak"]) > 0
        assert one["server_cpu"] >= 0
    assert list(out.iterdir()) == [], "downloads are removed"


def test_people_see_a_table_of_medians_and_extremes(server: str, token: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bench", "--server", server, "--token-file", token, "--request", "Patient/$export?_type=Patient", "--rounds", "1"])
        == 0
    )

    told = " ".join(capsys.readouterr().out.split())
    for name in ("kick-off answered, ms", "kick-off to manifest, s", "resources/s", "this client's CPU, s"):
        assert name in told
    assert "server's" not in told, "without a process nothing is said of it"


def test_two_servers_are_shown_side_by_side(server: str, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(another_server(3), longest=None) as base:
        assert main(["bench", "--server", base, "--json"]) == 0
    other = tmp_path / "other.json"
    measured = json.loads(capsys.readouterr().out)
    for one, seconds in zip(measured["rounds"], (3_000.0, 5_000.0, 4_000.0), strict=True):
        one["download"] = seconds  # no server of this machine takes as long
    other.write_text(json.dumps(measured))

    assert main(["bench", "--server", server, "--token-file", token, "--rounds", "2", "--beside", str(other)]) == 0

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    (resources,) = [line for line in lines if line.startswith("resources ")]
    people_ = len(people())
    assert resources == f"resources {people_} ({people_}-{people_}) 6 (6-6) {people_ / 6:.2f}"
    (download,) = [line for line in lines if line.startswith("download, s")]
    assert "4,000.000 (3,000.000-5,000.000) 0.00" in download
    (difference,) = [line for line in lines if line.startswith("differences from the manifest")]
    assert difference.endswith("0 0")


def test_where_the_rounds_of_two_servers_overlap_there_is_no_ratio(
    server: str, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "same.json"
    assert main(["bench", "--server", server, "--token-file", token, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    for one, seconds in zip(measured["rounds"], (0.0, 5_000.0, 1.0), strict=True):
        one["download"] = seconds
    other.write_text(json.dumps(measured))

    assert main(["bench", "--server", server, "--token-file", token, "--beside", str(other)]) == 0

    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[-1] for line in told if line.startswith(("download, s", "resources "))] == ["unclear", "same"]


def test_a_token_may_come_from_the_environment(
    server: str, token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BULK_DATA_TOKEN", Path(token).read_text().strip())
    assert main(["bench", "--server", server, "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"][0]["resources"] == len(people())


def test_refusals_are_told_in_the_servers_words(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--server", server]) == 2
    told = capsys.readouterr().err
    assert "202 with a Content-Location expected, got 401" in told
    assert "bearer token" in told


def another_server(count: int) -> Starlette:
    """A server without authorization, whose manifest has two pages and says that each file has `count` lines."""

    async def kick_off(request: Request) -> Response:
        return Response(status_code=202, headers={"Content-Location": f"{request.base_url}status/1"})

    async def status(request: Request) -> Response:
        page = request.path_params["page"]
        document = {
            "transactionTime": "2026-01-01T00:00:00Z",
            "request": str(request.base_url),
            "requiresAccessToken": False,
            "output": [{"type": "Patient", "url": f"{request.base_url}file", "count": count}],
            "error": [],
        }
        if page == 1:
            document["link"] = [{"relation": "next", "url": f"{request.base_url}status/2"}]
        return JSONResponse(document)

    async def file(request: Request) -> Response:
        assert "authorization" not in request.headers
        return PlainTextResponse('{"resourceType":"Patient"}\n' * 3)

    routes = [Route("/$export", kick_off), Route("/status/{page:int}", status), Route("/file", file)]
    return Starlette(routes=routes)


@pytest.mark.parametrize(("count", "code", "problems"), [(3, 0, 0), (4, 1, 2)])
def test_all_pages_of_a_manifest_are_downloaded_and_compared_with_what_it_says(
    capsys: pytest.CaptureFixture[str], count: int, code: int, problems: int
) -> None:
    with served(another_server(count), longest=None) as base:
        assert main(["bench", "--server", base, "--rounds", "1", "--json"]) == code
    (found,) = json.loads(capsys.readouterr().out)["rounds"]
    assert (found["resources"], found["files"], found["problems"]) == (6, 2, problems)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--server", "http://127.0.0.1:1"], "cannot be reached"),
        (["--server", "ehr.example"], "is no URL"),
        (["--server", "http://127.0.0.1:1", "--rounds", "0"], "1 or more is required"),
        (["--server", "http://127.0.0.1:1", "--token-file", "no-such-file"], "no-such-file cannot be read"),
        (["--server", "http://127.0.0.1:1", "--pid", "999999999"], "is no process"),
        (["--server", "http://127.0.0.1:1", "--out", "no-such-folder"], "does not exist"),
        (["--server", "http://127.0.0.1:1", "--beside", "no-such-file"], "no-such-file cannot be read"),
        (["--server", "http://127.0.0.1:1", "--beside", __file__], "is not the output of bench --server --json"),
    ],
)
def test_what_a_person_can_mend_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["bench", *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
