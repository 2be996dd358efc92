"""The progress of a job and the time of the next poll, as headers tell them."""

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.dialects.model import Dialect, Progress
from fhir_bulk_middleware.instant import Instant, seconds_between
from fhir_bulk_middleware.settings import Settings

__all__ = ["pause", "progress"]

_FINISHING = 99


def progress(dialect: Dialect, job: Job, *, queued: str, running: str) -> str:
    """The value of `X-Progress` for a job that is not complete; below 100 characters (ST-03).

    Args:
        dialect: says whether it is a phase, a percentage or a text.
        job: the job.
        queued: the text for a queued job; `{done}` and `{estimate}` stand for numbers of resources.
        running: the text for a running job.
    """
    waits = job.state is JobState.QUEUED
    match dialect.progress:
        case Progress.PHASE:
            return "scheduled" if waits else "started"
        case Progress.PERCENT:
            # Only a complete job is at 100 percent, and an estimate may be too low.
            share = 100 * job.done / max(job.estimate, job.done, 1)
            return f"{min(share, _FINISHING):.1f}% complete"
        case _:
            text = queued if waits else running
            return text.format(done=job.done, estimate=max(job.estimate, job.done))


def pause(job: Job, now: Instant, settings: Settings) -> int:
    """Seconds until the next poll: the time that the rest of the job takes at the rate so far (ST-04).

    Never longer than the job has existed, because the first moments, in which workers start and plans are made, say little about
    the rest: a client must not sleep for a minute past the end of a short export.
    """
    shortest, longest = settings.retry_after, settings.retry_after_longest
    if not job.done:
        return shortest
    elapsed = seconds_between(job.created_at, now)
    left = (job.estimate - job.done) / job.done * elapsed
    return min(max(round(min(left, elapsed)), shortest), longest)
