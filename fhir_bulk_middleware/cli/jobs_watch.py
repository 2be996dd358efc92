"""The live view of jobs: bars on a terminal that has rich (extra `cli`), else a line for each change."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import anyio

from fhir_bulk_middleware.cli import jobs_report
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.jobs.operator import JobOperator

__all__ = ["watch"]

_LOOK_SECONDS = 0.5

Show = Callable[[Sequence[Job]], None]
"""Shows the jobs that are at work, or that ended while they were watched."""


async def watch(operator: JobOperator, limit: int, *, as_json: bool, until_idle: bool) -> None:
    """Show the jobs that are queued or running, and what becomes of them, until interrupted.

    Args:
        operator: reads the jobs.
        limit: how many of the newest jobs are looked at.
        as_json: whether to print a JSON line for each change instead of bars.
        until_idle: whether to return when no job is queued or running.
    """
    watched: set[str] = set()
    with _lines(as_json=True) if as_json else _view() as show:
        while True:
            jobs = await operator.listed(limit)
            watched |= {job.id for job in jobs if job.state.working}
            show([job for job in jobs if job.id in watched])
            if until_idle and not any(job.state.working for job in jobs):
                return
            await anyio.sleep(_LOOK_SECONDS)


@contextmanager
def _lines(*, as_json: bool) -> Iterator[Show]:
    """Print a job whenever it has changed."""
    last: dict[str, str] = {}

    def show(jobs: Sequence[Job]) -> None:
        for job in jobs:
            line = compact_json(jobs_report.document(job)) if as_json else jobs_report.summary(job)
            if last.get(job.id) != line:
                last[job.id] = line
                sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    yield show


def _view() -> AbstractContextManager[Show]:
    """Bars on a terminal that has rich, else lines."""
    if not sys.stdout.isatty():
        return _lines(as_json=False)
    try:
        from fhir_bulk_middleware.cli.jobs_bars import bars  # noqa: PLC0415 - rich is an extra
    except ImportError:
        return _lines(as_json=False)
    return bars()
