"""What an export links, whose files, and what becomes of them (`export/reuse.py`)."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from house import BASE, KICK_OFF, House, job_of, populate
from waiting import PATIENCE

from fhir_bulk_middleware.contract.job import JobState, Part
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

ALL = "/$export?_type=Observation,Organization,Patient"


async def linked(house: House, path: str = ALL, **more: Any) -> list[bool]:
    """For each file of an export, whether it was linked."""
    house.clock.advance(1)
    location = await house.kick_off(path, **more)
    await house.runner.finish()
    (job,) = await house.jobs.kept(after=None, limit=1, job_id=job_of(location), adapter=adapter(house))
    standing = await house.jobs.standing(job.id, job.mount, job.owner)
    assert standing is not None
    assert standing.job.state is JobState.COMPLETED
    return [part.source is not None for part in standing.parts]


def found_in(folder: Path) -> list[Path]:
    """All parts in the folder of an output store."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".job-store"]


def adapter(house: House) -> str:
    return house.bulk.registration.adapter


async def test_a_second_export_of_an_unchanged_store_writes_nothing(house: House) -> None:
    first = await house.export(ALL)
    second = await house.export(ALL)
    assert await house.lines(first) == await house.lines(second)
    for before, after in zip(first["output"], second["output"], strict=True):
        assert before["url"] != after["url"], "ids and URLs are the job's own"
        assert {**before, "url": ""} == {**after, "url": ""}
    assert await linked(house) == [True] * 3
    assert second["transactionTime"] > first["transactionTime"]


async def test_an_unchanged_store_is_exported_with_its_plan(house: House) -> None:
    """One step of a worker: no slice is left to be carried out."""
    await house.export(ALL)
    location = await house.kick_off(ALL)
    assert await house.runner.step()
    assert (await house.ask("GET", location)).status_code == 200
    assert not await house.runner.step()


async def test_only_what_changed_is_written_again(house: House) -> None:
    await house.export(ALL)
    await house.resources.update("Organization", "o1", {"resourceType": "Organization", "id": "o1", "name": "Renamed"})
    manifest = await house.export(ALL)
    assert "Renamed" in (await house.lines(manifest))["Organization"][0]
    assert await linked(house) == [True] * 3
    await house.resources.delete("Patient", "p3")
    assert await linked(house) == [True, True, False]


@pytest.mark.parametrize(
    "path",
    [
        f"{ALL}&_elements=id",
        f"{ALL}&_typeFilter=Observation%3Fstatus%3Dfinal&_typeFilter=Patient%3F_id%3Dp1&_typeFilter=Organization%3F_id%3Do1",
        "/Patient/$export?_type=Observation,Patient",
    ],
)
async def test_another_shape_is_linked_to_its_own_kind_only(make_house: Any, path: str) -> None:
    """Elements, filters and level are part of what must be the same."""
    async with make_house(context=False) as house:
        await populate(house)
        await house.export(ALL)
        first = await linked(house, path)
        assert first
        assert not any(first)
        assert all(await linked(house, path))


@pytest.mark.parametrize(
    "path",
    ["/Group/both/$export", "/Patient/$export", f"{ALL}&_since=2020-01-01T00:00:00Z", f"{ALL}&_until=2026-03-01T12:30:00Z"],
)
async def test_exports_that_depend_on_more_than_their_rows_link_nothing(house: House, path: str) -> None:
    """Context, members and windows."""
    for _ in range(2):
        found = await linked(house, path)
        assert found
        assert not any(found)


@pytest.mark.parametrize(
    ("reuse", "expected"),
    [("never", [False, False, False]), ("owner", [False, False, True]), ("everybody", [False, True, True])],
)
async def test_the_operator_says_whose_files_are_linked(make_house: Any, reuse: str, expected: list[bool]) -> None:
    """By default those of the same owner, so that the speed of an export tells nobody of somebody else's (law 7)."""
    async with make_house(reuse=reuse) as house:
        await populate(house)
        found = [await linked(house, subject=subject) for subject in ("alice", "bob", "bob")]
        assert [all(several) for several in found] == expected
        assert [any(several) for several in found] == expected


async def test_rights_are_part_of_what_must_be_the_same(make_house: Any) -> None:
    """A granular scope restricts rows."""
    scope = "system/Observation.rs?status=final system/Patient.rs system/Organization.rs"
    async with make_house(reuse="everybody") as house:
        await populate(house)
        await house.resources.update("Observation", "b1", {"resourceType": "Observation", "id": "b1", "status": "amended"})
        await house.export(ALL)
        assert await linked(house, subject="bob", scope=scope) == [False, True, True]
        manifest = await house.export(ALL, subject="bob", scope=scope)
        counts = {item["type"]: item["count"] for item in manifest["output"]}
        assert counts["Observation"] == 3


