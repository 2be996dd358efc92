"""What our job stores say about leases in the same words."""

from fhir_bulk_middleware.export.job import Failure
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["EXHAUSTED", "gone", "silent", "slack"]

EXHAUSTED = Failure(Reason.FAULT, "The export could not be finished: one of its steps failed each time that it was tried.")
"""How a job ends whose work was begun too often. The cause is the operator's (`WorkQueue.cause`)."""


def slack(lease_seconds: float) -> float:
    """How far ahead of a claimer's clock a lease may end before the clock must have been set back.

    Twice the length of a lease: the claimer looked at its clock before it waited for its turn to write, and a lease given
    meanwhile ends later than `now + lease_seconds` though nobody touched a clock. A clock that was set back by less than
    one lease delays work by that little.
    """
    return 2 * lease_seconds


def silent(worker: str, attempt: int) -> str:
    """The cause that is kept for a lease that ran out."""
    return f"worker {worker} fell silent in attempt {attempt}"


def gone(worker: str) -> str:
    """The cause that is kept for a worker who is known to be gone."""
    return f"worker {worker} is gone"
