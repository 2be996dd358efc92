"""The pool of worker processes of a folder and adapter, shared by any number of server processes (law 19).

Guarantees when processes stop answering:

- When a server ends, in any way, its workers end too (their stdin closes), and another server on the folder starts workers a
  quarter of a second later.
- A server that is stopped (`SIGSTOP`, a debugger, a frozen virtual machine) holds its lease on the pool for half of
  `lease_seconds` of silence. Then another server, or `fhir-bulk worker`, takes over: it ends the workers of the old pool, gives
  back what they held, and starts its own. When the stopped server continues, it notices that and stands by.
- A worker that is stopped is killed after the same time, by its server or by the one that takes over. If it was stopped within a
  write transaction, it kept SQLite's write lock until then, and requests that write were answered 503. The transaction is
  rolled back.
- A *server* that is stopped within a write transaction of its own (some milliseconds: a kick-off, a cancel) keeps that lock until
  an operator continues or ends it, because it is the host's process. Reads and polls go on, writes are answered 503, and the log
  of the server that took over names the process.

Ending the workers of another server needs Linux (`/proc`, pidfds) and a shared process namespace: with several containers on one
folder, an operator must end a frozen container.
"""

import logging
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import anyio
from anyio.abc import Process, TaskGroup

from fhir_bulk_middleware.contract.running import Recipe, Work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.fencing import fence, is_alive, is_stopped
from fhir_bulk_middleware.workers.pool_lease import Holding, PoolLease, Predecessor
from fhir_bulk_middleware.workers.process import GRACE, Assignment
from fhir_bulk_middleware.workers.starts import StartReport, Starts, how_it_ended
from fhir_bulk_middleware.workers.wakeup import WakeUps

__all__ = ["WorkerPool"]

_log = logging.getLogger("fhir_bulk_middleware")

_RESTART_SHORTEST = 0.02
_RESTART_LONGEST = 30.0
_SETTLED = 10.0


