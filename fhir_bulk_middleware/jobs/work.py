"""The work of jobs, which a runner runs: claim a piece of work, carry it out, handle its failure."""

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager

import anyio

from fhir_bulk_middleware.contract.events import Failed, PartSealed, Started
from fhir_bulk_middleware.contract.job import Failure, Job, JobKind
from fhir_bulk_middleware.contract.job_store import JobStore, SupportsBacklog
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.files.part import default_codec
from fhir_bulk_middleware.instant import Clock, seconds_between, system_clock
from fhir_bulk_middleware.jobs.completion import after_completion
from fhir_bulk_middleware.jobs.kind import EffectsOfJobs, Task, TaskFailed
from fhir_bulk_middleware.observers.observing import Observers, Unrecorded
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.tracing import span
from fhir_bulk_middleware.workers.lease_keeper import HeldLease, LeaseKeeper, LeaseLost, keep_in_task

__all__ = ["EXHAUSTED", "JobWork"]

_log = logging.getLogger("fhir_bulk_middleware")

EXHAUSTED = Failure(Reason.FAULT, "The export could not be finished: one of its steps failed each time that it was tried.")
"""The failure of a job whose work was tried `Settings.attempts` times in vain."""

_NO_WORKER = Failure(Reason.FAULT, "The export could not be begun: this server's workers cannot start; its operator is told why.")
_GRACE = 5.0


