"""Carrying out exports, one piece of work at a time; what a runner runs."""

import logging
from typing import cast

import anyio
from pydantic import JsonValue

from fhir_bulk_middleware.export.firewall import FirewallBreach
from fhir_bulk_middleware.export.heartbeat import Beating, LeaseLost, Pulse, in_task, in_thread
from fhir_bulk_middleware.export.job import Failure, Job, Lease
from fhir_bulk_middleware.export.part import default_codec
from fhir_bulk_middleware.export.planner import Planner
from fhir_bulk_middleware.export.recipes import from_json, make, recipes_of
from fhir_bulk_middleware.export.slice_export import JobsAndQueue, SliceExport
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.protocols import OutputStore, Recipe, SupportsExport
from fhir_bulk_middleware.settings import Settings

__all__ = ["Exporter", "in_worker"]

_log = logging.getLogger("fhir_bulk_middleware")

_STOPPED = Failure(
    Reason.FAULT, "The export was stopped because it would have held data that was not asked for. None of it was published."
)
_GRACE = 5.0


class Exporter:
    """The work of exports: claims a job to plan or a slice to export, and does it.

    What goes wrong is told apart once, here: a lost lease ends the work silently, a page that must not leave ends the job, and
    anything else gives the work back to be tried again.

    Args:
        resources: what is exported.
        jobs: where jobs are kept and work is queued.
        outputs: where parts go.
        settings: sizes and times.
        clock: what time it is.
        beating: how leases are kept alive; `in_thread` where adapter or stores block the loop.
    """

    def __init__(
        self,
        resources: SupportsExport,
        jobs: JobsAndQueue,
        outputs: OutputStore,
        settings: Settings,
        clock: Clock = system_clock,
        *,
        beating: Beating = in_task,
    ) -> None:
        self._resources = resources
        self._jobs = jobs
        self._outputs = outputs
        self._settings = settings
        self._clock = clock
        self._beating = beating
        self._planner = Planner(resources, settings, clock)

    def recipe(self) -> Recipe | None:
        """How to make this in a worker process; None where adapter, a store or the clock exists in this process only."""
        recipes = recipes_of(resources=self._resources, jobs=self._jobs, outputs=self._outputs)
        if recipes is None or self._clock is not system_clock:
            return None
        return Recipe(f"{__name__}:in_worker", {**recipes, "settings": self._settings.model_dump(mode="json")})

    async def abandoned(self, worker: str) -> None:
        """Give back what a worker held who is known to be gone."""
        await self._jobs.release_worker(worker, self._clock())

    async def step(self, worker: str) -> bool:
        """Plan one job or export one slice; False if there was neither."""
        settings = self._settings
        lease = await self._jobs.claim(worker, self._clock(), lease_seconds=settings.lease_seconds, attempts=settings.attempts)
        if lease is None:
            return False
        try:
            await self._carry_out(lease)
        except LeaseLost:
            _log.info("%s: the lease was lost, and the work with it", _name(lease))
        except FirewallBreach as breach:
            _log.error("%s: the job fails: %s", _name(lease), breach)
            await self._fail(lease.job, _STOPPED)
        except Exception as error:  # noqa: BLE001 - logged whole, and the work is tried again
            _log.exception("%s: attempt %d failed", _name(lease), lease.attempt)
            await self._give_back(lease, type(error).__name__)
        except BaseException:
            with anyio.move_on_after(_GRACE, shield=True):  # whoever is stopped leaves the work to others at once
                await self._jobs.release(lease, f"worker {lease.worker} was stopped", self._clock(), excused=True)
            raise
        return True

    async def _carry_out(self, lease: Lease) -> None:
        pulse = Pulse(lease)
        async with self._beating(self._jobs, pulse, self._settings, self._clock):
            if lease.slice is None:
                await self._plan(lease)
            else:
                await SliceExport(
                    resources=self._resources,
                    jobs=self._jobs,
                    outputs=self._outputs,
                    planner=self._planner,
                    sizes=self._planner.sizes(lease.job),
                    lease_seconds=self._settings.lease_seconds,
                    clock=self._clock,
                    pulse=pulse,
                    piece=lease.slice,
                ).run()

    async def _plan(self, lease: Lease) -> None:
        plan = await self._planner.plan(lease.job, lease.rows)
        if not await self._jobs.plan(lease, plan.cut, default_codec(), plan.slices, self._clock()):
            raise LeaseLost

    async def _give_back(self, lease: Lease, cause: str) -> None:
        """Release the work after a pause that grows: what failed for a moment should not use up its attempts in that moment."""
        try:
            if lease.attempt < self._settings.attempts:
                pause = self._settings.renew_seconds * 2 ** (lease.attempt - 1)
                await anyio.sleep(min(pause, self._settings.lease_seconds / 2))
        finally:
            with anyio.move_on_after(_GRACE, shield=True):
                await self._jobs.release(lease, cause, self._clock())

    async def _fail(self, job: Job, failure: Failure) -> None:
        """End a job, unless it has ended otherwise meanwhile."""
        current: Job | None = job
        while current is not None and current.state.working:
            if await self._jobs.replace(current.failed(failure, self._clock())):
                return
            current = await self._jobs.find(job.id, job.mount, job.owner)


def in_worker(resources: JsonValue, jobs: JsonValue, outputs: JsonValue, settings: JsonValue) -> Exporter:
    """An exporter from the recipes of its parts, for a worker process: they may block, so a thread keeps the leases alive."""
    return Exporter(
        cast("SupportsExport", make(from_json(resources))),
        cast("JobsAndQueue", make(from_json(jobs))),
        cast("OutputStore", make(from_json(outputs))),
        Settings.model_validate(settings),
        beating=in_thread,
    )


def _name(lease: Lease) -> str:
    if lease.slice is None:
        return f"planning of job {lease.job.id}"
    return f"slice {lease.slice.number} ({lease.slice.type}) of job {lease.job.id}"
