"""The interfaces between jobs in general and one kind of job, such as exports.

This room claims, leases, polls, cancels, sweeps and serves jobs without knowing their kinds. Each kind supplies a `Task`, for the
process where work runs, and a `Kind` (`fhir_bulk_middleware.jobs.view`), for the server.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from fhir_bulk_middleware.contract.job import Failure, Job, Slice
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Rows, Unfinished
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.workers.lease_keeper import HeldLease

__all__ = ["EffectsOfJobs", "Plan", "Task", "TaskFailed"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A round of a job's plan; most plans have one.

    Attributes:
        cut: the manifest's `transactionTime`; only that of the first round counts.
        slices: its pieces of work, numbered from 0, in a later round above those before; none if there is nothing to do.
        rows: the rows of the job, with the members of its group; None to keep those it has.
        more: whether another round is planned when all slices are finished.
        unfinished: the transactions that the cut did not wait for; as for the cut.
    """

    cut: Instant
    slices: tuple[Slice, ...]
    rows: Rows | None = None
    more: bool = False
    unfinished: Unfinished | None = None


class TaskFailed(Exception):  # noqa: N818 - an outcome, not an error of the program
    """The work cannot succeed in any attempt, so the job fails at once. The message is for the operator.

    Attributes:
        failure: for the owner of the job.
    """

    failure: ClassVar[Failure]


class Task(Protocol):
    """Carries out the jobs of one kind."""

    async def plan(self, lease: Lease) -> Plan:
        """Make the next round of a job's plan: before its first slice, and, after a round with `more`, when that is finished.

        Called again if it fails. In the first round the job is queued and has no cut.
        """
        ...

    async def run(self, held: HeldLease, piece: Slice) -> None:
        """Carry out the slice of a lease.

        Raises:
            LeaseLost: the lease is no longer current; nothing more was published.
            TaskFailed: no attempt can succeed.
        """
        ...


class EffectsOfJobs(Protocol):
    """Stops effects of jobs other than files, such as the removal of resources."""

    async def end(self, job: Job, *, cancelled: bool = False) -> object | None:
        """Stop the effects of a job, before its state changes (law 36); None if it has none. May be called again."""
        ...

    async def sweep(self) -> None:
        """Complete what processes that died have left undone."""
        ...
