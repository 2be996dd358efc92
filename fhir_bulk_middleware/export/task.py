"""The `Task` of export jobs: plans a job, and exports its slices."""

from dataclasses import replace

from fhir_bulk_middleware.contract.job import Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.export.plan import Planner
from fhir_bulk_middleware.export.reuse import Reuse
from fhir_bulk_middleware.export.slice import SliceExport
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.lease_keeper import HeldLease

__all__ = ["ExportTask"]


class ExportTask:
    """The `Task` of export jobs.

    Args:
        resources: the storage adapter.
        planner: makes plans and queries, and knows the sizes of a job.
        jobs: the job store.
        outputs: takes the parts.
        observers: receive events.
        settings: the length of a lease.
        clock: the current time.
    """

    def __init__(
        self,
        *,
        resources: SupportsExport,
        planner: Planner,
        jobs: JobStore,
        outputs: OutputStore,
        observers: Observers,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._resources = resources
        self._planner = planner
        self._jobs = jobs
        self._outputs = outputs
        self._observers = observers
        self._settings = settings
        self._clock = clock

    async def plan(self, lease: Lease) -> Plan:
        """See `Task`."""
        if lease.job.cut is None:
            reuse = Reuse(self._resources, self._jobs, self._outputs, self._settings, self._clock)
            plan = await self._planner.plan(lease.job, lease.rows, reuse)
            return replace(plan, slices=await reuse.linked(lease, plan.slices))
        context = await self._planner.context_round(lease, self._jobs, self._outputs)
        return await context.plan()

    async def run(self, held: HeldLease, piece: Slice) -> None:
        """See `Task`."""
        await SliceExport(
            resources=self._resources,
            jobs=self._jobs,
            outputs=self._outputs,
            planner=self._planner,
            observers=self._observers,
            sizes=self._planner.sizes(held.lease.job),
            lease_seconds=self._settings.lease_seconds,
            clock=self._clock,
            held=held,
            piece=piece,
        ).run()
