"""Ending what has had its time, and giving back what nobody can ask for any more."""

import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio

from fhir_bulk_middleware.contract.binding import bind
from fhir_bulk_middleware.contract.events import Expired, Failed
from fhir_bulk_middleware.contract.job import Failure, Job
from fhir_bulk_middleware.contract.job_store import Due, JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.storage import SupportsForgetting
from fhir_bulk_middleware.instant import Clock, Instant, after, system_clock
from fhir_bulk_middleware.jobs.kind import EffectsOfJobs
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings

__all__ = ["Retention"]

_log = logging.getLogger("fhir_bulk_middleware")

_BATCH = 100
_EVER = Instant(2**63 - 1)
_KICK_OFF_SECONDS = 60.0
"""How long a kick-off may take from asking for the deletion horizon to the creation of its job."""

_OVERDUE = Failure(Reason.FAULT, "The export took longer than this server lets one take.")


class Retention:
    """What is done from time to time, by any number of processes; twice does no harm.

    Rows speak first: a job is ended before its files go, and forgets them after they are gone. Whenever a sweep is cut short, the
    next one finds what is left, and at no time does a row promise a file that is not there.

    Args:
        jobs: the job store.
        outputs: the output store.
        settings: how long jobs may take, and how long ids are remembered; how long a result is kept says its job.
        clock: what time it is.
        observers: who is told of jobs that fail or expire.
        effects: ends what jobs do beside writing files before they end; None where they do nothing else.
        forgetting: the stores and logs whose deletions are forgotten after `Settings.deletion_retention`.
        adapter: the identity of the adapter, whose jobs alone are swept (law 32).
    """

    def __init__(
        self,
        jobs: JobStore,
        outputs: OutputStore,
        settings: Settings,
        clock: Clock = system_clock,
        observers: Observers | None = None,
        *,
        effects: EffectsOfJobs | None = None,
        forgetting: Sequence[SupportsForgetting] = (),
        adapter: str = "",
    ) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._settings = settings
        self._clock = clock
        self._observers = observers or Observers()
        self._effects = effects
        self._forgetting = tuple(forgetting)
        self._adapter = adapter

    async def keep_sweeping(self) -> None:
        """Sweep from time to time, until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may find the disk or the database well again
                _log.exception("a sweep failed")
            await anyio.sleep(self._settings.sweep_interval)

    async def sweep(self) -> None:
        """Tell what was left untold; end, give back, forget; in this order.

        Raises:
            NotAdmitted: the files belong to another job store (law 32); nothing was touched.
        """
        await bind(self._outputs, self._jobs)
        if self._effects is not None:
            await self._effects.sweep()
        await self._fail_overdue()
        await self._expire()
        await self._reclaim()
        await self._discard_orphans()
        await self._forget()
        await self._forget_deletions()

    async def _fail_overdue(self) -> None:
        now = self._clock()
        before = after(now, -self._settings.deadline)

        async def fail(job: Job) -> bool:
            if self._effects is not None:
                await self._effects.end(job)  # before the state says so (law 36)
            done = await self._jobs.replace(job.failed(_OVERDUE, now))
            if done:
                cause = f"not done after {self._settings.deadline:g} seconds"
                await self._observers.tell(
                    Failed(at=now, mount=job.mount, owner=job.owner, job_id=job.id, reason=_OVERDUE.reason, cause=cause)
                )
            return done

        ended = await self._each(Due.FAIL, before, fail)
        if ended:
            _log.warning("%d jobs failed because they took longer than %g seconds", ended, self._settings.deadline)

    async def _expire(self) -> None:
        now = self._clock()

        async def expire(job: Job) -> bool:
            done = await self._jobs.replace(job.expired(now))
            if done:
                await self._observers.tell(Expired(at=now, mount=job.mount, owner=job.owner, job_id=job.id))
            return done

        ended = await self._each(Due.EXPIRE, Instant(now + 1), expire)  # a retention that ends now is over
        if ended:
            _log.info("%d jobs expired", ended)

    async def _reclaim(self) -> None:
        """Discard the files of jobs without a result, whatever the clocks say (DL-08); downloads in flight finish (DL-09)."""

        async def reclaim(job: Job) -> bool:
            gone = await self._discarded(job.id)
            if gone:
                await self._jobs.reclaimed(job.id)
            return gone

        await self._each(Due.RECLAIM, _EVER, reclaim)

    async def _forget(self) -> None:
        """Remove tombstones (law 11). One whose files could not be discarded stays until they are."""

        async def forget(job: Job) -> bool:
            await self._jobs.remove(job.id)
            return True

        await self._each(Due.FORGET, after(self._clock(), -self._settings.tombstone_retention), forget)

    async def _forget_deletions(self) -> None:
        """Have the stores forget what no export may need any more: jobs that were told an earlier horizon are failed by now."""
        if self._settings.deletion_retention is None:
            return
        now = self._clock()
        before, grace = after(now, -self._settings.deletion_retention), self._settings.deadline + _KICK_OFF_SECONDS
        for store in self._forgetting:
            if forgotten := await store.forget(before, now=now, grace=grace):
                _log.info("%s forgot %d old versions and deletions", type(store).__name__, forgotten)

    async def _discard_orphans(self) -> None:
        """Leftovers go: of jobs that are forgotten, and what a late worker put down for a job whose files were given back."""
        batch: list[str] = []
        async for job_id in self._outputs.jobs():
            batch.append(job_id)
            if len(batch) == _BATCH:
                await self._discard_unkept(batch)
                batch = []
        await self._discard_unkept(batch)

    async def _discard_unkept(self, job_ids: list[str]) -> None:
        for job_id in set(job_ids) - await self._jobs.keeps_files(job_ids, adapter=self._adapter):
            await self._discarded(job_id)

    async def _discarded(self, job_id: str) -> bool:
        """Discard a job's files; False, and the next sweep tries again, if the store cannot just now."""
        try:
            await self._outputs.discard(job_id)
        except OSError:
            _log.exception("the files of job %s could not be removed", job_id)
            return False
        return True

    async def _each(self, step: Due, before: Instant, act: Callable[[Job], Awaitable[bool]]) -> int:
        """Act on all jobs that need the step, a batch at a time; on how many it took effect.

        A job on which it took none is found again, so the next batch is larger by it. A batch that is not full is the last.
        """
        total, limit = 0, _BATCH
        while True:
            jobs = await self._jobs.due(step, before, limit, adapter=self._adapter)
            effects = sum([await act(job) for job in jobs])
            total += effects
            if len(jobs) < limit:
                return total
            limit += len(jobs) - effects
