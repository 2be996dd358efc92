"""Polls that one server process holds open while another process ends their job: a worker, another server (law 19, ST-09)."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from loopback import NO_TLS

from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.jobs.endings import Endings
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore

HELD = 120
"""For how many seconds a poll is held here at most: four times as long as otherwise, so that slow workers are no lost wake-up."""
SOON = HELD - 1
"""Seconds in which even a busy machine answers, and less than a poll is held."""
_PATIENCE = HELD + 30


@dataclass
class Server:
    url: str
    token: str
    process: "subprocess.Popen[bytes]"

    def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        with httpx2.Client(headers=headers, timeout=_PATIENCE, verify=NO_TLS) as http:
            return http.request(method, f"{self.url}{path}")

    def kick_off(self) -> str:
        answer = self.ask("GET", "/fhir/$export", Prefer="respond-async")
        assert answer.status_code == 202, answer.text
        return urlsplit(answer.headers["Content-Location"]).path

    def poll(self, location: str) -> tuple[httpx2.Response, float]:
        """The answer to a poll that may be held for `HELD` seconds, and how long it took."""
        begun = time.monotonic()
        answer = self.ask("GET", location, Prefer=f"wait={HELD}")
        return answer, time.monotonic() - begun


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers on one STATE, which is known by whom a poll is woken: nobody looks by himself."""
    state = State(tmp_path / "state")
    state.load("a population of 3 patients", population(patients=3), lambda _: None)
    token = state.mint().token("me", "system/*.rs")
    path = os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "STATE": str(state.folder), "LOOK": "3600", "HOLD": f"{HELD}"}
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))

        def started(**more: str) -> Server:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                port = listener.getsockname()[1]
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--factory", "holding:app", "--port", str(port), "--log-level", "warning"],
                env={**environment, **more},
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            server = Server(f"http://127.0.0.1:{port}", token, process)
            _until(lambda: _answers(server))
            return server

        yield started


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for polls that are held."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def _answers(server: Server) -> bool:
    try:
        return server.ask("GET", "/fhir/nothing").status_code == 404
    except httpx2.TransportError:
        return False


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def _arrived(server: Server, poll: "Future[tuple[httpx2.Response, float]]") -> None:
    """Let a poll that was sent before reach the server: it has answered requests that came later."""
    for _ in range(20):
        _answers(server)
    assert not poll.done(), "the poll was answered at once"


@pytest.mark.timeout(400)
def test_workers_wake_the_polls_of_every_server(start: Start, beside: ThreadPoolExecutor) -> None:
    servers = [start(), start()]
    for turn in range(10):
        location = servers[turn % 2].kick_off()
        polls = [beside.submit(server.poll, location) for server in servers]
        for answer, seconds in (poll.result(_PATIENCE) for poll in polls):
            assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, f"wait={HELD}")
            assert seconds < SOON, "nobody woke the poll"


@pytest.mark.timeout(400)
def test_a_cancel_in_one_server_answers_a_poll_in_another(start: Start, beside: ThreadPoolExecutor) -> None:
    one, other = start(IDLE="1"), start(IDLE="1")
    location = one.kick_off()
    poll = beside.submit(one.poll, location)
    _arrived(one, poll)
    assert other.ask("DELETE", location).status_code == 202

    answer, seconds = poll.result(_PATIENCE)
    assert answer.status_code == 404
    assert seconds < SOON


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_server_that_is_asked_to_stop_does_not_wait_for_the_polls_that_it_holds(
    start: Start, beside: ThreadPoolExecutor, number: signal.Signals
) -> None:
    server = start(IDLE="1")
    location = server.kick_off()
    poll = beside.submit(server.poll, location)
    _arrived(server, poll)
    server.process.send_signal(number)

    answer, seconds = poll.result(_PATIENCE)
    assert answer.status_code == 202
    assert seconds < SOON
    server.process.wait(SOON)


@pytest.mark.timeout(400)
def test_a_killed_server_leaves_nothing_that_keeps_others_from_being_woken(start: Start) -> None:
    dead = start(IDLE="1")
    location = dead.kick_off()
    dead.process.kill()
    dead.process.wait()
    alive = start()

    answer, seconds = alive.poll(location)
    assert answer.status_code == 200
    assert seconds < SOON


def test_the_pipes_of_a_job_store_are_in_one_folder_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of jobs are not sent through a folder into which everybody may put pipes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jobs = SQLiteJobStore(tmp_path / "jobs.db")
    folder = Endings.of(jobs).folder

    assert folder is not None
    assert folder == Endings.of(SQLiteJobStore(tmp_path / "jobs.db")).folder
    assert folder != Endings.of(SQLiteJobStore(tmp_path / "others.db")).folder
    assert folder.parent == tmp_path
