"""Cancels jobs, for their owners and for the operator, in one way (DL-01 to DL-11, law 36)."""

from collections.abc import Awaitable, Callable

from fhir_bulk_middleware.contract.access import Caller
from fhir_bulk_middleware.contract.events import Cancelled
from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.jobs.kind import EffectsOfJobs
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["Cancelling", "check_live"]

_TRIES = 20


class Cancelling:
    """Ends the effects of a job, turns it into a tombstone, and tells observers.

    Args:
        jobs: the job store.
        effects: stops effects of jobs other than files; None if they have none.
        observers: receive the event.
        settings: how soon a client may try again.
        clock: the current time.
    """

    def __init__(
        self, jobs: JobStore, effects: EffectsOfJobs | None, observers: Observers, settings: Settings, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._effects = effects
        self._observers = observers
        self._settings = settings
        self._clock = clock

    async def cancel(self, read: Callable[[], Awaitable[Job]], caller: Caller | None, operator: str | None = None) -> Job:
        """Cancel a job: its work stops, and nothing of it is served again.

        Args:
            read: returns the job as it is now; raises `Refused` if it is not there.
            caller: the request of its owner; None for the operator.
            operator: the operator; None for the owner.

        Raises:
            Refused: it was cancelled or had expired before, or it changes too quickly.
        """
        ended = False
        for _ in range(_TRIES):
            job = await read()
            if ended and job.state is JobState.CANCELLED:  # a worker that saw the end of the run was faster
                return job
            check_live(job, self._clock)
            ended = await self._end_run(job)
            cancelled = job.cancelled(self._clock())
            if await self._jobs.replace(cancelled):
                await self._observers.tell(
                    Cancelled(
                        at=cancelled.changed_at,
                        mount=job.mount,
                        owner=job.owner,
                        caller=caller,
                        job_id=job.id,
                        operator=operator,
                    )
                )
                return cancelled
        raise Refused(Reason.BUSY, "The export is changing too quickly; try again.", retry_after=self._settings.retry_after)

    async def _end_run(self, job: Job) -> bool:
        """Stop the effects of the job, before its state changes (law 36); whether it had any."""
        return self._effects is not None and await self._effects.end(job, cancelled=True) is not None


def check_live(job: Job, clock: Clock) -> None:
    """Refuse a job that is cancelled or expired, swept or not.

    Raises:
        Refused: `JOB_CANCELLED` or `JOB_EXPIRED`.
    """
    if job.state.working:
        return
    if job.state is JobState.CANCELLED:
        raise Refused(Reason.JOB_CANCELLED)
    if job.state is JobState.EXPIRED or job.expires_at <= clock():
        raise Refused(Reason.JOB_EXPIRED)
