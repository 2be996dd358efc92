"""Servers on two machines share the jobs of one PostgreSQL: real servers, real workers, and a machine that is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from far_apart import COUNT
from waiting import until

from fhir_bulk_middleware.cli.state import State

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
pytest_plugins = ["postgres_fixtures"]


class Machine:
    """A server and its workers, which share no folder of the machine with others."""

    def __init__(self, url: str, token: str, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def has(self, pid: int) -> bool:
        """Whether a process is a worker of this server."""
        with suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(self.process.pid)
        return False

    def answers(self) -> bool:
        with suppress(httpx2.TransportError):
            return self.http.get("/fhir/nothing").status_code == 404
        return False


@pytest.fixture
def environment(tmp_path: Path, postgres: str, schema: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)])
    shared = {"DSN": postgres, "SCHEMA": schema, "SHARED": str(tmp_path / "shared")}
    return {**os.environ, "PYTHONPATH": path, **shared}


@pytest.fixture
def machine(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[[str], Machine]]:
    (tmp_path / "shared").mkdir()
    token = State(tmp_path / "shared").mint().token("me", "system/*.rs")
    with ExitStack() as stack:

        def started(name: str) -> Machine:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                port = listener.getsockname()[1]
            (tmp_path / name).mkdir()
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--factory", "far_apart:app", "--port", str(port), "--log-level", "warning"],
                env={**environment, "TMPDIR": str(tmp_path / name)},
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            made = Machine(f"http://127.0.0.1:{port}", token, process)
            stack.callback(made.http.close)
            return made

        yield started


async def test_what_one_machine_begins_another_one_goes_on_with(
    machine: Callable[[str], Machine], tmp_path: Path, environment: dict[str, str]
) -> None:
    """Law 18: also when a machine is lost with the slice that its worker holds."""
    one, other = machine("one"), machine("other")
    await until(one.answers)
    await until(other.answers)
    kicked_off = one.http.get("/fhir/$export", headers={"Prefer": "respond-async"})
    assert kicked_off.status_code == 202, kicked_off.text
    location = urlsplit(kicked_off.headers["Content-Location"]).path
    assert other.http.get(location).status_code == 202

    def at_work() -> list[int]:
        return [int(path.name.removeprefix("reached-")) for path in (tmp_path / "shared").glob("reached-*")]

    await until(lambda: {True, False} <= {one.has(pid) for pid in at_work()})
    assert any(other.has(pid) for pid in at_work()), "workers of both machines hold a slice"

    listed = await anyio.run_process(
        [sys.executable, "-m", "fhir_bulk_middleware.cli", "jobs", "--app", "far_apart:bulk", "--json"], env=environment
    )
    (shown,) = json.loads(listed.stdout)
    assert shown["id"] in location

    for pid in [*filter(one.has, at_work()), one.process.pid]:
        os.kill(pid, signal.SIGKILL)
    one.process.wait()
    (tmp_path / "shared" / "open").touch()
    await until(lambda: other.http.get(location).status_code == 200)
    files = other.http.get(location).json()["output"]
    lines = [line for file in files for line in other.http.get(urlsplit(file["url"]).path).text.splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(f"o{number}" for number in range(COUNT))

    deleted = other.http.delete(location)
    assert deleted.status_code == 202
    third = machine("third")
    await until(third.answers)
    assert third.http.get(location).status_code == 404
