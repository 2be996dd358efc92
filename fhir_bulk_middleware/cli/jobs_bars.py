"""Jobs as progress bars, with rich (extra `cli`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fhir_bulk_middleware.cli import jobs_report
from fhir_bulk_middleware.cli.jobs_watch import Show
from fhir_bulk_middleware.contract.job import Job, JobState

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
except ImportError as error:
    raise ImportError("tables and bars need rich: pip install 'fhir-bulk-middleware[cli]'") from error

__all__ = ["bars"]


@contextmanager
def bars(console: Console | None = None) -> Iterator[Show]:
    """A bar for each job, while the context is open; a job that ended keeps its bar."""
    known: dict[str, TaskID] = {}
    # No mark-up, since the text has the name that a client chose.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TaskProgressColumn(markup=False))
    with Progress(*columns, console=console) as progress:

        def show(jobs: Sequence[Job]) -> None:
            for job in reversed(jobs):
                total = max(job.estimate, job.done, 1)
                done = total if job.state is JobState.COMPLETED else job.done
                if job.id not in known:
                    known[job.id] = progress.add_task("", total=total)
                progress.update(known[job.id], description=jobs_report.summary(job), completed=done, total=total)

        yield show
