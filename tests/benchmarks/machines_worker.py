"""`python -m tests.benchmarks.machines_worker PLACE`: a worker of procrastinate on PostgreSQL and S3; PLACE is JSON.

In a module of its own, so that workers import nothing else.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.dispatch import ProcrastinateRunner
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.workers.lease_keeper import ThreadLeaseKeeper

__all__ = ["Place", "Waiting"]


class Waiting(PostgresResourceStore):
    """A storage that is far away: each page takes so many seconds longer."""

    def __init__(self, dsn: str, seconds: float, **options: Any) -> None:
        super().__init__(dsn, **options)
        self._seconds = seconds

    def recipe(self) -> Recipe:
        return Recipe(f"{__package__}.machines_worker:made_waiting", {**super().recipe().arguments, "seconds": self._seconds})

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            if self._seconds:
                time.sleep(self._seconds)  # noqa: ASYNC251 - as adapters do
            yield page


def made_waiting(**arguments: Any) -> Waiting:
    """The storage again, by its recipe."""
    return Waiting(**arguments)


@dataclass(frozen=True, slots=True)
class Place:
    """Where servers and workers of one contender work.

    Attributes:
        dsn: of PostgreSQL.
        name: the schema of its jobs and tasks, and the prefix of its objects.
        resources: the schema of the resources.
        seconds: how much longer each page takes.
        bucket: the URL of the object store.
        config: its options.
        slice_bytes: the size of a slice.
    """

    dsn: str
    name: str
    resources: str
    seconds: float
    bucket: str
    config: dict[str, Any]
    slice_bytes: int

    @property
    def settings(self) -> Settings:
        return Settings(slice_bytes=self.slice_bytes, reuse="never")

    def storage(self) -> Waiting:
        return Waiting(self.dsn, self.seconds, schema=self.resources)

    def jobs(self) -> PostgresJobStore:
        return PostgresJobStore(self.dsn, schema=self.name)

    def outputs(self) -> ObjectOutputStore:
        return ObjectOutputStore(f"{self.bucket}/{self.name}", config=self.config, client_options={"allow_http": True})

    def runner(self) -> ProcrastinateRunner:
        return ProcrastinateRunner(self.dsn, schema=f"{self.name}_tasks")

    def work(self, jobs: PostgresJobStore) -> JobWork:
        return job_work(self.storage(), jobs, self.outputs(), self.settings, keep_lease=ThreadLeaseKeeper())


async def _serve(place: Place) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with place.runner().working(place.work(place.jobs())):
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Place(**json.loads(sys.argv[1]))))
