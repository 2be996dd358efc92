"""Remove-alls: all or none in one transaction, or a job that says exactly what it removed (law 26, AS-04)."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from house import House, job_of, populate

from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.contract.removal import Batch, BatchId, Version
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
ALL = {"x-conditional-delete": "remove-all"}
JOB = {**ALL, "Prefer": "respond-async"}
FINAL = "/Observation?status=final"
SYNTHETIC = b'{"resourceType":"Observation","id":"o%d","status":"final","code":{"text":"x"}}'


@pytest.fixture
def sqlite(tmp_path: Path) -> Any:
    store = SQLiteResourceStore(tmp_path / "resources.db")
    yield store
    store.close()


@pytest.fixture
async def busy(make_house: Any) -> AsyncIterator[House]:
    """A house that removes two resources in a transaction."""
    async with make_house(removal_batch=2) as house:
        await populate(house)
        yield house


async def begin(house: House, url: str = FINAL, scope: str = FULL, **headers: str) -> str:
    response = await house.ask("DELETE", url, scope=scope, headers={**JOB, **headers})
    assert response.status_code == 202, response.text
    return str(response.headers["Content-Location"])


async def living(house: House, type_: str = "Observation") -> set[str]:
    return {stored.id for stored in (await house.resources.search(type_, ids=None, count=1_000, after=None)).resources}


@pytest.mark.long
async def test_10_500_matches_of_one_instant_are_all_removed_or_none(make_house: Any, sqlite: SQLiteResourceStore) -> None:
    loaded = sqlite.load((SYNTHETIC % number for number in range(10_500)), batch=20_000)
    assert loaded == 10_500
    ids = [stored.last_updated for stored in (await sqlite.search("Observation", ids=None, count=20_000, after=None)).resources]
    assert len(set(ids)) == 1, "they have one lastUpdated"
    async with make_house(parts={"resources": sqlite}) as house:
        refused = await house.ask("DELETE", FINAL, scope=FULL, headers=ALL)
        assert refused.status_code == 412
        assert "10500 resources meet the criteria, at most 1000" in refused.text
        assert len((await sqlite.search("Observation", ids=None, count=20_000, after=None)).resources) == 10_500
    async with make_house(parts={"resources": sqlite}, removals_at_most=10_500) as house:
        removed = await house.ask("DELETE", FINAL, scope=FULL, headers=ALL)
        assert removed.status_code == 200
        entries = removed.json()["entry"]
        assert {entry["resource"]["id"] for entry in entries} == {f"o{number}" for number in range(10_500)}
        assert len(entries) == 10_500
        assert (await sqlite.search("Observation", ids=None, count=1, after=None)).resources == ()


async def test_a_remove_all_that_breaks_half_way_removes_nothing(sqlite: SQLiteResourceStore, make_house: Any) -> None:
    sqlite.load(SYNTHETIC % number for number in range(100))
    sqlite._database.write_here(
        lambda connection: connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON resource WHEN new.id = 'o77' AND new.deleted "
            "BEGIN SELECT raise(ABORT, 'disk'); END"
        )
    )
    async with make_house(parts={"resources": sqlite}) as house:
        assert (await house.ask("DELETE", FINAL, scope=FULL, headers=ALL)).status_code == 500
    assert len((await sqlite.search("Observation", ids=None, count=200, after=None)).resources) == 100


async def test_a_long_remove_all_is_a_job_with_a_batch_response_as_its_result(busy: House) -> None:
    location = await begin(busy)
    assert await living(busy) == {"b1", "b2", "b3", "b4"}
    await busy.runner.step()
    await busy.runner.step()
    poll = await busy.ask("GET", location, scope=FULL)
    assert poll.status_code == 202
    assert poll.headers["X-Progress"] == "Deleting - 2 of 4 resources"
    assert int(poll.headers["Retry-After"]) > 0

    await busy.runner.finish()

    assert await living(busy) == set()
    result = await busy.ask("GET", location, scope=FULL)
    assert result.status_code == 200
    assert result.headers["Content-Type"] == "application/fhir+json"
    assert "Expires" in result.headers
    bundle = result.json()
    assert bundle["type"] == "batch-response"
    assert [entry["response"] for entry in bundle["entry"]] == [
        {"status": "204", "location": f"Observation/b{number}/_history/1", "etag": 'W/"1"'} for number in (1, 2, 3, 4)
    ]


async def test_what_changed_meanwhile_is_left_alone_and_reported(busy: House) -> None:
    location = await begin(busy)
    await busy.resources.update("Observation", "b2", {"resourceType": "Observation", "id": "b2", "status": "final"})
    await busy.resources.delete("Observation", "b3")
    await busy.resources.create("Observation", {"resourceType": "Observation", "status": "final"}, "new")
    await busy.runner.finish()

    assert await living(busy) == {"b2", "new"}
    entries = {
        entry["fullUrl"][-2:]: entry["response"] for entry in (await busy.ask("GET", location, scope=FULL)).json()["entry"]
    }
    assert {id_: response["status"] for id_, response in entries.items()} == {"b1": "204", "b2": "412", "b3": "204", "b4": "204"}
    assert "changed since" in entries["b2"]["outcome"]["issue"][0]["diagnostics"]
    assert "by somebody else" in entries["b3"]["outcome"]["issue"][0]["diagnostics"]
    assert "outcome" not in entries["b1"]


async def test_who_may_not_read_gets_counts(busy: House) -> None:
    location = await begin(busy, scope="system/Observation.ds")
    await busy.resources.delete("Observation", "b3")
    await busy.runner.finish()

    result = await busy.ask("GET", location, scope="system/Observation.ds")

    assert result.json()["resourceType"] == "OperationOutcome"
    assert "3 resources were deleted, 1 were left alone." in result.text
    assert (await busy.ask("GET", location, scope="system/Observation.cruds")).json()["resourceType"] == "Bundle"


async def test_a_poll_needs_the_scopes_of_the_kick_off(busy: House) -> None:
    whole, part = await begin(busy), await begin(busy, scope="system/Observation.ds?code:text=y")
    for location, scope, status in [
        (whole, "system/*.rs", 403),
        (whole, "system/Observation.d", 403),
        (whole, "system/Observation.ds?code:text=y", 403),
        (whole, "system/Observation.ds", 202),
        (part, "system/Observation.ds?code:text=y", 202),
        (part, "system/Observation.ds?code:text=z", 403),
        (part, "system/*.cruds", 202),
    ]:
        assert (await busy.ask("GET", location, scope=scope)).status_code == status, scope
        assert (await busy.ask("GET", location, scope=scope, subject="mallory")).status_code == 404


async def test_a_granular_scope_freezes_only_what_it_covers(busy: House) -> None:
    location = await begin(busy, scope="system/Observation.rds?code:text=y")
    await busy.runner.finish()

    assert await living(busy) == {"b1", "b3", "b4"}
    result = await busy.ask("GET", location, scope="system/Observation.rds?code:text=y")
    assert [entry["fullUrl"][-2:] for entry in result.json()["entry"]] == ["b2"]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("batches", [0, 1, 2])
async def test_a_cancel_half_way_tells_what_was_removed(make_house: Any, dialect: Any, batches: int) -> None:
    async with make_house(dialect, removal_batch=2) as house:
        await populate(house)
        headers = {**JOB, "Accept": "application/fhir+json"}
        location = (await house.ask("DELETE", FINAL, scope=FULL, headers=headers)).headers["Content-Location"]
        for _ in range(1 + batches):
            await house.runner.step()

        cancelled = await house.ask("DELETE", location, scope="", headers={"Accept": "application/fhir+json"})
        await house.runner.finish()

        assert cancelled.status_code == 202
        assert f"{2 * batches} resources were deleted, 0 were left alone." in cancelled.text
        assert len(await living(house)) == 4 - 2 * batches, "what was removed stays removed, and nothing more is"
        assert (await house.ask("GET", location, scope=FULL)).status_code == 404


async def test_a_batch_that_is_under_way_when_its_run_is_cancelled_removes_nothing(house: House) -> None:
    """A lease cannot stop a worker; the journal does (law 18)."""
    location = await begin(house)
    await house.ask("DELETE", location, scope=FULL)

    late = Batch(id=BatchId(job_of(location), 0), type="Observation", versions=(Version("b1", "1"),))

    assert await house.resources.remove_batch(late) is None
    assert "b1" in await living(house)


async def test_a_batch_is_done_once_however_often_it_is_begun(house: House) -> None:
    batch = Batch(id=BatchId("r", 0), type="Observation", versions=(Version("b1", "1"), Version("b2", "7")))
    first = await house.resources.remove_batch(batch)
    await house.resources.create("Observation", {"resourceType": "Observation"}, "b1")

    assert await house.resources.remove_batch(batch) == first == [DeleteOutcome.DELETED, DeleteOutcome.VERSION_MISMATCH]
    assert "b1" in await living(house)


@pytest.mark.parametrize("begin_job", [begin, lambda house: house.kick_off()], ids=["remove-all", "export"])
async def test_files_that_a_killed_worker_left_go_when_the_job_completes(busy: House, begin_job: Any) -> None:
    """They lie below the job's id, so a sweep would keep them until the job expires (DL-08)."""
    job_id = job_of(await begin_job(busy))
    async with busy.outputs.create(f"{job_id}/0-0.0.left") as sink:
        await sink.seal()
    await busy.runner.finish()

    assert len(busy.outputs._parts) > 0
    assert [key for key in busy.outputs._parts if key.endswith(".left")] == []


