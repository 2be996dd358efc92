"""A cache of jobs, because reading a request from its JSON costs more than reading its row."""

import threading
from dataclasses import replace
from typing import Any

from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.job_record import JOB_FIELDS, job_from_record

__all__ = ["KnownJobs", "read_job"]

_MOST = 512
_MOST_CHARACTERS = 8 * 1024 * 1024
"""Of all cached jobs, so that jobs which clients made large do not fill memory."""


def read_job(row: tuple[Any, ...]) -> Job:
    """The job of a row with the columns `JOB_FIELDS`."""
    return job_from_record(dict(zip(JOB_FIELDS, row, strict=True)))


class KnownJobs:
    """The jobs that this process read last, by id. Threads may share it."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, job_id: str, revision: int, done: int, estimate: int) -> Job | None:
        """A known job that still has this revision, with its progress; all else of a job changes with the revision."""
        known = self._jobs.get(job_id)
        if known is None or known.revision != revision:
            return None
        return known if (known.done, known.estimate) == (done, estimate) else replace(known, done=done, estimate=estimate)

    def job(self, row: tuple[Any, ...]) -> Job:
        """As `read_job`; a known job is not read again."""
        record = dict(zip(JOB_FIELDS, row, strict=True))
        known = self.get(record["id"], record["revision"], record["done"], record["estimate"])
        if known is not None:
            return known
        job = job_from_record(record)
        with self._lock:
            self._characters += sum(len(value) for value in row if isinstance(value, str))
            if len(self._jobs) >= _MOST or self._characters > _MOST_CHARACTERS:
                self._jobs.clear()
                self._characters = 0
            self._jobs[job.id] = job
        return job