@pytest.mark.parametrize("ends", ["cancel", "expiry"])
async def test_a_file_goes_with_the_last_job_that_has_it(make_house: Any, tmp_path: Path, ends: str) -> None:
    """Cancel, expiry and sweep of one job never touch another's, and the disk has the bytes once."""
    outputs = FileOutputStore(tmp_path)
    async with make_house(parts={"outputs": outputs}) as house:
        house.outputs = outputs
        await populate(house)
        locations = []
        for _ in range(3):
            house.clock.advance(3600)
            locations.append(await house.kick_off(ALL))
            await house.runner.finish()
        files = found_in(tmp_path)
        assert len(files) == 9
        assert len({path.stat().st_ino for path in files}) == 3
        manifests = [(await house.ask("GET", location)).json() for location in locations]
        house.clock.advance(house.settings.retention - 3 * 3600)
        for number, location in enumerate(locations):
            if ends == "cancel":
                assert (await house.ask("DELETE", location)).status_code == 202
            else:
                house.clock.advance(3600)
            await house.sweep()
            for manifest in manifests[number + 1 :]:
                assert sorted(await house.lines(manifest)) == ["Observation", "Organization", "Patient"]
            assert (await house.ask("GET", manifests[number]["output"][0]["url"])).status_code == 404
        assert not found_in(tmp_path)


async def test_where_files_cannot_be_linked_they_are_written(make_house: Any) -> None:
    """Without `SupportsLinking`; and if an earlier job's files have gone."""

    class Plain:
        def __init__(self) -> None:
            self._inner = MemoryOutputStore()
            self.bind, self.create, self.read = self._inner.bind, self._inner.create, self._inner.read
            self.discard, self.jobs = self._inner.discard, self._inner.jobs

    async with make_house(parts={"outputs": Plain()}) as house:
        await populate(house)
        assert [any(await linked(house)) for _ in range(2)] == [False, False]
    async with make_house() as house:
        await populate(house)
        first = await house.kick_off(ALL)
        await house.runner.finish()
        await house.outputs.discard(job_of(first))
        assert not any(await linked(house))
        assert all(await linked(house))


async def test_an_error_file_is_never_linked(make_house: Any) -> None:
    """It names the job's own time and form; the slice is written again with it."""
    async with make_house() as house:
        await populate(house)
        lenient = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}
        for again in (False, True):
            house.clock.advance(1)
            answer = await house.ask("GET", f"{ALL}&_nothing=1", headers=lenient)
            await house.runner.finish()
            manifest = (await house.ask("GET", answer.headers["Content-Location"])).json()
            parts: tuple[Part, ...] = await house.parts(answer.headers["Content-Location"])
            assert len(manifest["error"]) == 1
            assert [part.source is not None for part in parts] == [False, again, again, again]


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from fhir_bulk_middleware.kinds import job_work
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

class Deadly(FileOutputStore):
    async def link(self, links):
        made = await super().link(links)
        assert made
        os.kill(os.getpid(), signal.SIGKILL)

async def main(folder):
    jobs = SQLiteJobStore(folder / "jobs.db", blocking=True)
    work = job_work(
        SQLiteResourceStore(folder / "store.db"), jobs, Deadly(folder / "exports", blocking=True),
        Settings(lease_seconds=0.6, renew_seconds=0.1), adapter=sys.argv[2],
    )
    while await work.step("doomed"):
        pass

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_worker_that_is_killed_between_link_and_record_leaves_no_trace(make_house: Any, tmp_path: Path) -> None:
    resources, jobs = SQLiteResourceStore(tmp_path / "store.db"), SQLiteJobStore(tmp_path / "jobs.db")
    outputs = FileOutputStore(tmp_path / "exports")
    parts = {"resources": resources, "jobs": jobs, "outputs": outputs}
    async with make_house(parts=parts | {"clock": system_clock}, lease_seconds=0.6, renew_seconds=0.1) as house:
        house.resources, house.jobs, house.outputs = resources, jobs, outputs
        house.clock.now = system_clock()
        await populate(house)
        house.clock.now = system_clock()
        first = await house.kick_off(ALL)
        await house.runner.finish()
        second = await house.kick_off(ALL)
        killed = subprocess.run(  # noqa: ASYNC221 - nothing else runs
            [sys.executable, "-c", _KILLED, str(tmp_path), adapter(house)], check=False, env={**os.environ}
        )
        assert killed.returncode == -signal.SIGKILL
        folder = tmp_path / "exports" / job_of(second)
        assert len(found_in(folder)) == 3, "it had linked"
        with sqlite3.connect(tmp_path / "jobs.db") as connection:
            assert connection.execute("SELECT count(*) FROM part WHERE job_id = ?", (job_of(second),)).fetchone() == (0,)
        connection.close()
        manifests = []
        for location in (first, second):
            with anyio.fail_after(PATIENCE):
                while (answer := await house.ask("GET", location)).status_code in {202, 429}:
                    await house.runner.step()  # when the lease has run out
            manifests.append(answer.json())
        assert await house.lines(manifests[0]) == await house.lines(manifests[1])
        named = {Path(part.key).name for part in await house.parts(second)}
        assert {path.name for path in found_in(folder)} == named, "what the first attempt linked is gone"


def test_nothing_but_the_known_choices_is_taken() -> None:
    with pytest.raises(ValueError, match="reuse"):
        Settings.model_validate({"public_base_url": BASE, "reuse": "always"})
