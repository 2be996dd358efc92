"""Exports without HTTP: a job goes in, sealed files come out, and the clock runs in between."""

import asyncio
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio.from_thread import BlockingPortal, start_blocking_portal

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Job, JobState, Options, Part, Request
from fhir_bulk_middleware.contract.job_store import JobStore
from fhir_bulk_middleware.contract.query import Everything, Filter, Level, Rows, Selection, Window
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.files.part import default_codec
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Instant, Precision, system_clock
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.job_values import sealed
from fhir_bulk_middleware.workers.lease_keeper import ThreadLeaseKeeper
from fhir_bulk_middleware.workers.runner import ProcessRunner

from .chosen_codec import ChosenCodec
from .data import Data

__all__ = ["MOUNT", "OWNER", "Export", "Exports", "Wanted"]

MOUNT = "standard"
OWNER = Owner("https://benchmark.example", "benchmark")
_LOOK = 0.003
_EVERYTHING = Everything()
_AS_ASKED = Options(base_url="https://benchmark.example/fhir")  # as every kick-off has one
_AS_NEW_JOBS_LIE = default_codec()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export; by default all there is, as a new job would lie."""

    selection: Selection = _EVERYTHING
    since: Instant | None = None
    options: Options = _AS_ASKED
    filters: tuple[Filter, ...] = ()
    types: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Export:
    """What came of it.

    Attributes:
        seconds: from the durable job to the durable result.
        parts: its files.
    """

    seconds: float
    parts: Sequence[Part]

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def stored(self) -> int:
        return sum(part.stored_size for part in self.parts)


class Exports:
    """The stores of some exports of one set of data, which is in our embedded store unless another adapter is given.

    With a job store of one's own, the work is carried out by workers of one's own, which know their output store.
    """

    def __init__(
        self,
        data: Data,
        folder: Path,
        codec: Codec = _AS_NEW_JOBS_LIE,
        settings: Settings | None = None,
        resources: SupportsExport | None = None,
        *,
        reuse: str = "never",
        jobs: JobStore | None = None,
        look: float = _LOOK,
    ) -> None:
        self._data = data
        self._look = look
        self.folder = folder
        # Not nice: what is compared with them is not nice either, and on a busy machine that would be all that is measured.
        self._settings = (settings or Settings()).model_copy(update={"worker_niceness": 0, "reuse": reuse})
        self.resources = resources or SQLiteResourceStore(data.store)
        self.jobs: JobStore = jobs or ChosenCodec(folder / "jobs.db", codec.value, blocking=True)
        self.outputs = FileOutputStore(folder / "exports", blocking=True)

    def close(self) -> None:
        if isinstance(self.resources, SQLiteResourceStore):
            self.resources.close()
        if isinstance(self.jobs, ChosenCodec):
            self.jobs.close()

    @property
    def count(self) -> int:
        """How many resources an export of everything has."""
        return self._data.count

    def clear(self) -> None:
        """Remove the files of earlier exports."""
        shutil.rmtree(self.folder / "exports", ignore_errors=True)

    def here(self, wanted: Wanted, *, keep: bool = False) -> Export:
        """Export in this process, one slice after the other, as a worker does; by default instead of what earlier ones left."""
        if not keep:
            self.clear()
        return asyncio.run(self._here(wanted))

    async def _here(self, wanted: Wanted) -> Export:
        job = await self._add(wanted)
        work = self._work(blocking=True)
        begun = time.perf_counter()
        while await work.step("benchmark"):
            pass
        seconds = time.perf_counter() - begun
        return await self._done(job, seconds)

    @contextmanager
    def pool(self) -> Generator["Pool"]:
        """Worker processes, ready."""
        runner = ProcessRunner(self.folder / "runner", self._settings)
        bells = self.folder / "runner" / "workers"
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(runner.running(self._work(blocking=False))):
            while not bells.exists() or len(list(bells.iterdir())) < self._settings.worker_processes:
                time.sleep(0.01)
            yield Pool(self, runner, portal)

    async def in_pool(self, runner: JobRunner, wanted: Wanted) -> Export:
        job = await self._add(wanted)
        begun = time.perf_counter()
        runner.wake()
        while (await self._find(job)).state.working:  # noqa: ASYNC110 - as every client of an export does
            await asyncio.sleep(self._look)
        return await self._done(job, time.perf_counter() - begun)

    def _work(self, *, blocking: bool) -> JobWork:
        outputs = self.outputs if blocking else FileOutputStore(self.folder / "exports")
        if blocking:
            return job_work(self.resources, self.jobs, outputs, self._settings, keep_lease=ThreadLeaseKeeper())
        return job_work(self.resources, self.jobs, outputs, self._settings)

    async def _add(self, wanted: Wanted) -> Job:
        now = system_clock()
        job = Job(
            id=new_job_id(),
            mount=MOUNT,
            owner=OWNER,
            request=Request(
                url="https://benchmark.example/fhir/$export",
                level=Level.SYSTEM if wanted.selection == _EVERYTHING else Level.GROUP,
                types=wanted.types or self._data.types,
                window=Window(wanted.since, None),
                retention=3600,
                precision=Precision.MICROSECONDS,
                options=wanted.options,
            ),
            created_at=now,
            changed_at=now,
        )
        if (
            await self.jobs.add(job, Rows(wanted.selection, "", wanted.filters, context=wanted.context), working_at_most=5)
            is None
        ):
            raise RuntimeError("an earlier export did not end")
        return job

    async def _find(self, job: Job) -> Job:
        found = await self.jobs.find(job.id, job.mount, job.owner)
        if found is None:
            raise RuntimeError("the job is gone")
        return found

    async def _done(self, job: Job, seconds: float) -> Export:
        found = await self._find(job)
        if found.state is not JobState.COMPLETED:
            raise RuntimeError(f"the export is {found.state}: {found.failure}")
        return Export(seconds, await sealed(self.jobs, job))


@dataclass(frozen=True, slots=True)
class Pool:
    """Worker processes that wait for exports."""

    exports: Exports
    _runner: JobRunner
    _portal: BlockingPortal

    def export(self, wanted: Wanted) -> Export:
        """Export in all of them, instead of what earlier ones left."""
        self.exports.clear()
        return self.again(wanted)

    def again(self, wanted: Wanted) -> Export:
        """Export in all of them, beside what earlier ones left."""
        return self._portal.call(self.exports.in_pool, self._runner, wanted)