class JobWork:
    """Carries out jobs of any kind, one piece of work at a time.

    All failures of work are handled here: `LeaseLost` abandons it, `TaskFailed` fails the job, and any other exception,
    `SystemExit` of an adapter included, gives the work back for another try.

    Args:
        tasks: carry out the jobs of each kind.
        jobs: the job store.
        outputs: the output store.
        settings: times, and how often work is tried.
        clock: the current time.
        keep_lease: renews leases; a `ThreadLeaseKeeper` if adapter or stores block the event loop.
        observers: receive the events of jobs.
        effects: stops effects of jobs other than files, before their state changes.
        adapter: the identity of the adapter whose work is claimed (law 32).
        recipe: how to make this in a worker process; None if that is impossible.
    """

    def __init__(
        self,
        tasks: Mapping[JobKind, Task],
        jobs: JobStore,
        outputs: OutputStore,
        settings: Settings,
        clock: Clock = system_clock,
        *,
        keep_lease: LeaseKeeper = keep_in_task,
        observers: Observers | None = None,
        effects: EffectsOfJobs,
        adapter: str = "",
        recipe: Recipe | None = None,
    ) -> None:
        self.adapter = adapter
        """The identity of the adapter whose work is claimed."""
        self.effects = effects
        """Stops effects of jobs other than files."""
        self._tasks = tasks
        self._jobs = jobs
        self._outputs = outputs
        self._settings = settings
        self._clock = clock
        self._keep_lease = keep_lease
        self._observers = Observers() if observers is None else observers
        self._recipe = recipe

    def recipe(self) -> Recipe | None:
        """See `Work`."""
        return self._recipe

    async def backlog(self, at_most: int) -> int:
        """See `Work`."""
        if not isinstance(self._jobs, SupportsBacklog):
            raise TypeError(
                f"jobs: {type(self._jobs).__name__} does not count the work that waits, which a dispatcher has to know: use"
                " PostgresJobStore, or a job store that implements SupportsBacklog"
            )
        return await self._jobs.backlog(self._clock(), at_most, adapter=self.adapter)

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """See `Work`."""
        await self._jobs.release(worker, cause or f"worker {worker} is gone")

    async def give_up(self, cause: str) -> None:
        """See `Work`. Jobs that are younger than the length of a lease are spared: they may still find a worker."""
        nobody, now = f"nobody-{os.getpid()}", self._clock()
        while (lease := await self._claimed(nobody)) is not None:
            if seconds_between(lease.job.created_at, now) < self._settings.lease_seconds:
                await self._jobs.release(lease, cause, excused=True)
                return
            _log.error("%s: the job fails: %s", _name(lease), cause)
            await self._fail(lease.job, _NO_WORKER, cause)

    async def step(self, worker: str) -> bool:
        """See `Work`: plan one job or carry out one slice."""
        lease = await self._claimed(worker)
        if lease is None:
            return False
        try:
            await self._carry_out(lease)
        except LeaseLost:
            _log.info("%s: the work was abandoned: the job has ended, or another worker has taken it", _name(lease))
        except Unrecorded:
            _log.warning("%s: waits until an audit can record it", _name(lease))
            await self._give_back(lease, "an audit could not record it", excused=True)
        except TaskFailed as failed:
            _log.error("%s: the job fails: %s", _name(lease), failed)
            await self._fail(lease.job, failed.failure, str(failed))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - logged whole, and the work is tried again
            _log.exception("%s: attempt %d failed", _name(lease), lease.attempt)
            await self._give_back(lease, type(error).__name__)
        except BaseException:  # a worker that is stopped gives its work back at once
            with anyio.move_on_after(_GRACE, shield=True):
                await self._jobs.release(lease, f"worker {lease.worker} was stopped", excused=True)
            raise
        return True

    async def _claimed(self, worker: str) -> Lease | None:
        """Claim the next piece of work with tries left. Jobs whose work has none left fail on the way."""
        settings = self._settings
        while (lease := await self._next(worker)) is not None and lease.tries > settings.attempts:
            job, tries = lease.job, settings.attempts
            _log.error("job %s fails: its work was begun %d times and never finished; last: %s", job.id, tries, lease.cause)
            await self._fail(job, EXHAUSTED, lease.cause)
        return lease

    async def _next(self, worker: str) -> Lease | None:
        return await self._jobs.claim(worker, self._clock(), lease_seconds=self._settings.lease_seconds, adapter=self.adapter)

    async def _carry_out(self, lease: Lease) -> None:
        held, task = HeldLease(lease), self._tasks[lease.job.request.kind]
        with _span(lease):
            await self._kept(held, lease, task)

    async def _kept(self, held: HeldLease, lease: Lease, task: Task) -> None:
        async with self._keep_lease(self._jobs, held, self._settings, self._clock):
            if lease.slice is None:
                await self._plan(lease, task)
            else:
                await task.run(held, lease.slice)

    async def _plan(self, lease: Lease, task: Task) -> None:
        job = lease.job
        plan = await task.plan(lease)
        now = self._clock()
        planned = await self._jobs.plan(
            lease,
            plan.cut,
            default_codec(),
            plan.slices,
            now,
            rows=plan.rows,
            more=plan.more,
            unfinished=plan.unfinished,
        )
        if not planned:
            raise LeaseLost
        estimate = sum(piece.estimate for piece in plan.slices)
        event = Started(
            at=now,
            mount=job.mount,
            owner=job.owner,
            job_id=job.id,
            cut=plan.cut,
            slices=len(plan.slices),
            estimate=estimate,
        )
        # A planned round has no lease. The lease keeper may notice that from here on, and cancel this task as if it was lost.
        with anyio.CancelScope(shield=True):
            if job.cut is None:  # the first round
                await self._observers.tell(event)
            for part in (part for piece in plan.slices for part in piece.made):
                await self._observers.tell(PartSealed.of(lease, part))
            if not plan.more and all(piece.made for piece in plan.slices):
                await after_completion(job, now, jobs=self._jobs, outputs=self._outputs, observers=self._observers)

    async def _give_back(self, lease: Lease, cause: str, *, excused: bool = False) -> None:
        """Release the work after a pause that grows with the attempts, so that a short disturbance does not use all of them."""
        try:
            if excused or lease.tries < self._settings.attempts:
                pause = self._settings.renew_seconds * 2 ** min(lease.attempt - 1, 10)
                await anyio.sleep(min(pause, self._settings.lease_seconds / 2))
        finally:
            with anyio.move_on_after(_GRACE, shield=True):
                await self._jobs.release(lease, cause, excused=excused)

    async def _fail(self, job: Job, failure: Failure, cause: str | None) -> None:
        """Fail a job, unless it has ended meanwhile."""
        current: Job | None = job
        while current is not None and current.state.working:
            await self.effects.end(current)  # before its state changes (law 36)
            failed = current.failed(failure, self._clock())
            if await self._jobs.replace(failed):
                await self._observers.tell(
                    Failed(
                        at=failed.changed_at,
                        mount=job.mount,
                        owner=job.owner,
                        job_id=job.id,
                        reason=failure.reason,
                        cause=cause,
                    )
                )
                return
            current = await self._jobs.find(job.id, job.mount, job.owner)


def _span(lease: Lease) -> AbstractContextManager[None]:
    """The span of a piece of work, linked to that of the kick-off."""
    job, piece = lease.job, lease.slice
    about: dict[str, str | int] = {
        "mount": job.mount,
        "job": job.id,
        "kind": job.request.kind.value,
        "attempt": lease.attempt,
    }
    if piece is not None:
        about |= {"slice": piece.number, "type": piece.type}
    return span("plan" if piece is None else "slice", about, linked=job.request.traceparent)


def _name(lease: Lease) -> str:
    if lease.slice is None:
        return f"planning of job {lease.job.id}"
    return f"slice {lease.slice.number} ({lease.slice.type}) of job {lease.job.id}"
