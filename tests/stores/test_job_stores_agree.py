"""The memory store is the specification: whatever happens, in whatever order, SQLite and PostgreSQL answer as it does.

`FHIR_BULK_POSTGRES_HISTORIES=1000` tries more histories on PostgreSQL.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from fhir_bulk_middleware.contract.job import Codec, Failure, Job, JobState
from fhir_bulk_middleware.contract.job_store import Due, JobStore, ListPlace
from fhir_bulk_middleware.contract.lease import Lease
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import (
    CUT,
    LEASE,
    MOUNT,
    NOW,
    OTHER,
    OWNER,
    ROWS,
    a_job,
    a_part,
    a_slice,
)

pytest_plugins = ["postgres_fixtures"]

T = TypeVar("T")

_any = st.integers(0, 1_000_000)
_done = st.integers(0, 50)
_seconds = st.sampled_from([0, 1, LEASE - 1, LEASE, LEASE + 1, 100, -1, -LEASE - 1, -3600])
_workers = st.sampled_from(["a", "b"])


class JobStoresAgree(RuleBasedStateMachine):
    """Both stores live through the same; each answer is compared, and after each step all that can be seen."""

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.memory = MemoryJobStore()
        self.other = self.opened()
        self.now = NOW
        self.jobs: list[Job] = []
        self.leases: list[Lease] = []
        self.parts = self.planned = 0

    def opened(self) -> SQLiteJobStore | PostgresJobStore:
        """An empty store to compare with the memory store."""
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteJobStore(Path(self.folder.name, "jobs.db"))

    def removed(self) -> None:
        """Remove what `opened` made."""
        self.folder.cleanup()

    def teardown(self) -> None:
        if hasattr(self, "other"):
            self.other.close()
            self.removed()
            self.runner.close()

    def both(self, call: Callable[[JobStore], Awaitable[T]]) -> T:
        async def ask() -> tuple[T, T]:
            return await call(self.memory), await call(self.other)

        specified, answer = self.runner.run(ask())
        assert answer == specified
        return answer

    @rule(seconds=_seconds)
    def time_passes_or_is_set_back(self, seconds: float) -> None:
        self.now = after(self.now, seconds)

    @rule(owner=st.sampled_from([OWNER, OTHER]), age=st.integers(0, 3))
    def add(self, owner: object, age: int) -> None:
        job = a_job(OWNER if owner is OWNER else OTHER, at=Instant(self.now - age))
        if self.both(lambda store: store.add(job, ROWS, working_at_most=3)):
            self.jobs.append(job)

    @rule(worker=_workers)
    def claim(self, worker: str) -> None:
        lease = self.both(lambda store: store.claim(worker, self.now, lease_seconds=LEASE))
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(which=_any, slices=st.integers(0, 3), done=_done, finished=st.booleans(), parts=st.integers(0, 2), more=st.booleans())
    def go_on(self, *, which: int, slices: int, done: int, finished: bool, parts: int, more: bool) -> None:
        """With any lease that was ever given, current or lost."""
        lease = self.leases[which % len(self.leases)]
        if lease.slice is None:
            plan = [a_slice(self.planned + number) for number in range(slices)]
            self.planned += slices
            cut, codec = (CUT, Codec.GZIP) if more else (self.now, Codec.PLAIN)
            rows = replace(ROWS, rights=f"ward={self.planned}") if more else None
            self.both(lambda store: store.plan(lease, cut, codec, plan, self.now, rows=rows, more=more))
            return
        number = lease.slice.number
        sealed = [a_part(lease.job, number, self.parts + extra) for extra in range(parts)]
        self.parts += parts
        self.both(lambda store: store.checkpoint(lease, sealed, f"c{self.parts}", self.now, done=done, finished=finished))

    @precondition(lambda self: self.leases)
    @rule(which=_any, done=_done)
    def renew(self, which: int, done: int) -> None:
        lease = self.leases[which % len(self.leases)]
        self.both(lambda store: store.renew(lease, self.now, lease_seconds=LEASE, done=done))

    @precondition(lambda self: self.leases)
    @rule(which=_any, excused=st.booleans())
    def release(self, which: int, excused: bool) -> None:
        lease = self.leases[which % len(self.leases)]
        self.both(lambda store: store.release(lease, "stopped", excused=excused))

    @rule(worker=_workers)
    def worker_is_gone(self, worker: str) -> None:
        self.both(lambda store: store.release(worker, "gone"))

    @precondition(lambda self: self.jobs)
    @rule(which=_any, state=st.sampled_from([JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED]), stale=st.booleans())
    def end(self, which: int, state: JobState, stale: bool) -> None:
        job = self.jobs[which % len(self.jobs)]
        current = self.both(lambda store: store.find(job.id, job.mount, job.owner))
        if current is None or not current.state.live:
            return
        match state:
            case JobState.CANCELLED:
                ended = current.cancelled(self.now)
            case JobState.EXPIRED:
                ended = current.expired(self.now)
            case _:
                ended = current.failed(Failure(Reason.FAULT, "broken"), self.now)
        self.both(lambda store: store.replace(replace(ended, revision=ended.revision - stale, done=0)))

    @precondition(lambda self: self.jobs)
    @rule(which=_any)
    def reclaimed(self, which: int) -> None:
        self.both(lambda store: store.reclaimed(self.jobs[which % len(self.jobs)].id))

    @precondition(lambda self: self.jobs)
    @rule(which=_any)
    def remove(self, which: int) -> None:
        self.both(lambda store: store.remove(self.jobs[which % len(self.jobs)].id))

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "other"):
            return
        ids = [job.id for job in self.jobs]
        for job in self.jobs:
            self.both(lambda store, job=job: store.find(job.id, job.mount, job.owner))  # type: ignore[misc]
            self.both(lambda store, job=job: store.standing(job.id, job.mount, job.owner))  # type: ignore[misc]
        for step in Due:
            self.both(lambda store, step=step: store.due(step, self.now, 2))  # type: ignore[misc]
        self.both(lambda store: store.keeps_files(ids))
        for place in (None, *(ListPlace.of(job) for job in self.jobs[-2:])):
            for owner in (OWNER, OTHER):
                self.both(lambda store, owner=owner, place=place: _list(store.owned(MOUNT, owner, after=place, limit=2)))  # type: ignore[misc]
            self.both(lambda store, place=place: _list(store.kept(after=place, limit=2)))  # type: ignore[misc]
        for job in self.jobs[-2:]:
            self.both(lambda store, job=job: _list(store.kept(after=None, limit=2, job_id=job.id)))  # type: ignore[misc]


async def _list(listed: Awaitable[Sequence[Job]]) -> list[Job]:
    return list(await listed)


def test_memory_and_file_answer_alike_whatever_happens() -> None:
    run_state_machine_as_test(JobStoresAgree, settings=settings(max_examples=12, stateful_step_count=40, database=None))


def test_memory_and_postgresql_answer_alike_whatever_happens(postgres: str) -> None:
    class OnPostgres(JobStoresAgree):
        def opened(self) -> PostgresJobStore:
            self.schema = f"t_{secrets.token_hex(6)}"
            return PostgresJobStore(postgres, schema=self.schema, patience=60, blocking=True)

        def removed(self) -> None:
            with psycopg.connect(postgres, autocommit=True) as connection:
                connection.execute(f'DROP SCHEMA "{self.schema}" CASCADE'.encode())

    histories = int(os.environ.get("FHIR_BULK_POSTGRES_HISTORIES", "5"))
    run_state_machine_as_test(OnPostgres, settings=settings(max_examples=histories, stateful_step_count=30, database=None))
