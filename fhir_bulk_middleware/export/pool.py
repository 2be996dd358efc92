"""One pool of worker processes for each folder, however many server processes share it (law 19)."""

import fcntl
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from fhir_bulk_middleware.export.doorbell import Doorbell
from fhir_bulk_middleware.export.starts import StartReport, Starts, how_it_ended
from fhir_bulk_middleware.export.worker import GRACE, Assignment
from fhir_bulk_middleware.protocols import Recipe, Work

__all__ = ["WorkerPool"]

_log = logging.getLogger("fhir_bulk_middleware")

_LOCK_POLL = 0.25
_RESTART_SHORTEST = 0.02
_RESTART_LONGEST = 30.0
_SETTLED = 10.0


class WorkerPool:
    """Keeps worker processes running while this process holds the folder's lock.

    The lock is the kernel's (`flock`), so it is free the moment its holder is gone, however it went; and the holder's workers
    end by themselves, because their stdin does.

    Args:
        folder: what the pool is one for.
        doorbell: what its workers listen to.
        bells: the doorbell's folder.
        size: how many workers.
        niceness: how much they give way to other processes.
        starts: takes note of workers that cannot start.
    """

    def __init__(self, folder: Path, doorbell: Doorbell, bells: Path, size: int, niceness: int, *, starts: Starts) -> None:
        self._lock = folder / "workers.lock"
        self._doorbell = doorbell
        self._bells = bells
        self._size = size
        self._niceness = niceness
        self._starts = starts

    async def keep(self, work: Work, recipe: Recipe) -> None:
        """Wait for the lock, then keep the workers running until cancelled; they have ended when this returns."""
        async with self._locked():
            self._doorbell.take_all_down()
            async with anyio.create_task_group() as group:
                for _ in range(self._size):
                    group.start_soon(self._keep_one, work, recipe)

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await anyio.sleep(_LOCK_POLL)
                else:
                    break
            yield
        finally:
            os.close(descriptor)

    async def _keep_one(self, work: Work, recipe: Recipe) -> None:
        failures = 0
        while True:
            begun = anyio.current_time()
            await self._run_one(work, recipe)
            failures = 0 if anyio.current_time() - begun > _SETTLED else failures + 1
            await anyio.sleep(min(_RESTART_SHORTEST * 2**failures, _RESTART_LONGEST))

    async def _run_one(self, work: Work, recipe: Recipe) -> None:
        """Run one worker process to its end, give back what it held, and tell the others of that."""
        try:
            with self._starts.watched() as report:
                process = await _spawn(report)
                worker = f"{socket.gethostname()}-{process.pid}-{secrets.token_hex(4)}"
                how = "was stopped"
                try:
                    level = _log.getEffectiveLevel()
                    assignment = Assignment(worker, self._bells, recipe, level, self._niceness, report.descriptor)
                    await _send(process, assignment.line())
                    status = await process.wait()
                    how = how_it_ended(status)
                    await self._starts.ended(worker, status, report, work)
                finally:
                    with anyio.CancelScope(shield=True):
                        await _stop(process)
                        self._doorbell.take_down(worker)
                        await work.abandoned(worker, f"worker {worker} {how}")
        except Exception:  # noqa: BLE001 - no process to be had, or a store that is away: neither must end the pool
            _log.exception("a worker could not be kept")
        self._doorbell.ring()


async def _spawn(report: StartReport) -> Process:
    # Found where this process finds it, whatever the folder that it was started in; and in a session of its own, so that
    # Ctrl-C in a terminal reaches the server alone, which then stops its workers in good order.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    try:
        return await anyio.open_process(
            [sys.executable, "-P", "-m", "fhir_bulk_middleware.export.worker"],
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
    """End a worker: by the end of its stdin, or by force if it does not hear."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(GRACE):
        await process.wait()
        return
    process.kill()
    await process.wait()
