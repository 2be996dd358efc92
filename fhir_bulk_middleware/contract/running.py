"""The protocols of runners and their work, and recipes for making an object again in a worker process."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

__all__ = ["Dispatcher", "JobRunner", "Recipe", "SupportsWorkerProcess", "Work", "WorkingDispatcher"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an equal object in another process.

    Attributes:
        factory: `package.module:callable`.
        arguments: its keyword arguments; at most some kB of JSON.
    """

    factory: str
    arguments: Mapping[str, JsonValue]


@runtime_checkable
class SupportsWorkerProcess(Protocol):
    """An adapter or store that can be made again in a worker process. Without it work runs in the server's event loop.

    `recipe` is called in the server, when `BulkData` is made and when the engine starts. Its factory must be importable, so it
    cannot be in `__main__`.
    """

    def recipe(self) -> Recipe:
        """How to make an equal object in a worker process."""
        ...


class Work(Protocol):
    """The work that a runner runs, one step at a time."""

    @property
    def adapter(self) -> str:
        """The identity of the adapter whose jobs are worked on; a worker works for one adapter (law 32)."""
        ...

    async def step(self, worker: str) -> bool:
        """Do one piece of work under the name `worker`; False if there was none."""
        ...

    async def backlog(self, at_most: int) -> int:
        """The number of pieces of work that a `step` could claim now, counted up to `at_most`.

        Raises:
            TypeError: the job store does not count them (`SupportsBacklog`).
        """
        ...

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """Give back all work of a worker that has ended; the cause is logged if the job fails."""
        ...

    async def give_up(self, cause: str) -> None:
        """Fail the jobs that have waited for a worker, because no worker can start. Called repeatedly while none can."""
        ...

    def recipe(self) -> Recipe | None:
        """How to make this work in a worker process; None if that is impossible."""
        ...


class JobRunner(Protocol):
    """Runs work: in the server's event loop, in processes, or on other machines. Leases prevent duplicate results."""

    def running(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Run work while the context is open; on exit, work in flight is cancelled and cleaned up."""
        ...

    def wake(self) -> None:
        """Say that there may be new work. Never blocks or fails; a missed call delays work by a second at most."""
        ...


@runtime_checkable
class Dispatcher(JobRunner, Protocol):
    """A `JobRunner` that hands pieces of work to workers of a task queue. `running` announces work, and carries none out.

    It decides where a step of the work runs, and leases decide whose results count. So a step that is started twice, late or for
    nothing is harmless, and several dispatchers and pools may serve the same jobs.
    """

    def bind(self, work: Work) -> None:
        """Remember the work. Called when `BulkData` is made, because workers of the queue import it and start no engine."""
        ...


@runtime_checkable
class WorkingDispatcher(Dispatcher, Protocol):
    """A `Dispatcher` that can also be a worker of its queue. `fhir-bulk worker` is one then, else it works by itself."""

    def working(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Be a worker in this process while the context is open.

        On exit no work is begun any more, and work in flight is finished or given back.
        """
        ...
