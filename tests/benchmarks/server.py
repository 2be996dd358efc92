"""A server process for some scenarios, and what a client does with it."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.testing.token_mint import TokenMint

from .data import Data
from .load import Load
from .served import AUDIENCE, ISSUER

__all__ = ["SUBJECT", "Server", "environment", "memory", "serve"]

SUBJECT = "benchmark"
_POLL = 0.005
_NICENESS = Settings().worker_niceness


@dataclass(slots=True)
class Server:
    """A server that runs.

    Attributes:
        port: on loopback.
        folder: what it keeps.
        token: one that may export everything.
        process: the process.
        others: tokens of other owners.
    """

    port: int
    folder: Path
    token: str
    process: "subprocess.Popen[bytes]"
    others: tuple[str, ...] = ()
    _connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def ask(self, method: str, path: str, prefer: str = "respond-async") -> tuple[int, dict[str, str], bytes]:
        """One request on the connection that is kept."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/fhir+json", "Prefer": prefer}
        self._connection.request(method, path, headers=headers)
        response = self._connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def kick_off(self, path: str = "/fhir/$export") -> str:
        """Begin an export; the path to poll."""
        status, headers, body = self.ask("GET", path)
        if status != 202:
            raise RuntimeError(f"the kick-off was answered with {status}: {body!r}")
        return urlsplit(headers["content-location"]).path

    def wait(self, path: str) -> dict[str, Any]:
        """Poll until the export is complete; its manifest."""
        while True:
            status, _, body = self.ask("GET", path)
            if status == 200:
                return dict(json.loads(body))
            if status != 202:
                raise RuntimeError(f"the poll was answered with {status}: {body!r}")
            time.sleep(_POLL)

    def wait_as_told(self, path: str, prefer: str) -> dict[str, Any]:
        """Poll no sooner than `Retry-After` says until the export is complete; its manifest."""
        while True:
            status, headers, body = self.ask("GET", path, prefer)
            if status == 200:
                return dict(json.loads(body))
            if status != 202:
                raise RuntimeError(f"the poll was answered with {status}: {body!r}")
            time.sleep(int(headers["retry-after"]))

    def load(self, path: str, *, token: bool, connections: int = 32, seconds: float = 2, core: int | None = None) -> Load:
        """Load from another process."""
        command = [sys.executable, "-m", f"{__package__}.load", str(self.port), path, self.token if token else ""]
        ran = subprocess.run(
            [*command, str(connections), str(seconds), "-" if core is None else str(core)],
            env=environment(),
            stdout=subprocess.PIPE,
            check=True,
        )
        return Load(**json.loads(ran.stdout))

    def pin(self, core: int | None) -> Self:
        """Keep the server on one core, or on any."""
        cores = os.sched_getaffinity(0)
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores if core is None else {core})
        return self


@contextmanager
def serve(data: Data, folder: Path, *, workers: int, ready: bool = True, niceness: int = _NICENESS) -> Generator[Server]:
    """Serve a store while the context is open.

    Args:
        data: the store.
        folder: for jobs and files.
        workers: the number of worker processes.
        ready: whether to wait until they are ready, or only until the server answers.
        niceness: theirs; by default as of every server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mint = TokenMint(ISSUER, AUDIENCE)
    (folder / "jwks.json").write_text(json.dumps(mint.jwks))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        port, fd = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.served", str(folder), str(data.store), str(fd), str(workers), str(niceness)],
            env=environment(),
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
        )
    token, *others = (mint.token(name, "system/*.rs", expires_in=24 * 3600) for name in (SUBJECT, *map(str, range(16))))
    server = Server(port, folder, token, process, tuple(others))
    try:
        server.ask("GET", "/bare")
        while ready and workers and len(list((folder / "runner" / "workers").glob("*"))) < workers:
            time.sleep(0.01)
        yield server
    finally:
        process.terminate()
        process.wait()


def memory(parent: int) -> dict[int, float]:
    """The most memory that a process and its children ever had resident, in MB, by process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            continue
        if "VmHWM" in lines and parent in {int(lines["Pid"]), int(lines["PPid"])}:
            found[int(lines["Pid"])] = int(lines["VmHWM"].split()[0]) / 1000
    return found


def environment() -> dict[str, str]:
    """What a process of the benchmarks inherits."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
