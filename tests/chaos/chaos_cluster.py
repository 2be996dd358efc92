"""The processes of a chaos run, and what can be done to them."""

import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from chaos_server import AUDIENCE, ISSUER
from chaos_sites import Site

from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.testing.token_mint import TokenMint

SERVERS = 2
_PATIENTS = 60


class Cluster:
    """Some server processes on one STATE, each with a port of its own, and workers."""

    def __init__(self, state: Path, site: Site) -> None:
        self.state = state
        self.site = site
        mint = TokenMint(ISSUER, AUDIENCE)
        mint.save(state / "key.json")
        self.mint = mint
        self.stores = site.stores
        self.stores.resources.load(population(_PATIENTS))
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(SERVERS)]
        self.urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        self._servers: list[subprocess.Popen[bytes] | None] = [None] * SERVERS
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * site.workers
        self._dying: set[int] = set()
        self._log = (state / "log").open("ab")

    def start(self) -> None:
        """Start each server that does not run, and each worker that no server keeps."""
        for number, listener in enumerate(self._listeners):
            if not _runs(self._servers[number]):
                self._servers[number] = self._started(str(listener.fileno()), [listener.fileno()])
        for number, worker in enumerate(self._workers):
            if not _runs(worker):
                self._workers[number] = self._started("worker", [])

    def _started(self, what: str, descriptors: list[int]) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)])
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("chaos_server.py")), str(self.state), what],
            pass_fds=descriptors,
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
        """End all processes."""
        ours = [process for process in (*self._servers, *self._workers) if process is not None]
        for process in ours:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.terminate()
        for process in ours:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _let_go(process)
        for listener in self._listeners:
            listener.close()
        self._log.close()

    def servers(self) -> list[int]:
        """Process ids."""
        return [server.pid for server in self._servers if server is not None and server.poll() is None]

    def workers(self) -> list[int]:
        """Process ids of our workers, and of those of our servers."""
        if self._workers:
            return [worker.pid for worker in self._workers if worker is not None and worker.poll() is None]
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

    def linked(self, job_ids: set[str]) -> int:
        """How many files of these jobs are links to files of others."""
        rows = self.site.rows("SELECT job_id FROM part WHERE written_as <> key")
        return sum(job_id in job_ids for (job_id,) in rows)

    def known_files(self) -> set[str]:
        """What the rows of jobs with a result, or with work left, know of; and the lists of references that such jobs may have.

        A worker that is killed just after it completed a job leaves its lists, which go when the job expires.
        """
        rows = self.site.rows(
            "SELECT part.key FROM part JOIN job ON job.id = part.job_id WHERE job.state IN ('queued', 'running', 'completed')"
        )
        jobs = self.site.rows("SELECT id FROM job WHERE state IN ('queued', 'running', 'completed')")
        working = {job_id for (job_id,) in jobs}
        lists = {file for file in self.site.files() if file.endswith(".list") and file.partition("/")[0] in working}
        return {key for (key,) in rows} | lists


def _runs(process: "subprocess.Popen[bytes] | None") -> bool:
    """Whether a process runs; if it has ended, the pipe to it is closed."""
    if process is not None and process.poll() is None:
        return True
    _let_go(process)
    return False


def _let_go(process: "subprocess.Popen[bytes] | None") -> None:
    """Close the pipe to a process that has ended."""
    if process is not None and process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
