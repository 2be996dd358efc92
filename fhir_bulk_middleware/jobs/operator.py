"""All jobs of one adapter, for the operator on the server's machine. No request of a client leads here (law 7)."""

import logging
from collections.abc import Sequence

from fhir_bulk_middleware.contract.binding import bind
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.job_store import JobStore, ListPlace
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.cancelling import Cancelling
from fhir_bulk_middleware.jobs.kind import EffectsOfJobs
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["JobOperator"]

_log = logging.getLogger("fhir_bulk_middleware")


_BATCH = 100
_ENDED = frozenset({Reason.JOB_UNKNOWN, Reason.JOB_CANCELLED, Reason.JOB_EXPIRED})


class JobOperator:
    """Lists, shows and cancels jobs of all owners and mounts.

    Args:
        jobs: the job store.
        outputs: the output store.
        settings: how soon to try again.
        clock: the current time.
        observers: receive the events.
        effects: stops effects of jobs other than files; None if they have none.
        adapter: the identity of the adapter whose jobs these are (law 32).
    """

    def __init__(
        self,
        jobs: JobStore,
        outputs: OutputStore,
        settings: Settings,
        clock: Clock,
        observers: Observers,
        *,
        effects: EffectsOfJobs | None,
        adapter: str,
    ) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._adapter = adapter
        self._observers = observers
        self._cancelling = Cancelling(jobs, effects, observers, settings, clock)

    async def listed(self, limit: int, after: ListPlace | None = None) -> Sequence[Job]:
        """At most `limit` jobs in any state, newest first; with `after` those behind that place."""
        return await self._jobs.kept(after=after, limit=limit, adapter=self._adapter)

    async def job(self, job_id: str) -> Job:
        """The job with this id.

        Raises:
            Refused: `JOB_UNKNOWN`.
        """
        found = await self._jobs.kept(after=None, limit=1, job_id=job_id, adapter=self._adapter)
        if not found:
            raise Refused(Reason.JOB_UNKNOWN)
        return found[0]

    async def cancel(self, job_id: str, operator: str) -> Job:
        """Cancel a job as its owner could, and discard its files at once.

        Files that cannot be discarded now, or that a worker writes meanwhile, are discarded by the next sweep of a server.

        Args:
            job_id: the job.
            operator: who cancels, for the audit.

        Raises:
            Refused: there is no such job, or it was cancelled or had expired before.
            NotAdmitted: the output store belongs to another job store (law 32); nothing was changed.
        """
        await bind(self._outputs, self._jobs)
        cancelled = await self._cancelling.cancel(lambda: self.job(job_id), None, operator)
        try:
            await self._outputs.discard(job_id)
        except OSError:
            _log.exception("the files of job %s could not be removed", job_id)
        return cancelled

    async def cancel_all(self, operator: str) -> int:
        """Cancel every job that was neither cancelled nor expired, and return how many those were.

        For the restore of an older job store, which does not know what was cancelled or has expired since, and would go on
        with it (law 36).

        Args:
            operator: who cancels, for the audit.

        Raises:
            NotAdmitted: the output store belongs to another job store (law 32); nothing was changed.
        """
        cancelled, place = 0, None
        while jobs := await self.listed(_BATCH, place):
            for job in jobs:
                try:
                    await self.cancel(job.id, operator)
                except Refused as refused:
                    if refused.reason not in _ENDED:
                        raise
                else:
                    cancelled += 1
            place = ListPlace.of(jobs[-1])
        return cancelled

    async def close(self) -> None:
        """Deliver the remaining summaries to the audits before the process ends."""
        await self._observers.close()
