"""The stores of a chaos run: SQLite and a folder, or PostgreSQL and S3. Servers, workers and the runner make them."""

import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_bulk_middleware.contract.query import Page, Query
from fhir_bulk_middleware.contract.removal import Batch
from fhir_bulk_middleware.instant import Clock, Instant, system_clock
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Services", "Stores", "step", "stepped"]

_PACE = 0.005
_SERVICES = "services.json"


def stepped(state: Path) -> Clock:
    """The machine's clock, and what was added to it."""
    descriptor = os.open(state / "clock", os.O_RDONLY)
    return lambda: Instant(system_clock() + int.from_bytes(os.pread(descriptor, 8, 0), "little", signed=True))


def step(state: Path, seconds: float) -> None:
    """Set the clock so much ahead of the machine's, in one write."""
    descriptor = os.open(state / "clock", os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(descriptor, round(seconds * 1_000_000).to_bytes(8, "little", signed=True), 0)
    os.close(descriptor)


class Paced(SQLiteResourceStore):
    """A store that takes its time over each page, and blocks meanwhile, so that an export lasts long enough to be struck."""

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        return _paced(super().pages(query, after))

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        _take_time()
        return await super().remove_batch(batch)


class PacedPostgres(PostgresResourceStore):
    """As `Paced`."""

    def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        return _paced(super().pages(query, after))

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        _take_time()
        return await super().remove_batch(batch)


async def _paced(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    async with closing(pages) as source:
        async for page in source:
            time.sleep(_PACE)  # noqa: ASYNC251 - as adapters do
            yield page


def _take_time() -> None:
    time.sleep(_PACE * 10)


@dataclass(frozen=True)
class Services:
    """Where PostgreSQL and the object store are: the real ones, or proxies in front of them.

    Attributes:
        dsn: of PostgreSQL, for jobs and resources.
        sessions: of PostgreSQL, for hints and for procrastinate.
        url: of the object store.
        config: its options.
    """

    dsn: str
    sessions: str
    url: str
    config: dict[str, Any]

    def save(self, state: Path) -> None:
        """For the servers and workers of a STATE."""
        (state / _SERVICES).write_text(json.dumps(vars(self)))

    @classmethod
    def of(cls, state: Path) -> "Services | None":
        """Those of a STATE; None if it is on SQLite."""
        path = state / _SERVICES
        return cls(**json.loads(path.read_text())) if path.exists() else None


class Stores:
    """All stores of a process.

    Args:
        state: the folder of the run.
        blocking: whether they may block, as in a worker; then they take their time, too.
        services: where they are; None for SQLite and a folder.
        patience: seconds in which a step is repeated.
    """

    def __init__(
        self, state: Path, *, blocking: bool = False, services: "Services | None" = None, patience: float = 10.0
    ) -> None:
        self.clock = stepped(state)
        self.resources: SQLiteResourceStore | PostgresResourceStore
        self.jobs: SQLiteJobStore | PostgresJobStore
        self.outputs: FileOutputStore | ObjectOutputStore
        if services is None:
            self.resources = (Paced if blocking else SQLiteResourceStore)(state / "store.db", clock=self.clock)
            self.jobs = SQLiteJobStore(state / "jobs.db")
            self.outputs = FileOutputStore(state / "exports", blocking=blocking)
        else:
            kind = PacedPostgres if blocking else PostgresResourceStore
            self.resources = kind(services.dsn, patience=patience, blocking=blocking, wait_for_writers=0.5)
            listen = False if blocking else services.sessions
            self.jobs = PostgresJobStore(services.dsn, patience=patience, blocking=blocking, listen=listen)
            options: dict[str, Any] = {"allow_http": True, "read_timeout": "3s"}
            self.outputs = ObjectOutputStore(services.url, config=services.config, client_options=options, patience=patience)
        self.audit = AuditFile(state / "audit.jsonl", blocking=blocking, sync="never")

    def close(self) -> None:
        """Close what holds connections or files."""
        self.resources.close()
        self.jobs.close()
