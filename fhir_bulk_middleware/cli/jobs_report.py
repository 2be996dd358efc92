"""Jobs as the operator reads them: as a table, as lines, as JSON. None has the kick-off URL, which may name patients."""

from collections.abc import Sequence
from typing import Any

from fhir_bulk_middleware.contract.job import Job, JobState
from fhir_bulk_middleware.instant import Instant, Precision, render

__all__ = ["document", "lines", "summary", "table"]

_HEAD = ("JOB", "STATE", "RESOURCES", "KIND", "LEVEL", "SUBJECT", "CREATED")


def document(job: Job) -> dict[str, Any]:
    """A job as a JSON object."""
    kept = job.state in {JobState.COMPLETED, JobState.FAILED}
    return {
        "id": job.id,
        "state": job.state.value,
        "kind": job.request.kind.value,
        "level": job.request.level.value,
        "types": list(job.request.types),
        "done": job.done,
        "estimate": job.estimate,
        "issuer": job.owner.issuer,
        "subject": job.owner.subject,
        "client": job.owner.client,
        "mount": job.mount,
        "created": _at(job.created_at),
        "changed": _at(job.changed_at),
        "expires": _at(job.expires_at) if kept else None,
        "transactionTime": None if job.cut is None else _at(job.cut),
        "failure": None if job.failure is None else job.failure.detail,
    }


def lines(job: Job) -> str:
    """A job as lines of names and values."""
    shown = {name: value for name, value in document(job).items() if value is not None}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {_printable(value)}" for name, value in shown.items())


def summary(job: Job) -> str:
    """A job on one line."""
    return f"{job.id} {job.state.value}: {_progress(job)} resources, {_printable(job.owner.subject)}"


def table(jobs: Sequence[Job]) -> str:
    """Jobs as an aligned table."""
    if not jobs:
        return "There are no jobs."
    rows = [_HEAD, *(_row(job) for job in jobs)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(_HEAD))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(job: Job) -> tuple[str, ...]:
    return (
        job.id,
        job.state.value,
        _progress(job),
        job.request.kind.value,
        job.request.level.value,
        _printable(job.owner.subject),
        _at(job.created_at),
    )


def _progress(job: Job) -> str:
    of = f" of {job.estimate:,}" if job.state.working and job.estimate > job.done else ""
    return f"{job.done:,}{of}"


def _printable(value: object) -> str:
    """A value without characters that a terminal would obey: a client chooses its own name."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def _at(instant: Instant) -> str:
    return render(instant, Precision.SECONDS)
