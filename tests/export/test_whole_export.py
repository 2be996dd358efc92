"""Real stores, real files, real processes: what the storage holds at the cut is what a client gets."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_of import EVERYTHING, MOUNT, OWNER, job
from waiting import until

from fhir_bulk_middleware.contract.job import FileKind, Job, JobState
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Rows, Selection, Window
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.instant import Precision, system_clock
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.job_values import sealed
from fhir_bulk_middleware.workers.runner import ProcessRunner

SETTINGS = Settings(page_bytes=2048, slice_bytes=16 * 1024, part_bytes=8 * 1024, worker_processes=2)


class Server:
    """Stores in a folder, and a pool of workers."""

    def __init__(self, folder: Path) -> None:
        self.resources = SQLiteResourceStore(folder / "resources.db")
        self.jobs = SQLiteJobStore(folder / "jobs.db")
        self.outputs = FileOutputStore(folder / "exports")
        self.runner = ProcessRunner(folder, SETTINGS)

    def work(self) -> JobWork:
        return job_work(self.resources, self.jobs, self.outputs, SETTINGS)

    async def export(self, *types: str, selection: Selection = EVERYTHING, window: Window = Window()) -> Job:  # noqa: B008
        made = job(*types, window=window, created_at=system_clock(), precision=Precision.MICROSECONDS)
        assert await self.jobs.add(made, Rows(selection), working_at_most=5)
        self.runner.wake()
        await until(lambda: self._ended(made))
        found = await self.jobs.find(made.id, MOUNT, OWNER)
        assert found is not None
        return found

    async def _ended(self, made: Job) -> bool:
        found = await self.jobs.find(made.id, MOUNT, OWNER)
        return found is not None and not found.state.working

    async def lines(self, made: Job, kind: FileKind = FileKind.OUTPUT) -> list[bytes]:
        return [
            line
            for part in await sealed(self.jobs, made)
            if part.kind is kind
            for line in b"".join([chunk async for chunk in PartReader(self.outputs, part).read(0, part.size)]).splitlines()
        ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.jobs.close()
    server.resources.close()


@pytest.mark.anyio
async def test_exports_hold_the_storage_as_it_was_at_their_cut_and_chain_by_since(server: Server) -> None:
    texts: dict[str, bytes] = {}
    for number in range(300):
        resource = {
            "resourceType": "Observation",
            "subject": {"reference": f"Patient/p{number % 7}"},
            "note": [{"text": "ü" * number}],
        }
        texts[f"o{number}"] = (await server.resources.create("Observation", resource, f"o{number}")).json
    for number in range(7):
        await server.resources.create("Patient", {"resourceType": "Patient"}, f"p{number}")

    async with server.runner.running(server.work()):
        first = await server.export("Observation", "Patient")
        lines = await server.lines(first)
        assert first.state is JobState.COMPLETED
        assert first.done == len(lines) == 307
        assert {json.loads(line)["id"]: line for line in lines if b"Observation" in line[:30]} == texts

        await server.resources.delete("Observation", "o5")
        await server.resources.update("Observation", "o6", {"resourceType": "Observation", "status": "final"})
        second = await server.export("Observation", "Patient", window=Window(since=first.cut))
        assert [json.loads(line)["id"] for line in await server.lines(second)] == ["o6"]
        (deleted,) = await server.lines(second, FileKind.DELETED)
        assert json.loads(deleted)["entry"] == [{"request": {"method": "DELETE", "url": "Observation/o5"}}]

        group = await server.export("Observation", "Patient", selection=Compartments(frozenset({"Patient/p1", "Patient/p3"})))
        assert {json.loads(line).get("subject", {}).get("reference") for line in await server.lines(group)} == {
            None,
            "Patient/p1",
            "Patient/p3",
        }
        everybody = await server.export("Observation", "Patient", selection=EveryPatient())
        assert everybody.done == 305  # not o5, which is gone, nor o6, which names nobody any more
