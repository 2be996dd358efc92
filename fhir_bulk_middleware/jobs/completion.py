"""What follows the checkpoint that completed a job, whatever its kind: leftovers go, and observers hear of it."""

import logging

from fhir_bulk_middleware.contract.events import Completed
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Refused

__all__ = ["after_completion"]

_log = logging.getLogger("fhir_bulk_middleware")


async def after_completion(job: Job, now: Instant, *, jobs: JobStore, outputs: OutputStore, observers: Observers) -> None:
    """Discard files that killed workers left beside the result, and send the event `Completed`.

    A worker that is killed before this leaves such files until the job expires; no manifest names them.

    Args:
        job: the job as its worker knew it.
        now: the current time.
        jobs: the job store.
        outputs: the output store.
        observers: receive the event.
    """
    standing = await jobs.standing(job.id, job.mount, job.owner)
    try:
        if standing is not None:
            await outputs.discard(job.id, keep=[part.key for part in standing.parts])
    except (OSError, Refused):
        _log.exception("leftovers of job %s could not be removed", job.id)
    await observers.tell(Completed.of(job if standing is None else standing.job, now))