class WorkerPool:
    """Keeps worker processes running while this process holds the lease on the folder's pool.

    Args:
        folder: the folder of the pool.
        wake_ups: the wake-up pipes of its workers.
        pipes: the folder of those pipes.
        settings: number and niceness of workers, and `lease_seconds`.
        starts: counts workers that cannot start.
    """

    def __init__(self, folder: Path, wake_ups: WakeUps, pipes: Path, settings: Settings, *, starts: Starts) -> None:
        self._folder = folder
        self._wake_ups = wake_ups
        self._pipes = pipes
        self._settings = settings
        self._starts = starts
        self._patience = settings.lease_seconds / 2
        self._workers: list[str] = []

    @staticmethod
    def alive(folder: Path, adapter: str) -> int:
        """The number of workers of a folder and adapter that can work, whichever process keeps them."""
        names = (worker.rsplit("-", 2) for worker in PoolLease(folder, adapter, 0).workers())
        return sum(host == socket.gethostname() and is_alive(int(pid), token) for host, pid, token in names)

    async def keep(self, work: Work, recipe: Recipe) -> None:
        """Wait for the lease and keep workers running, until cancelled. On exit all of them have ended."""
        lease = PoolLease(self._folder, work.adapter, self._patience)
        while True:
            holding = await lease.taken()
            try:
                holding.renew(self._workers)
                if holding.predecessor is not None:
                    await self._fence(holding.predecessor, work)
                lease.tidy(holding)
                self._wake_ups.take_dead_down()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._renew, holding, group)
                    for _ in range(self._settings.worker_processes):
                        group.start_soon(self._keep_one, work, recipe, holding)
            finally:
                holding.close()
            _log.warning("another process took over the workers of %s while this one was silent", self._folder)

    async def _renew(self, holding: Holding, group: TaskGroup) -> None:
        while True:
            await anyio.sleep(self._settings.renew_seconds)
            if not holding.renew(self._workers):
                group.cancel_scope.cancel()
                return

    async def _fence(self, predecessor: Predecessor, work: Work) -> None:
        """End the workers of a silent previous holder, and give back what they held."""
        _log.error(
            "process %d kept the workers of %s and has been silent for %g seconds: they are replaced. If it was stopped in the "
            "middle of a write, nobody can write before it is continued or ended",
            predecessor.pid,
            self._folder,
            self._patience,
        )
        ended: list[str] = []

        async def end(worker: str) -> None:
            host, pid, token = worker.rsplit("-", 2)
            if host == socket.gethostname() and await fence(int(pid), token, min(GRACE, self._patience)):
                ended.append(worker)

        async with anyio.create_task_group() as group:
            for worker in predecessor.workers:
                group.start_soon(end, worker)
        for worker in ended:  # after all have ended, because any of them may hold the lock that this write needs
            await self._give_back(work, worker)

    async def _give_back(self, work: Work, worker: str) -> None:
        self._wake_ups.take_down(worker)
        try:
            await work.abandoned(worker, f"worker {worker} was ended: its server fell silent")
        except Exception:  # noqa: BLE001 - the store may be unavailable; the leases run out
            _log.exception("what worker %s held could not be given back", worker)

    async def _keep_one(self, work: Work, recipe: Recipe, holding: Holding) -> None:
        failures = 0
        while True:
            begun = anyio.current_time()
            await self._run_one(work, recipe, holding)
            failures = 0 if anyio.current_time() - begun > _SETTLED else failures + 1
            await anyio.sleep(min(_RESTART_SHORTEST * 2**failures, _RESTART_LONGEST))

    async def _run_one(self, work: Work, recipe: Recipe, holding: Holding) -> None:
        """Run one worker process to its end, give back what it held, and wake the other workers."""
        try:
            with self._starts.watched() as report:
                await self._run_started(report, work, recipe, holding)
        except Exception:  # noqa: BLE001 - a failed start or an unavailable store must not end the pool
            _log.exception("a worker could not be kept")
        self._wake_ups.notify()

    async def _run_started(self, report: StartReport, work: Work, recipe: Recipe, holding: Holding) -> None:
        token = secrets.token_hex(8)
        with anyio.CancelScope(shield=True):  # a process that is half started when the pool is stopped would never be waited for
            process = await _spawn(token, report)
        worker = f"{socket.gethostname()}-{process.pid}-{token}"
        self._workers.append(worker)
        holding.renew(self._workers)
        how = "was stopped"
        try:
            level, niceness = _log.getEffectiveLevel(), self._settings.worker_niceness
            await _send(process, Assignment(worker, self._pipes, recipe, level, niceness, report.descriptor).line())
            status = await self._ended(process, worker)
            how = how_it_ended(status)
            await self._starts.ended(worker, status, report, work)
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)
                self._workers.remove(worker)
                self._wake_ups.take_down(worker)
                await work.abandoned(worker, f"worker {worker} {how}")

    async def _ended(self, process: Process, worker: str) -> int:
        """Wait for the worker's end, and kill it if it has been stopped for too long."""
        stopped_since = None
        while True:
            with anyio.move_on_after(self._settings.renew_seconds):
                return await process.wait()
            if not is_stopped(process.pid):
                stopped_since = None
            elif stopped_since is None:
                stopped_since = anyio.current_time()
            elif anyio.current_time() - stopped_since > self._patience:
                _log.error("worker %s has been stopped for %g seconds, and is ended", worker, self._patience)
                process.kill()


async def _spawn(token: str, report: StartReport) -> Process:
    # The token identifies the worker to a server that takes over the pool. PYTHONPATH makes it import from where this process
    # does. A session of its own keeps Ctrl-C in a terminal from it: the server stops its workers cleanly.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    try:
        return await anyio.open_process(
            [sys.executable, "-P", "-m", "fhir_bulk_middleware.workers.process", token],
            stdin=subprocess.PIPE,
            stdout=None,
            stderr=None,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            pass_fds=(report.descriptor,),
        )
    finally:
        report.handed_over()


async def _send(process: Process, line: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("a worker was started without a pipe to it")
    try:
        await process.stdin.send(line)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        _log.warning("a worker ended before it was told what to do")


async def _stop(process: Process) -> None:
    """End a worker by closing its stdin, or by force after `GRACE` seconds."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(GRACE):
        await process.wait()
        return
    process.kill()
    await process.wait()