async def test_a_job_that_fails_says_what_it_had_removed_by_then(busy: House) -> None:
    location = await begin(busy)
    await busy.runner.step()
    await busy.runner.step()
    await busy.fail(location)

    response = await busy.ask("GET", location, scope=FULL)

    assert response.status_code == 500
    assert "2 resources were deleted, 0 were left alone." in response.text


async def test_more_than_the_cap_of_jobs_is_refused_before_the_first_is_removed(make_house: Any) -> None:
    async with make_house(removals_at_most=2, removals_at_most_async=3) as house:
        await populate(house)
        for headers, cap in ((ALL, 2), (JOB, 3)):
            refused = await house.ask("DELETE", FINAL, scope=FULL, headers=headers)

            assert refused.status_code == 412
            assert f"4 resources meet the criteria, at most {cap}" in refused.text
        assert len(await living(house)) == 4
        assert not house.jobs._entries


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        ("/Observation?status=amended", {}, 404),
        ("/Observation", {}, 400),
        (FINAL, {"If-Match": "1"}, 400),
        (f"{FINAL}&_dry-run=true", {}, 200),
    ],
)
async def test_no_job_is_made_of_what_removes_nothing(house: House, url: str, headers: dict[str, str], status: int) -> None:
    assert (await house.ask("DELETE", url, scope=FULL, headers={**JOB, **headers})).status_code == status
    assert not house.jobs._entries
    assert len(await living(house)) == 4


