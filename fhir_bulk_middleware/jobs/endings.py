"""Announces ended jobs to the server processes that hold polls of them open.

A job can end in any process on the machine: in a worker, or in a server that cancels or fails it. The process that ends it sends
the job's id through the pipes of all servers that share the job store (`fhir_bulk_middleware.workers.wakeup`). An announcement
may be lost, and from other machines it comes only if the job store tells of it (`SupportsHints`), so a held poll also reads the
job store at intervals.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

from fhir_bulk_middleware.contract.events import Cancelled, Completed, Event, Expired, Failed
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.running import SupportsWorkerProcess
from fhir_bulk_middleware.workers.stop_signals import told_of_stop
from fhir_bulk_middleware.workers.wakeup import WakeUps

__all__ = ["Endings"]

_log = logging.getLogger("fhir_bulk_middleware")

_SILENCE = 3600.0


class Endings:
    """The announcements of ended jobs, as one process sends and receives them.

    Args:
        folder: holds the pipes of the servers; None for announcements within this process only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._pipes = None if folder is None else WakeUps(folder)
        self._awaited: dict[str, set[asyncio.Event]] = {}
        self.closing = False
        """Whether this server stops, so that no poll may be held any longer."""

    @classmethod
    def of(cls, jobs: JobStore) -> "Endings":
        """Those of a job store; its recipe names the folder, so that all processes that share the store find it."""
        store: object = jobs
        recipe = store.recipe() if isinstance(store, SupportsWorkerProcess) else None
        if recipe is None:
            return cls()
        same = hashlib.sha256(json.dumps([recipe.factory, recipe.arguments], sort_keys=True, default=dict).encode()).hexdigest()
        return cls(Path(tempfile.gettempdir()) / f"fhir-bulk-{os.getuid()}-polls-{same[:16]}")

    def tell(self, event: Event) -> None:
        """Announce the job of an event that ends one; ignore other events. Never blocks or raises."""
        if isinstance(event, Completed | Failed | Cancelled | Expired):
            self.wake(event.job_id)
            if self._pipes is not None:
                self._pipes.notify(f"{event.job_id}\n".encode())

    @contextmanager
    def awaited(self, job_id: str) -> Generator[asyncio.Event]:
        """An event that is set when the job ends, or when this server stops."""
        woken = asyncio.Event()
        self._awaited.setdefault(job_id, set()).add(woken)
        try:
            yield woken
        finally:
            others = self._awaited[job_id]
            others.discard(woken)
            if not others:
                del self._awaited[job_id]

    async def keep_listening(self) -> None:
        """Receive announcements until cancelled or until the process is asked to stop, which ends all held polls."""
        self.closing = False
        try:
            with told_of_stop(self._close):
                await self._listen()
        finally:
            self._close()

    async def _listen(self) -> None:
        while self.folder is not None and self._pipes is not None:
            try:
                await self._receive(self._pipes)
            except OSError:
                _log.exception("%s cannot be used, so polls notice the end of a job up to a second later", self.folder)
                await anyio.sleep(_SILENCE)
            finally:
                with suppress(OSError):  # others listen
                    self.folder.rmdir()
        await anyio.sleep_forever()

    async def _receive(self, pipes: WakeUps) -> None:
        """Wake polls until there is a long silence: the pipe may have been removed, as temporary files are, so make another."""
        pipes.prepare()
        pipes.take_dead_down()
        with pipes.subscribed(f"{os.getpid()}-{secrets.token_hex(4)}") as pipe:
            while messages := await pipe.wait(_SILENCE):
                for job_id in messages.decode(errors="replace").split():
                    self.wake(job_id)

    def wake(self, job_id: str) -> None:
        """Have the polls that this process holds of the job read it. Never blocks or raises."""
        for woken in self._awaited.get(job_id, ()):
            woken.set()

    def _close(self) -> None:
        self.closing = True
        for job_id in self._awaited:
            self.wake(job_id)
