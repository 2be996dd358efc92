"""A job that runs and never gets anywhere, to poll."""

import asyncio
import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fhir_bulk_middleware.contract.job import Codec, FileKind, Job, Slice
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.contract.query import Rows
from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore

__all__ = ["Parked", "parked"]

_LEASE = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Parked:
    """The job, and the lease that keeps workers from it."""

    jobs: SQLiteJobStore
    lease: Lease
    path: str

    def hold(self, seconds: float) -> None:
        """Renew the lease for so long."""
        held = asyncio.run(self.jobs.renew(self.lease, system_clock(), lease_seconds=seconds, done=1_000))
        if not held:
            raise RuntimeError("a worker took the job that was to be polled")


@contextmanager
def parked(folder: Path, job: Job, rows: Rows) -> Generator[Parked]:
    """Make a job and hold its only slice. Nobody else may work in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = SQLiteJobStore(folder / "jobs.db", blocking=True)

    async def begin() -> Lease:
        await jobs.add(job, rows, working_at_most=5)
        planning = await jobs.claim("parking", system_clock(), lease_seconds=_LEASE)
        piece = Slice(number=0, kind=FileKind.OUTPUT, type="Patient", range="", estimate=100_000)
        if planning is None or not await jobs.plan(planning, Instant(1), Codec.PLAIN, [piece], system_clock()):
            raise RuntimeError("the job could not be planned")
        lease = await jobs.claim("parking", system_clock(), lease_seconds=_LEASE)
        if lease is None:
            raise RuntimeError("the job could not be begun")
        return lease

    try:
        yield Parked(jobs, asyncio.run(begin()), f"/fhir/$export-status/{job.id}")
    finally:
        jobs.close()
