"""The processes of a chaos run, and what can be done to them."""

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import chaos_server
from chaos_server import AUDIENCE, ISSUER, Stores

from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.testing.token_mint import TokenMint

SERVERS = 2
_PATIENTS = 60


class Cluster:
    """Some server processes on one STATE, each with a port of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        mint = TokenMint(ISSUER, AUDIENCE)
        mint.save(state / "key.json")
        self.mint = mint
        chaos_server.step(state, 0)
        self.stores = Stores(state)
        self.stores.resources.load(population(_PATIENTS))
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(SERVERS)]
        self.urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        self._servers: list[subprocess.Popen[bytes] | None] = [None] * SERVERS
        self._dying: set[int] = set()
        self._log = (state / "log").open("ab")

    def start(self) -> None:
        """Start each server that does not run."""
        for number, listener in enumerate(self._listeners):
            server = self._servers[number]
            if server is not None and server.poll() is None:
                continue
            _let_go(server)
            path = os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)])
            self._servers[number] = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("chaos_server.py")), str(self.state), str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    @property
    def audit(self) -> Path:
        """The audit file of all servers and workers."""
        return self.state / "audit.jsonl"

    def close(self) -> None:
        """End everything."""
        for server in self._servers:
            if server is not None:
                with suppress(ProcessLookupError):
                    os.kill(server.pid, signal.SIGCONT)
                server.terminate()
        for server in self._servers:
            if server is not None:
                try:
                    server.wait(15)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()
            _let_go(server)
        for listener in self._listeners:
            listener.close()
        self.stores.resources.close()
        self.stores.jobs.close()
        self._log.close()

    def servers(self) -> list[int]:
        """Process ids."""
        return [server.pid for server in self._servers if server is not None and server.poll() is None]

    def workers(self) -> list[int]:
        """Process ids of the workers of our servers, those included whose server is gone."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                environment = (entry / "environ").read_bytes()
                if b"workers.process" in (entry / "cmdline").read_bytes() and str(Path(__file__).parent).encode() in environment:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent in self.servers():
                        found.append(pid)
        return sorted(found)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal, unless it has gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill_server(self, pid: int) -> None:
        """With `kill -9`, and remember that it will be gone."""
        self.signal(pid, signal.SIGKILL)
        self._dying |= {pid}

    def bury(self) -> None:
        """Wait until those that were killed are gone."""
        for server in self._servers:
            if server is not None and server.pid in self._dying:
                server.wait(30)

    def limit(self, pid: int, size: int) -> None:
        """Let no file that this process writes become larger, -1 for no limit: a disk that is full, as far as it can tell."""
        with suppress(ProcessLookupError, PermissionError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep everybody from writing to a database."""
        connection = sqlite3.connect(self.state / name, timeout=30, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.rollback()
            connection.close()

    def step(self, seconds: float) -> None:
        """Set everybody's clock so much ahead of the machine's."""
        chaos_server.step(self.state, seconds)

    def files(self) -> set[str]:
        """What lies in the output store."""
        folder = self.state / "exports"
        # `os.walk` passes over folders that are removed meanwhile.
        found = (Path(above) / name for above, _, names in os.walk(folder) for name in names)
        return {str(path.relative_to(folder)) for path in found if path.parent != folder}

    def linked(self, job_ids: set[str]) -> int:
        """How many files of these jobs are links to files of others."""
        with sqlite3.connect(self.state / "jobs.db", timeout=30) as connection:
            rows = connection.execute("SELECT job_id FROM part WHERE written_as <> key").fetchall()
        connection.close()
        return sum(job_id in job_ids for (job_id,) in rows)

    def known_files(self) -> set[str]:
        """What the rows of jobs with a result, or with work left, know of; and the lists of references that such jobs may have.

        A worker that is killed just after it completed a job leaves its lists, which go when the job expires.
        """
        with sqlite3.connect(self.state / "jobs.db", timeout=30) as connection:
            rows = connection.execute(
                "SELECT part.key FROM part JOIN job ON job.id = part.job_id WHERE job.state IN ('queued', 'running', 'completed')"
            ).fetchall()
            jobs = connection.execute("SELECT id FROM job WHERE state IN ('queued', 'running', 'completed')").fetchall()
        connection.close()
        working = {job_id for (job_id,) in jobs}
        lists = {file for file in self.files() if file.endswith(".list") and file.partition("/")[0] in working}
        return {key for (key,) in rows} | lists


def _let_go(server: subprocess.Popen[bytes] | None) -> None:
    """Close the pipe to a server that has ended."""
    if server is not None and server.stdin is not None:
        with suppress(BrokenPipeError):
            server.stdin.close()