@pytest.mark.parametrize("url", ["/Observation/b1", "/Observation?_id=b1"])
async def test_one_resource_is_deleted_at_once_whatever_the_client_prefers(house: House, url: str) -> None:
    assert (await house.ask("DELETE", url, scope=FULL, headers={"Prefer": "respond-async"})).status_code == 200


async def test_the_same_key_comes_to_the_same_job_though_nothing_is_left_to_match(house: House) -> None:
    """Law 12."""
    key = {"Idempotency-Key": "k"}
    first = await begin(house, **key)
    await house.runner.finish()

    assert await begin(house, **key) == first
    other = await house.ask("DELETE", "/Patient?_id=p1", scope=FULL, headers={**JOB, **key})
    assert other.status_code == 422
    assert len(await living(house, "Patient")) == 3


async def test_a_remove_all_of_nothing_under_a_key_is_a_job_with_nothing_in_it(house: House) -> None:
    location = await begin(house, "/Observation?status=amended", **{"Idempotency-Key": "k"})
    await house.runner.finish()

    result = await house.ask("GET", location, scope=FULL)

    assert result.json() == {"resourceType": "Bundle", "type": "batch-response"}


async def test_what_a_job_keeps_of_its_work_is_no_file(house: House) -> None:
    location = await begin(house)
    await house.runner.finish()
    (part,) = await house.parts(location)

    assert (await house.ask("GET", f"/$export-file/{part.file_id}", scope=FULL)).status_code == 404


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
async def test_a_stranger_is_told_of_a_remove_all_what_an_unknown_job_is_told(house: House, state: JobState) -> None:
    """Law 7."""
    location = await begin(house)
    await house.turn(location, state)
    unknown = re.sub(r"[0-9a-f]{8}-", "00000000-", location, count=1)
    for verb in ("GET", "HEAD", "DELETE", "PUT", "POST"):
        for scope in (FULL, "system/*.rs", ""):
            about_job = await house.ask(verb, location, subject="mallory", scope=scope)
            about_nothing = await house.ask(verb, unknown, subject="mallory", scope=scope)

            assert (about_job.status_code, about_job.content) == (about_nothing.status_code, about_nothing.content)


async def test_a_job_and_its_frozen_versions_survive_in_sqlite(tmp_path: Path, make_house: Any) -> None:
    jobs = SQLiteJobStore(tmp_path / "jobs.db")
    async with make_house(parts={"jobs": jobs}) as house:
        await populate(house)
        location = await begin(house, scope="system/Observation.rds?code:text=y")
        await house.runner.finish()

        assert await living(house) == {"b1", "b3", "b4"}
        assert len((await house.ask("GET", location, scope=FULL)).json()["entry"]) == 1
    jobs.close()


async def test_the_log_is_the_journal_of_a_storage_without_one(mint: Any, house: House) -> None:
    class Plain:
        """The same storage, without batches."""

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    for name in (
        "authorise",
        "pages",
        "now",
        "cut",
        "slices",
        "deletions",
        "current",
        "deletable",
        "remove",
        "find",
        "remove_all",
    ):
        setattr(Plain, name, staticmethod(getattr(house.resources, name)))
    without = House(mint, house.dialect, house.settings, resources=Plain(), clock=house.clock)
    with_log = House(mint, house.dialect, house.settings, resources=Plain(), clock=house.clock, log=MemoryDeletionLog())
    async with without.bulk.running(), without.http, with_log.bulk.running(), with_log.http:
        at_once = await without.ask("DELETE", "/Observation?_id=b1,b2", scope=FULL, headers=JOB)
        assert at_once.status_code == 200
        location = await begin(with_log)
        await with_log.runner.finish()

        result = (await with_log.ask("GET", location, scope=FULL)).json()
        assert json.dumps(result).count('"204"') == 2
        assert await living(house) == set()
