"""Carrying out exports, one piece of work at a time; what a runner runs."""

import logging
import os
from typing import cast

import anyio
from pydantic import JsonValue

from fhir_bulk_middleware.contract.events import Completed, Failed, Started
from fhir_bulk_middleware.contract.job import Failure, Job, JobKind, Lease, Slice
from fhir_bulk_middleware.contract.protocols import DeletionLog, OutputStore, Recipe, SupportsExport, SupportsGroups
from fhir_bulk_middleware.contract.recipes import from_json, make, recipes_of
from fhir_bulk_middleware.delete.journal import sources_of
from fhir_bulk_middleware.delete.outbox import Outbox
from fhir_bulk_middleware.delete.runs import RemovalRuns
from fhir_bulk_middleware.delete.task import BatchRemoval, removal_slices
from fhir_bulk_middleware.export.firewall import FirewallBreach
from fhir_bulk_middleware.export.page_form import MalformedPage
from fhir_bulk_middleware.export.plan import Plan, Planner
from fhir_bulk_middleware.export.slice import JobsAndQueue, SliceExport
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.files.part import default_codec
from fhir_bulk_middleware.instant import Clock, seconds_between, system_clock
from fhir_bulk_middleware.observers.observing import Observers, Unrecorded
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.lease_keeper import Beating, LeaseLost, Pulse, ThreadHeart, in_task

__all__ = ["Exporter", "in_worker"]

_log = logging.getLogger("fhir_bulk_middleware")

_STOPPED = Failure(
    Reason.FAULT, "The export was stopped because it would have held data that was not asked for. None of it was published."
)
_MALFORMED = Failure(
    Reason.FAULT,
    "The export was stopped because this server's storage handed over data that is malformed; its operator is told how.",
)
_NO_WORKER = Failure(Reason.FAULT, "The export could not be begun: this server's workers cannot start; its operator is told why.")
_GRACE = 5.0


