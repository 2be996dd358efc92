"""What the stores of jobs do with work that a transaction has granted: they make a lease of it, with the rows of its job."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from fhir_bulk_middleware.contract.job import Job, Slice
from fhir_bulk_middleware.contract.job_record import rows_from_content
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Rows

__all__ = ["Granted", "LastRows"]


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease without its worker and without the rows of its job."""

    job: Job
    slice: Slice | None
    attempt: int
    tries: int
    cause: str | None

    def lease(self, worker: str, rows: Rows) -> Lease:
        """The lease."""
        return Lease(
            job=self.job,
            rows=rows,
            slice=self.slice,
            attempt=self.attempt,
            worker=worker,
            tries=self.tries,
            cause=self.cause,
        )


class LastRows:
    """The rows of the job whose work was claimed last, because a job mostly has more slices.

    Args:
        aside: runs slow work outside the event loop.
    """

    def __init__(self, aside: Callable[[Callable[[], Rows]], Awaitable[Rows]]) -> None:
        self._aside = aside
        self._rows: tuple[tuple[str, int], Rows] | None = None

    async def of(self, job: Job, read: Callable[[], Awaitable[bytes | None]]) -> Rows | None:
        """The rows of a job; None if there are none any more.

        Args:
            job: the key contains its revision, because each round of the plan may replace the rows.
            read: reads the content of the rows, None if the job was reclaimed.
        """
        remembered, key = self._rows, (job.id, job.revision)
        if remembered is not None and remembered[0] == key:
            return remembered[1]
        content = await read()
        if content is None:
            return None
        rows = await self._aside(partial(rows_from_content, content))
        self._rows = key, rows
        return rows

    def forget(self) -> None:
        """Free the memory."""
        self._rows = None
