"""Leases: which worker may write the results of a piece of work."""

from dataclasses import dataclass
from enum import IntEnum

from fhir_bulk_middleware.contract.job import Job, Slice
from fhir_bulk_middleware.contract.query import Rows

__all__ = ["LEASE_SLACK", "Lease", "Recorded", "fell_silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's exclusive right to write the results of one piece of work: the plan of a job, or one of its slices.

    It does not stop a worker from running, but from publishing (law 18): each write names the attempt, and a write whose attempt
    is not the current one changes nothing.

    Attributes:
        job: the job as it was when the lease was given.
        rows: which rows the job may hold.
        slice: the slice to carry out; None to plan the job.
        attempt: the fencing token; the first attempt is 1. In a later round of the plan, the attempts of planning count on.
        worker: the name of the holder.
        tries: how often the work was begun, this time included, since an attempt last recorded a part; attempts whose release
            was excused are not counted.
        cause: why the previous attempt ended, for the operator; None for the first attempt.
    """

    job: Job
    rows: Rows
    slice: Slice | None
    attempt: int
    worker: str
    tries: int = 1
    cause: str | None = None


LEASE_SLACK = 2
"""How far ahead of a claimer's clock a lease may end before the clock must have been set back, in lengths of that lease.

Two, because a claimer reads its clock before it waits for its turn to write: a lease given in between ends later than one length
after that. A clock that was set back by less delays work by no more than that. The length is that of the lease, not of the
claimer's own, whose `lease_seconds` may differ.
"""


def fell_silent(worker: str, attempt: int) -> str:
    """The cause (`Lease.cause`) that a store gives for an attempt whose lease ran out."""
    return f"worker {worker} fell silent in attempt {attempt}"


class Recorded(IntEnum):
    """The result of a checkpoint; only `LOST` is false."""

    LOST = 0
    """The lease is no longer current, and nothing was written (law 18)."""
    KEPT = 1
    COMPLETED = 2
    """It was written and completed the job. Exactly one checkpoint of a job returns this."""
