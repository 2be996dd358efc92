"""Takes the figures of a mount: from its stores, its runner and its polls."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio

from fhir_bulk_middleware.contract.figures import (
    Census,
    Figures,
    SupportsCensus,
    SupportsFigures,
    SupportsFreeSpace,
    SupportsWorkerCount,
)
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.health.question import Question
from fhir_bulk_middleware.instant import Clock

__all__ = ["Gauges"]

_log = logging.getLogger("fhir_bulk_middleware")

_KEEP = 5.0
_PATIENCE = 2.0
_INTERVAL = 10.0
"""Seconds between two deliveries of figures to the observers that take them."""

T = TypeVar("T")


class Gauges:
    """The questions about one mount. However many probes and scrapes ask, each is asked once in five seconds.

    Args:
        jobs: the job store.
        outputs: the output store.
        runner: the runner.
        adapter: the identity of the adapter.
        mount: the name of the mount.
        held_polls: returns the number of polls that are held open.
        observers: all observers; those that take figures get them.
        clock: the current time.
    """

    def __init__(
        self,
        jobs: JobStore,
        outputs: OutputStore,
        runner: JobRunner,
        *,
        adapter: str,
        mount: str,
        held_polls: Callable[[], int],
        observers: Sequence[object],
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._runner = runner
        self._adapter = adapter
        self._mount = mount
        self._held_polls = held_polls
        self._takers = [each for each in observers if isinstance(each, SupportsFigures)]
        self._clock = clock
        self.store_id = Question(self._store_id, keep=_KEEP, patience=_PATIENCE)
        """The id of the job store, which it knows as long as it can be reached."""
        self.census = Question(self._census, keep=_KEEP, patience=_PATIENCE)
        """The jobs; None if the job store cannot count them."""
        self.free_bytes = Question(self._free_bytes, keep=_KEEP, patience=_PATIENCE)
        """What the output store can still take; None if it does not know, but can be reached."""
        self.workers = Question(self._workers, keep=_KEEP, patience=_PATIENCE)
        """The number of workers that are alive; None if the runner does not know."""

    async def keep_taking(self) -> None:
        """Take figures every ten seconds for the observers that want them, until cancelled. At once if there are none."""
        while self._takers:
            figures = await self.taken()
            for taker in self._takers:
                try:
                    await taker.take(figures)
                except Exception:  # noqa: BLE001 - a broken observer must not affect anything else
                    _log.exception("%s did not take the figures", type(taker).__name__)
            await anyio.sleep(_INTERVAL)

    async def taken(self) -> Figures:
        """The figures now. What fails or hangs is left out."""
        return Figures(
            at=self._clock(),
            adapter=self._adapter,
            mount=self._mount,
            census=await _or_none(self.census),
            workers=await _or_none(self.workers),
            free_bytes=await _or_none(self.free_bytes),
            held_polls=self._held_polls(),
        )

    async def _store_id(self) -> str:
        return (await self._jobs.registry()).store_id

    async def _census(self) -> Census | None:
        return await self._jobs.census(adapter=self._adapter) if isinstance(self._jobs, SupportsCensus) else None

    async def _free_bytes(self) -> int | None:
        if isinstance(self._outputs, SupportsFreeSpace):
            return await self._outputs.free_bytes()
        # The binding was made at the start, so this only reads it.
        if not await self._outputs.bind(await self._store_id()):
            raise OSError("the output store belongs to another job store")
        return None

    async def _workers(self) -> int | None:
        return await self._runner.workers_alive() if isinstance(self._runner, SupportsWorkerCount) else None


async def _or_none(question: Question[T | None]) -> T | None:
    try:
        return await question.answer()
    except Exception:  # noqa: BLE001 - `/$health` and the log of the request that needs the store tell it
        return None
