"""Server processes for the host table: one of the small hosts, under one of the servers, alone or with us."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from waiting import PATIENCE

__all__ = ["SERVERS", "Served", "served"]

SERVERS = {
    "uvicorn": ["uvicorn", "attached_clinic:application", "--port", "{port}"],
    "hypercorn": ["hypercorn", "attached_clinic:application", "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", "attached_clinic:application", "--interface", "asgi", "--port", "{port}"],
    "gunicorn": ["gunicorn", "attached_clinic:application", "--worker-class", "asgi", "--bind", "127.0.0.1:{port}"],
}
"""The command of each server, with one process that serves."""


@dataclass
class Served:
    """A server that runs."""

    port: int
    folder: Path
    process: "subprocess.Popen[bytes]"

    def noted(self) -> list[str]:
        """What the host has noted of its lifespan."""
        log = self.folder / "log"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def workers(self) -> set[int]:
        """The worker processes that this server keeps."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = f"FOLDER={self.folder}\0".encode() in (entry / "environ").read_bytes()
                if ours and b"workers.process" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
        return found

    def stop(self) -> None:
        """Stop the server as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


@contextmanager
def served(host: str, server: str, way: str, folder: Path) -> Iterator[Served]:
    """Serve a host until the context ends; from when it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = [str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *(part.format(port=port) for part in SERVERS[server])],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "FOLDER": str(folder), "HOST": host, "WAY": way}
            | {"PYTHONHASHSEED": "0"},  # Starlette's `Allow` has the order of a set
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(port, process, folder)
        yield Served(port, folder, process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


def _wait(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, (folder / "output").read_text()
        assert time.monotonic() < end, (folder / "output").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(b"GET /state HTTP/1.1\r\nHost: clinic.example\r\nConnection: close\r\n\r\n")
            if connection.recv(100):
                return
        time.sleep(0.02)
