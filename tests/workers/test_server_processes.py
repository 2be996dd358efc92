"""Several server processes on one STATE (uvicorn's `--workers`, gunicorn): one pool, shared limits, and any answers for all."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from loopback import NO_TLS
from waiting import PATIENCE

from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.demo.population import population

KICK_OFF = {"Prefer": "respond-async"}


@dataclass
class Servers:
    url: str
    state: State
    token: str

    def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """On a connection of its own, so that the kernel chooses who answers."""
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        with httpx2.Client(headers=headers, timeout=PATIENCE, verify=NO_TLS) as http:
            return http.request(method, f"{self.url}{path}")

    def pools(self) -> dict[int, int]:
        """By server process, how many workers it keeps."""
        found: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            try:
                if b"workers.process" not in (entry / "cmdline").read_bytes():
                    continue
                if str(self.state.folder).encode() not in (entry / "environ").read_bytes():
                    continue
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            found[parent] = found.get(parent, 0) + 1
        return found


PROCESSES = 4
SERVERS = {
    "uvicorn": ["uvicorn", "--factory", "served:app", "--workers", str(PROCESSES), "--log-level", "warning"],
    "gunicorn": ["gunicorn", "served:app()", "--workers", str(PROCESSES), "--worker-class", "uvicorn_worker.UvicornWorker"],
    "gunicorn, the application made before the fork": [
        *["gunicorn", "served:app()", "--workers", str(PROCESSES), "--worker-class", "uvicorn_worker.UvicornWorker", "--preload"]
    ],
}


@pytest.fixture(params=[pytest.param(name, marks=() if name == "uvicorn" else pytest.mark.long) for name in SERVERS])
def servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    state = State(tmp_path / "state")
    state.load("a population of 20 patients", population(patients=20), lambda _: None)
    token = state.mint().token("me", "system/*.rs")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *(entry or str(Path.cwd()) for entry in sys.path)])
    program = SERVERS[request.param]
    listen = ["--bind", f"127.0.0.1:{port}"] if program[0] == "gunicorn" else ["--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *program, *listen],
            env={**os.environ, "PYTHONPATH": path, "STATE": str(state.folder)},
            stdout=log,
            stderr=log,
        )
    found = Servers(f"http://127.0.0.1:{port}", state, token)
    try:
        _all(found)
        yield found
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _all(servers: Servers) -> None:
    """Wait until all processes answer."""
    seen: set[str] = set()
    end = time.monotonic() + PATIENCE
    while len(seen) < PROCESSES:
        assert time.monotonic() < end, f"{PROCESSES} processes did not come up"
        try:
            seen.add(servers.ask("GET", "/process").text)
        except httpx2.TransportError:
            time.sleep(0.05)


def _until_complete(servers: Servers, location: str) -> httpx2.Response:
    end = time.monotonic() + PATIENCE
    while (answer := servers.ask("GET", location)).status_code in {202, 429}:
        assert time.monotonic() < end, "the export did not end"
        time.sleep(0.05)
    return answer


@pytest.mark.timeout(900)
def test_several_server_processes_are_one_service(servers: Servers) -> None:
    locations = [urlsplit(servers.ask("GET", "/fhir/$export", **KICK_OFF).headers["Content-Location"]).path for _ in range(3)]
    refused = [servers.ask("GET", "/fhir/$export", **KICK_OFF).status_code for _ in range(6)]
    # Quick as they are, all three may have ended by then; what must not be is a fourth beside three that run.
    running = sum(servers.ask("GET", location).status_code == 202 for location in locations)
    assert 429 in refused or running < 3, "a limit on jobs holds across processes"
    pools = servers.pools()
    assert (len(pools), sum(pools.values())) == (1, 2), f"one pool of two workers, whoever keeps it: {pools}"
    for location in locations:
        answers = [_until_complete(servers, location).json()["output"] for _ in range(4)]
        assert all(answer == answers[0] for answer in answers), "all processes show the same manifest"
        counted = sum(item["count"] for item in answers[0])
        assert counted == len(list(population(patients=20))), "each slice counts once"
    path = urlsplit(answers[0][0]["url"]).path
    assert {servers.ask("GET", path).status_code for _ in range(6)} == {200}
    assert servers.ask("DELETE", locations[-1]).status_code == 202
    assert {servers.ask("GET", gone).status_code for _ in range(6) for gone in (path, locations[-1])} == {404}
