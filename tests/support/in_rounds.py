"""Jobs whose plan comes in rounds, carried out on files; `python in_rounds.py STATE DEATH` does it until it is killed."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from fhir_bulk_middleware.contract.job import Codec, FileKind, Job, JobKind, Part, Slice
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.lease import Lease, Recorded
from fhir_bulk_middleware.contract.observer import Observer
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.identifiers import file_id
from fhir_bulk_middleware.instant import Clock, Instant, system_clock
from fhir_bulk_middleware.jobs.completion import after_completion
from fhir_bulk_middleware.jobs.kind import Plan
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.workers.lease_keeper import HeldLease, LeaseLost

SIZES = (2, 1, 3)
STEP = 10
"""The slices of a round are numbered from this multiple of its number."""


def slices_of(sizes: Sequence[int]) -> list[int]:
    """The numbers of all slices of a plan."""
    return [STEP * number + place for number, size in enumerate(sizes) for place in range(size)]


def line(number: int) -> bytes:
    """What the file of a slice holds."""
    return f'{{"resourceType":"Patient","id":"p{number}"}}\n'.encode()


class InRounds:
    """A `Task` whose plan has a round for each size; the rows of the job say which comes next. Each slice is one file."""

    def __init__(
        self,
        jobs: JobStore,
        outputs: OutputStore,
        sizes: Sequence[int] = SIZES,
        *,
        clock: Clock = system_clock,
        observers: Observers | None = None,
    ) -> None:
        self._jobs = jobs
        self._outputs = outputs
        self._sizes = sizes
        self._clock = clock
        self._observers = observers or Observers()

    async def reach(self, point: str) -> None:
        """Called before a round is planned and before a file is recorded."""

    async def plan(self, lease: Lease) -> Plan:
        """See `Task`."""
        number = int(lease.rows.rights or 0)
        assert (lease.job.cut is None) is (number == 0), "only in the first round a job has no cut"
        await self.reach(f"planning {number}")
        numbers = range(STEP * number, STEP * number + self._sizes[number])
        slices = [Slice(number=each, kind=FileKind.OUTPUT, type="Patient", range="", estimate=5) for each in numbers]
        rows = replace(lease.rows, rights=str(number + 1))
        return Plan(Instant(1_000_000 * (number + 1)), tuple(slices), rows, more=number + 1 < len(self._sizes))

    async def run(self, held: HeldLease, piece: Slice) -> None:
        """See `Task`."""
        lease = held.lease
        content, job = line(piece.number), lease.job
        key = f"{job.id}/{piece.number}-0.{lease.attempt}.ndjson"
        async with self._outputs.create(key) as sink:
            await sink.write(content)
            await sink.seal()
        await self.reach(f"writing {piece.number}")
        part = Part(
            file_id=file_id(job.id, piece.number, 0),
            slice=piece.number,
            number=0,
            kind=FileKind.OUTPUT,
            type="Patient",
            key=key,
            codec=Codec.PLAIN,
            count=1,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            stored_size=len(content),
            flush_points=(),
            sealed_at=self._clock(),
        )
        now = self._clock()
        recorded = await self._jobs.checkpoint(lease, [part], "end", now, done=1, finished=True)
        if not recorded:
            raise LeaseLost
        with anyio.CancelScope(shield=True):  # finished work has no lease, which the lease keeper may notice
            if recorded is Recorded.COMPLETED:
                await after_completion(job, now, jobs=self._jobs, outputs=self._outputs, observers=self._observers)


class NoEffects:
    """Jobs that have no effects but files."""

    async def end(self, job: Job, *, cancelled: bool = False) -> object | None:
        """There is nothing to end."""

    async def sweep(self) -> None:
        """There is nothing to sweep."""


def work_in_rounds(
    jobs: JobStore,
    outputs: OutputStore,
    settings: Settings,
    clock: Clock = system_clock,
    *,
    sizes: Sequence[int] = SIZES,
    task: Callable[..., InRounds] = InRounds,
    observers: Sequence[Observer] = (),
) -> JobWork:
    """The work of such jobs."""
    told = Observers(observers)
    made = task(jobs, outputs, sizes, clock=clock, observers=told)
    return JobWork({JobKind.EXPORT: made}, jobs, outputs, settings, clock, observers=told, effects=NoEffects())


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Mortal(InRounds):
    """Is killed where the command line says."""

    async def reach(self, point: str) -> None:
        if point == sys.argv[2]:
            _killed()


class _MortalStore(SQLiteJobStore):
    """Kills its process after it has written what the command line says."""

    async def plan(
        self, lease: Lease, cut: Instant, codec: Codec, slices: Sequence[Slice], *args: Instant, **more: object
    ) -> bool:
        planned = await super().plan(lease, cut, codec, slices, *args, **more)  # type: ignore[arg-type]  # as they were given
        if planned and sys.argv[2] == f"planned {lease.rows.rights or 0}":
            _killed()
        return planned

    async def checkpoint(self, lease: Lease, *args: object, **more: object) -> Recorded:
        recorded = await super().checkpoint(lease, *args, **more)  # type: ignore[arg-type]  # as they were given
        if recorded and lease.slice and sys.argv[2] == f"recorded {lease.slice.number}":
            _killed()
        return recorded


async def _until_killed() -> None:
    state = Path(sys.argv[1])
    jobs, outputs = _MortalStore(state / "jobs.db", blocking=True), FileOutputStore(state / "exports")
    work = work_in_rounds(jobs, outputs, Settings(), task=_Mortal)
    while await work.step("mortal"):
        pass


if __name__ == "__main__":
    anyio.run(_until_killed)
