"""Where work runs, and how an object is made again in a worker process."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

__all__ = ["JobRunner", "Recipe", "SupportsWorkerProcess", "Work"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an object again in another process.

    Attributes:
        factory: `package.module:callable`.
        arguments: its keyword arguments; at most some kB of JSON.
    """

    factory: str
    arguments: Mapping[str, JsonValue]


@runtime_checkable
class SupportsWorkerProcess(Protocol):
    """An adapter or store that can be made again in a worker process. Without it slices are read in the server's loop.

    Runs in the server, when `BulkData` is made and when the engine starts. What it names must be importable; `__main__` is not.
    """

    def recipe(self) -> Recipe:
        """How to make it again there."""
        ...


class Work(Protocol):
    """What a runner runs. It does not know what an export is."""

    @property
    def adapter(self) -> str:
        """Whose work it is: workers are made for one adapter, and do the work of no other (law 32)."""
        ...

    async def step(self, worker: str) -> bool:
        """Do one piece of work in the name of `worker`; False if there was none."""
        ...

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """Give back what a worker held who is known to be gone, and keep the cause."""
        ...

    async def give_up(self, cause: str) -> None:
        """No worker can start: end what has waited for one, so that nobody waits for ever. Called again as long as it is so."""
        ...

    def recipe(self) -> Recipe | None:
        """How to make this again in a worker process, None if that is not possible."""
        ...


class JobRunner(Protocol):
    """Decides where work runs. Correctness never rests on it: duplicates are fenced out by the work's leases."""

    def running(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Run work while the context is open; on leaving, stop cleanly with work in flight."""
        ...

    def wake(self) -> None:
        """There may be new work. Cheap, never blocks, never fails; missing one delays work by a second at most."""
        ...
