"""Our runners: in the server's event loop, or in worker processes."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from fhir_bulk_middleware.contract.running import Work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.loop import keep_working
from fhir_bulk_middleware.workers.pool import WorkerPool
from fhir_bulk_middleware.workers.standstill import watched
from fhir_bulk_middleware.workers.starts import Starts
from fhir_bulk_middleware.workers.wakeup import WakeUps

__all__ = ["LoopRunner", "ProcessRunner", "beside"]


class LoopRunner:
    """A `JobRunner` in the server's event loop, for adapters without a recipe.

    Requests get slower while work runs. If adapter and stores have recipes, use `ProcessRunner`.

    Args:
        workers: the number of pieces of work at a time.
        patience: after so many seconds without a response of the loop, the log says where it hangs.
    """

    def __init__(self, workers: int = 1, *, patience: float = 10.0) -> None:
        self._workers = workers
        self._patience = patience
        self._woken: list[asyncio.Event] = []

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        """See `JobRunner`."""
        self._woken = [asyncio.Event() for _ in range(self._workers)]
        with watched(self._patience):
            async with beside([partial(self._serve, work, woken) for woken in self._woken]):
                yield
        self._woken = []

    async def workers_alive(self) -> int:
        """See `SupportsWorkerCount`."""
        return len(self._woken)

    async def _serve(self, work: Work, woken: asyncio.Event) -> None:
        async def wait(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await woken.wait()
            woken.clear()

        worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        await keep_working(work, worker, wait, self.wake)

    def wake(self) -> None:
        """See `JobRunner`."""
        for woken in self._woken:
            woken.set()


class ProcessRunner:
    """A `JobRunner` in worker processes: one pool for each folder and adapter, shared by all server processes (law 19).

    Every server process may enter `running`. One of them keeps the workers; when it ends or falls silent, another takes over
    (`fhir_bulk_middleware.workers.pool`).

    Args:
        folder: a folder on this machine, the same for all server processes on these jobs: the one of jobs and files, or another.
        settings: the number of workers (`worker_processes`), their niceness (`worker_niceness`), and how long one may be silent
            (`lease_seconds`).

    Raises:
        ValueError: `worker_processes` is 0; use `LoopRunner`.
    """

    def __init__(self, folder: Path | str, settings: Settings) -> None:
        if settings.worker_processes == 0:
            raise ValueError("worker_processes is 0, which asks for exports in the server's own loop: use LoopRunner")
        self._folder = Path(folder).absolute()
        self._pipes = self._folder / "workers"
        self._wake_ups = WakeUps(self._pipes)
        self._settings = settings
        self._adapter: str | None = None
        self._starts = Starts(settings.attempts, settings.lease_seconds)

    @asynccontextmanager
    async def running(self, work: Work) -> AsyncGenerator[None]:
        """Keep the workers, or stand by to keep them, while the context is open.

        Raises:
            ValueError: the work has no recipe.
            OSError: the folder cannot be written.
        """
        recipe = work.recipe()
        if recipe is None:
            raise ValueError(
                "this work cannot be made again in a worker process: the adapter, the job store and the output store need a "
                "recipe (SupportsWorkerProcess), and the clock must be the system's; use LoopRunner otherwise"
            )
        self._wake_ups.prepare()
        pool = WorkerPool(self._folder, self._wake_ups, self._pipes, self._settings, starts=self._starts)
        self._adapter = work.adapter
        async with beside([partial(pool.keep, work, recipe)]):
            yield

    async def workers_alive(self) -> int:
        """See `SupportsWorkerCount`. It reads the lease of the pool and `/proc`."""
        if self._adapter is None:
            return 0
        return await anyio.to_thread.run_sync(WorkerPool.alive, self._folder, self._adapter)

    def wake(self) -> None:
        """See `JobRunner`: wakes the workers of the folder, whichever server process keeps them."""
        self._wake_ups.notify()


@asynccontextmanager
async def beside(tasks: list[Callable[[], Coroutine[object, object, None]]]) -> AsyncGenerator[None]:
    """Run tasks while the context is open. An exception of the body is raised as it is, not in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below
            failure = error
        finally:
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure
