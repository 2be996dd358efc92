"""A kind of job as the server sees it: how its jobs are shown, and who may see them. Workers do not import this."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import Job, JobKind, Standing
from fhir_bulk_middleware.contract.job import Request as JobRequest
from fhir_bulk_middleware.scopes import Scopes

__all__ = ["Kind", "View"]


class View(Protocol):
    """Renders the jobs of one kind over HTTP."""

    async def polled(self, request: Request, principal: Principal, standing: Standing, number: int) -> Response:
        """The answer to a poll or to a request for a page of the manifest.

        Args:
            request: the poll.
            principal: the client.
            standing: the job, with its parts if the answer needs them.
            number: the number of the page, from 0.
        """
        ...

    def progress(self, job: Job) -> str:
        """The progress of a job that is not complete, as `X-Progress` tells it."""
        ...

    async def cancelled(self, job: Job) -> Response:
        """The answer to a cancel."""
        ...

    async def cancelled_before(self, job: Job) -> Response | None:
        """The answer to a repeated cancel; None for the dialect's answer for cancelled jobs."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job in the server.

    Attributes:
        name: the kind.
        view: renders its jobs over HTTP.
        uncovered: what a token's scopes lack to cover the job (SE-03, FR-04), as a text for the owner; None if they cover it.
        has_files: whether its parts are files for the owner.
    """

    name: JobKind
    view: View
    uncovered: Callable[[Scopes, JobRequest], str | None]
    has_files: bool