class Exporter:
    """The work of exports: claims a job to plan or a slice to export, and does it.

    What goes wrong is told apart once, here: a lost lease ends the work silently, a page that must not leave or is malformed ends
    the job, and anything else gives the work back to be tried again; an adapter that asks the interpreter to exit is at fault
    like any other.

    Args:
        resources: what is exported.
        jobs: where jobs are kept and work is queued.
        outputs: where parts go.
        settings: sizes and times.
        clock: what time it is.
        log: our own log of deletes, for adapters that need one.
        groups: who knows the members of groups; by default the storage adapter, if it does.
        fhir_version: of the resources.
        beating: how leases are kept alive; a `ThreadHeart` where adapter or stores block the loop.
        observers: who is told what becomes of jobs.
        adapter: the identity of the adapter, whose work alone is claimed (law 32).
    """

    def __init__(
        self,
        resources: SupportsExport,
        jobs: JobsAndQueue,
        outputs: OutputStore,
        settings: Settings,
        clock: Clock = system_clock,
        *,
        log: DeletionLog | None = None,
        groups: SupportsGroups | None = None,
        fhir_version: FhirVersion = FhirVersion.R4,
        beating: Beating = in_task,
        observers: Observers | None = None,
        adapter: str = "",
    ) -> None:
        self.adapter = adapter
        """Whose work it is."""
        self._resources = resources
        self._jobs = jobs
        self._outputs = outputs
        self._settings = settings
        self._clock = clock
        self._beating = beating
        self._observers = observers or Observers()
        self._log = log
        self._fhir_version = fhir_version
        sources = sources_of(resources, log, fhir_version, clock, settings.base_urls)
        self._journal = sources.journal
        # A worker without observers leaves reports to those processes that have some.
        self._outbox = Outbox(sources.outboxes if self._observers else (), self._observers, clock)
        self.runs = RemovalRuns(sources, self._outbox)
        """Ends what jobs remove."""
        of_resources = resources if isinstance(resources, SupportsGroups) else None
        self._groups = None if groups is None or groups is of_resources else groups
        self._planner = Planner(resources, settings, clock, sources.deletions, groups or of_resources)

    def recipe(self) -> Recipe | None:
        """How to make this in a worker process; None where adapter, groups, a store or the clock exist in this process only."""
        optional = {"log": self._log, "groups": self._groups}
        given = {name: part for name, part in optional.items() if part is not None}
        recipes = recipes_of(resources=self._resources, jobs=self._jobs, outputs=self._outputs, **given)
        if recipes is None or self._clock is not system_clock:
            return None
        arguments = {
            **recipes,
            "settings": self._settings.model_dump(mode="json"),
            "fhir_version": self._fhir_version.value,
            "observers": self._observers.recipes(),
            "adapter": self.adapter,
        }
        return Recipe(f"{__name__}:in_worker", arguments)

    async def abandoned(self, worker: str, cause: str = "") -> None:
        """See `Work`."""
        await self._jobs.release_worker(worker, self._clock(), cause)

    async def give_up(self, cause: str) -> None:
        """See `Work`; a job that has not waited for the length of a lease may still find a worker."""
        nobody, now = f"nobody-{os.getpid()}", self._clock()
        while (lease := await self._claimed(nobody)) is not None:
            if seconds_between(lease.job.created_at, now) < self._settings.lease_seconds:
                await self._jobs.release(lease, cause, now, excused=True)
                return
            _log.error("%s: the job fails: %s", _name(lease), cause)
            await self._fail(lease.job, _NO_WORKER, cause)

    async def step(self, worker: str) -> bool:
        """Plan one job or export one slice; False if there was neither."""
        lease = await self._claimed(worker)
        if lease is None:
            return False
        try:
            await self._carry_out(lease)
        except LeaseLost:
            _log.info("%s: the lease was lost, and the work with it", _name(lease))
        except Unrecorded:
            _log.warning("%s: waits until an audit can record it", _name(lease))
            await self._give_back(lease, "an audit could not record it", excused=True)
        except FirewallBreach as breach:
            _log.error("%s: the job fails: %s", _name(lease), breach)
            await self._fail(lease.job, _STOPPED, str(breach))
        except MalformedPage as malformed:
            _log.error("%s: the job fails: %s", _name(lease), malformed)
            await self._fail(lease.job, _MALFORMED, str(malformed))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - logged whole, and the work is tried again
            _log.exception("%s: attempt %d failed", _name(lease), lease.attempt)
            await self._give_back(lease, type(error).__name__)
        except BaseException:
            with anyio.move_on_after(_GRACE, shield=True):  # whoever is stopped leaves the work to others at once
                await self._jobs.release(lease, f"worker {lease.worker} was stopped", self._clock(), excused=True)
            raise
        return True

    async def _claimed(self, worker: str) -> Lease | None:
        """The next piece of work; jobs that have failed on the way are told."""
        settings = self._settings
        ended: list[Job] = []
        lease = await self._jobs.claim(
            worker,
            self._clock(),
            lease_seconds=settings.lease_seconds,
            attempts=settings.attempts,
            adapter=self.adapter,
            failed=ended.append,
        )
        for job in ended:
            await self.runs.end(job)
            cause = await self._jobs.cause(job.id)
            _log.error("job %s fails: its work was begun %d times and never finished; last: %s", job.id, settings.attempts, cause)
            await self._tell_failed(job, cause)
        return lease

    async def _carry_out(self, lease: Lease) -> None:
        pulse = Pulse(lease)
        async with self._beating(self._jobs, pulse, self._settings, self._clock):
            if lease.slice is None:
                await self._plan(lease)
            elif lease.job.request.kind is JobKind.REMOVE_ALL:
                await self._remove(pulse, lease.slice)
            else:
                await SliceExport(
                    resources=self._resources,
                    jobs=self._jobs,
                    outputs=self._outputs,
                    planner=self._planner,
                    observers=self._observers,
                    sizes=self._planner.sizes(lease.job),
                    lease_seconds=self._settings.lease_seconds,
                    clock=self._clock,
                    pulse=pulse,
                    piece=lease.slice,
                ).run()

    async def _plan(self, lease: Lease) -> None:
        now, job = self._clock(), lease.job
        if job.request.kind is JobKind.REMOVE_ALL:
            plan = Plan(job.created_at, removal_slices(job, lease.rows, self._settings.removal_batch))
        else:
            plan = await self._planner.plan(job, lease.rows)
            now = self._clock()
        if not await self._jobs.plan(lease, plan.cut, default_codec(), plan.slices, now, rows=plan.rows):
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
        await self._observers.tell(event)
        if not plan.slices:
            await self._observers.tell(Completed.of(job, now))

    async def _remove(self, pulse: Pulse, piece: Slice) -> None:
        if self._journal is None:
            raise TypeError("a remove-all needs a journal, and this adapter has none: was it changed while the job ran?")
        await BatchRemoval(
            journal=self._journal,
            jobs=self._jobs,
            outputs=self._outputs,
            observers=self._observers,
            outbox=self._outbox,
            clock=self._clock,
            pulse=pulse,
            piece=piece,
        ).run()

    async def _give_back(self, lease: Lease, cause: str, *, excused: bool = False) -> None:
        """Release the work after a pause that grows: what failed for a moment should not use up its attempts in that moment."""
        try:
            if excused or lease.attempt < self._settings.attempts:
                pause = self._settings.renew_seconds * 2 ** min(lease.attempt - 1, 10)
                await anyio.sleep(min(pause, self._settings.lease_seconds / 2))
        finally:
            with anyio.move_on_after(_GRACE, shield=True):
                await self._jobs.release(lease, cause, self._clock(), excused=excused)

    async def _fail(self, job: Job, failure: Failure, cause: str) -> None:
        """End a job, unless it has ended otherwise meanwhile."""
        current: Job | None = job
        while current is not None and current.state.working:
            await self.runs.end(current)  # before its state says so (law 36)
            failed = current.failed(failure, self._clock())
            if await self._jobs.replace(failed):
                await self._tell_failed(failed, cause)
                return
            current = await self._jobs.find(job.id, job.mount, job.owner)

    async def _tell_failed(self, job: Job, cause: str | None) -> None:
        reason = Reason.FAULT if job.failure is None else job.failure.reason
        await self._observers.tell(
            Failed(at=job.changed_at, mount=job.mount, owner=job.owner, job_id=job.id, reason=reason, cause=cause)
        )


def in_worker(
    resources: JsonValue,
    jobs: JsonValue,
    outputs: JsonValue,
    settings: JsonValue,
    *,
    fhir_version: str,
    log: JsonValue = None,
    groups: JsonValue = None,
    observers: JsonValue = None,
    adapter: str = "",
) -> Exporter:
    """An exporter from the recipes of its parts, for a worker process: they may block, so a thread keeps the leases alive."""
    limits = Settings.model_validate(settings)
    return Exporter(
        cast("SupportsExport", make(from_json(resources))),
        cast("JobsAndQueue", make(from_json(jobs))),
        cast("OutputStore", make(from_json(outputs))),
        limits,
        log=None if log is None else cast("DeletionLog", make(from_json(log))),
        groups=None if groups is None else cast("SupportsGroups", make(from_json(groups))),
        fhir_version=FhirVersion(fhir_version),
        beating=ThreadHeart(),
        observers=Observers.from_recipes(observers or [], limits.on_audit_failure),
        adapter=adapter,
    )


def _name(lease: Lease) -> str:
    if lease.slice is None:
        return f"planning of job {lease.job.id}"
    return f"slice {lease.slice.number} ({lease.slice.type}) of job {lease.job.id}"
