"""Figures for the operator, such as how many jobs wait, and the protocols of stores and runners that know them."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fhir_bulk_middleware.instant import Instant

__all__ = ["Census", "Figures", "SupportsCensus", "SupportsFigures", "SupportsFreeSpace", "SupportsWorkerCount"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The jobs of one adapter as of one instant.

    Attributes:
        queued: the number of jobs whose planning was never finished.
        running: the number of jobs that are planned and not finished.
        oldest_queued: when the oldest queued job was created; None if none is queued.
        kept_bytes: the bytes of all sealed parts as they are stored, until they are reclaimed.
    """

    queued: int
    running: int
    oldest_queued: Instant | None
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a server process knows of itself and of its stores. A figure is None if its part cannot tell or did not answer.

    Attributes:
        at: when they were taken.
        adapter: the identity of the adapter whose jobs they count.
        mount: the name of the mount.
        census: its jobs.
        workers: the number of worker processes on this machine, or of pieces of work at a time in this server's event loop.
        free_bytes: how much the output store can still take.
        held_polls: the number of polls that this process holds open.
    """

    at: Instant
    adapter: str
    mount: str
    census: Census | None
    workers: int | None
    free_bytes: int | None
    held_polls: int


@runtime_checkable
class SupportsCensus(Protocol):
    """A job store that can count its jobs, for metrics and `/$health`. Runs in the server, every few seconds in each process."""

    async def census(self, *, adapter: str = "") -> Census:
        """Count the jobs of the adapter. Its cost must not grow with the number of jobs that were ended and reclaimed.

        Raises:
            Refused: `BUSY`, if the store cannot answer now.
        """
        ...


@runtime_checkable
class SupportsFreeSpace(Protocol):
    """An output store that can run out of space, and knows how much is left. Runs in the server, as `SupportsCensus`."""

    async def free_bytes(self) -> int:
        """How many bytes the store can still take.

        Raises:
            OSError: the store cannot be reached.
        """
        ...


@runtime_checkable
class SupportsWorkerCount(Protocol):
    """A `JobRunner` that knows how many of its workers are alive. Runs in the server, as `SupportsCensus`."""

    async def workers_alive(self) -> int:
        """The number of workers on this machine that can take work, whichever server process keeps them."""
        ...


@runtime_checkable
class SupportsFigures(Protocol):
    """An `Observer` that also takes figures, such as `observers.metrics.Metrics`. Runs in the server, every few seconds."""

    async def take(self, figures: Figures) -> None:
        """Take the figures of a server process. An exception is logged."""
        ...
