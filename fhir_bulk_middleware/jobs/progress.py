"""How far a job is, and when to ask again, as polls tell it."""

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.dialects.model import Dialect, Progress
from fhir_bulk_middleware.instant import Instant, seconds_between
from fhir_bulk_middleware.settings import Settings

__all__ = ["pause", "progress"]

_FINISHING = 99


def progress(dialect: Dialect, job: Job, *, queued: str, running: str) -> str:
    """The value of `X-Progress` for a job that is not complete; below 100 characters (ST-03).

    Args:
        dialect: how it is told: a phase, a percentage, or a text.
        job: the job.
        queued: the text while no worker has begun it; `{done}` and `{estimate}` are counts of resources.
        running: the text from then on.
    """
    waits = job.state is JobState.QUEUED
    match dialect.progress:
        case Progress.PHASE:
            return "scheduled" if waits else "started"
        case Progress.PERCENT:
            # 100 belongs to the manifest alone, and an estimate may be too low.
            share = 100 * job.done / max(job.estimate, job.done, 1)
            return f"{min(share, _FINISHING):.1f}% complete"
        case _:
            text = queued if waits else running
            return text.format(done=job.done, estimate=max(job.estimate, job.done))


def pause(job: Job, now: Instant, settings: Settings) -> int:
    """Seconds after which another poll is worth its while, from the rate so far (ST-04).

    Never longer than the job has taken yet: the first moments, in which workers start and plans are made, say little about the
    rest, and a client sent away for a minute would sleep past the end of an export of seconds.
    """
    shortest, longest = settings.retry_after, settings.retry_after_longest
    if not job.done:
        return shortest
    elapsed = max(seconds_between(job.created_at, now), 0.0)
    left = max(job.estimate - job.done, 0) / job.done * elapsed
    return min(max(round(min(left, elapsed)), shortest), longest)
