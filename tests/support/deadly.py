"""Adapters that kill the process that they work in, each in its way, and recipes that no worker can follow."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import anyio
from listed import Listed, observation, patient
from waiting import PATIENCE

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Page, Query
from fhir_bulk_middleware.contract.running import Recipe


def _exit() -> None:
    os._exit(3)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _no_memory() -> None:
    raise MemoryError


def _system_exit() -> None:
    raise SystemExit(4)


def _interrupt() -> None:
    raise KeyboardInterrupt


WAYS: Mapping[str, Callable[[], None]] = {
    "exits": _exit,
    "crashes": _crash,
    "is killed": _kill,
    "has no memory": _no_memory,
    "raises SystemExit": _system_exit,
    "raises KeyboardInterrupt": _interrupt,
}


class Deadly(Listed):
    """Observations kill; patients do not."""

    def __init__(self, folder: str, way: str, factory: str = "deadly:Deadly") -> None:
        super().__init__({"Observation": [observation(1)], "Patient": [patient("1")]})
        self._arguments = {"folder": folder, "way": way, "factory": factory}
        self.deadly_door = False

    def recipe(self) -> Recipe:
        return Recipe(self._arguments["factory"], dict(self._arguments))

    @property
    def attempts(self) -> int:
        return len(list(Path(self._arguments["folder"]).glob("attempt-*")))

    async def authorise(self, principal: Principal) -> Authorisation:
        if self.deadly_door:
            WAYS[self._arguments["way"]]()
        return await super().authorise(principal)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        if query.type == "Observation":
            folder = Path(self._arguments["folder"])
            (folder / f"attempt-{self.attempts}").touch()
            WAYS[self._arguments["way"]]()
        async for page in super().pages(query, after):
            yield page


class Blocking(Deadly):
    """Blocks the loop that it works in, until it is let go."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, "")
        self.let_go = threading.Event()

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        assert self.let_go.wait(PATIENCE), "nobody noticed"
        async for page in Listed.pages(self, query, after):
            yield page


class Waiting(Deadly):
    """Waits for ever, and blocks nobody."""

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        await anyio.sleep_forever()
        async for page in Listed.pages(self, query, after):
            yield page


def raising(folder: str, way: str, factory: str) -> Deadly:
    """No worker can do it, until somebody has mended it."""
    if not (Path(folder) / "mended").exists():
        raise ConnectionError("the database is not there")
    return Deadly(folder, way, factory)


def exiting(folder: str, way: str, factory: str) -> Deadly:
    raise SystemExit(f"{factory} has gone home from {folder} {way}")


def dying(folder: str, way: str, factory: str) -> Deadly:
    del folder, way, factory
    os._exit(9)
