"""A kind of job: what the rooms of jobs and workers need to know of exports, of remove-alls, and of whatever comes next.

A job is claimed, leased, polled, cancelled, swept and served here, whatever it does. What it does is handed in as values: a
`Task` where work runs, a `Kind` where its owner asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Failure, Job, JobKind, Slice, Standing
from fhir_bulk_middleware.contract.job import Request as JobRequest
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.scopes import Scopes
from fhir_bulk_middleware.workers.lease_keeper import HeldLease

__all__ = ["EffectsOfJobs", "Kind", "Plan", "Task", "TaskFailed", "View"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will do.

    Attributes:
        cut: the manifest's `transactionTime`.
        slices: its pieces of work, numbered from 0; none where there is nothing to do.
        rows: which rows the job may hold, with the members of its group; None where they are those of its kick-off.
    """

    cut: Instant
    slices: tuple[Slice, ...]
    rows: Rows | None = None


class TaskFailed(Exception):  # noqa: N818 - it says what happened
    """Work that no other attempt can carry out: the job fails at once. The message is for the operator.

    Attributes:
        failure: what the owner of the job is told.
    """

    failure: ClassVar[Failure]


class Task(Protocol):
    """What the jobs of one kind do, where work runs."""

    async def plan(self, job: Job, rows: Rows) -> Plan:
        """The plan of a job, made once before its first slice."""
        ...

    async def run(self, held: HeldLease, piece: Slice) -> None:
        """Carry out the slice of a lease.

        Raises:
            LeaseLost: somebody else has it; nothing more was published.
            TaskFailed: no attempt can carry it out.
        """
        ...


class EffectsOfJobs(Protocol):
    """Ends what jobs do beside writing files, such as removing resources."""

    async def end(self, job: Job, *, cancelled: bool = False) -> object | None:
        """End it before the state of the job says so (law 36); None where the job does no such thing. Can be called again."""
        ...

    async def sweep(self) -> None:
        """Complete what processes that died have left."""
        ...


class View(Protocol):
    """How the jobs of one kind look over HTTP."""

    async def polled(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
        """The answer to a poll, or to the request of a further page of a manifest.

        Args:
            request: the poll.
            principal: who polls.
            standing: the job as it stands.
            number: of the page, from 0.
        """
        ...

    async def cancelled(self, job: Job) -> Response:
        """The answer to the cancel of a job."""
        ...

    async def cancelled_before(self, job: Job) -> Response | None:
        """The answer to a cancel that was sent again; None for the dialect's word for a job that is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job, where its owner asks.

    Attributes:
        name: which.
        view: how it looks over HTTP.
        check_scopes: refuses a token whose scopes do not cover the job (SE-03, FR-04).
        has_files: whether its parts are files that the owner can fetch.
    """

    name: JobKind
    view: View
    check_scopes: Callable[[Scopes, JobRequest], None]
    has_files: bool
