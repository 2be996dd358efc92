"""What our job stores say about leases in the same words."""

from fhir_bulk_middleware.contract.job import Failure
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["EXHAUSTED", "SLACK", "gone", "silent"]

EXHAUSTED = Failure(Reason.FAULT, "The export could not be finished: one of its steps failed each time that it was tried.")
"""How a job ends whose work was begun too often. The cause is the operator's (`WorkQueue.cause`)."""


SLACK = 2
"""How far ahead of a claimer's clock a lease may end before the clock must have been set back, in lengths of that lease.

Two: the claimer looked at its clock before it waited for its turn to write, and a lease given meanwhile ends later than one
length after that though nobody touched a clock. A clock that was set back by less than one lease delays work by that little.
The length is the lease's own: a process with another `lease_seconds` does not take it for one that a set clock left behind.
"""


def silent(worker: str, attempt: int) -> str:
    """The cause that is kept for a lease that ran out."""
    return f"worker {worker} fell silent in attempt {attempt}"


def gone(worker: str) -> str:
    """The cause that is kept for a worker who is known to be gone."""
    return f"worker {worker} is gone"
