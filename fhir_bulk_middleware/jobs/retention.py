"""Sweeps: fail overdue jobs, expire finished ones, discard files, forget tombstones."""

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
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["Retention"]

_log = logging.getLogger("fhir_bulk_middleware")

_BATCH = 100
_EVER = Instant(2**63 - 1)
_KICK_OFF_SECONDS = 60.0
"""How long a kick-off may take from asking for the deletion horizon to the creation of its job."""

_OVERDUE = Failure(Reason.FAULT, "The export took longer than this server lets one take.")


class Retention:
    """Sweeps the jobs of one adapter. Any number of processes may sweep at the same time.

    A job ends before its files are discarded, and its records of them are removed after that. So no record promises a file that
    is missing, and a sweep that is cut short is completed by the next one.

    Args:
        jobs: the job store.
        outputs: the output store.
        settings: the deadline of jobs and the retention of tombstones; the retention of a result is its job's own.
        clock: the current time.
        observers: receive the events of jobs that fail or expire.
        effects: stops effects of jobs other than files; None if they have none.
        forgetting: the stores and logs whose deletions are forgotten after `Settings.deletion_retention`.
        adapter: the identity of the adapter whose jobs are swept (law 32).
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
        self._observers = Observers() if observers is None else observers
        self._effects = effects
        self._forgetting = tuple(forgetting)
        self._adapter = adapter

    async def keep_sweeping(self) -> None:
        """Sweep every `Settings.sweep_interval` seconds, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may succeed
                _log.exception("a sweep failed")
            await anyio.sleep(self._settings.sweep_interval)

    async def sweep(self) -> None:
        """Complete effects, then fail, expire, reclaim and forget jobs, and discard files that no job keeps.

        Raises:
            NotAdmitted: the output store belongs to another job store (law 32); nothing was changed.
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
        """Discard files of removed jobs, and files that a late worker wrote for a job that was reclaimed."""
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
        """Discard a job's files; False if that failed, so the next sweep tries again."""
        try:
            await self._outputs.discard(job_id)
        except (OSError, Refused):
            _log.exception("the files of job %s could not be removed", job_id)
            return False
        return True

    async def _each(self, step: Due, before: Instant, act: Callable[[Job], Awaitable[bool]]) -> int:
        """Act on all jobs that need the step, in batches; the number of jobs for which `act` returned true.

        A job for which it returned false is found again, so the next batch is larger by one. A batch below its limit is the last.
        """
        total, limit = 0, _BATCH
        while True:
            jobs = await self._jobs.due(step, before, limit, adapter=self._adapter)
            effects = sum([await act(job) for job in jobs])
            total += effects
            if len(jobs) < limit:
                return total
            limit += len(jobs) - effects
