"""Deletes feed the exports that come after, on stores with a history and on hosts that delete hard (laws 3, 6, 27, 28)."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import HardHost
from house import BASE, HandClock, House, people

from fhir_bulk_middleware import AIDBOX, BulkData
from fhir_bulk_middleware.contract.removal import Current, Removal
from fhir_bulk_middleware.delete.policy import NOT_FOUND
from fhir_bulk_middleware.instant import Instant, Precision, render
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
ALL = {"x-conditional-delete": "remove-all"}
JOB = {**ALL, "Prefer": "respond-async"}
FINAL = "/Observation?status=final"


@pytest.fixture
async def hard(make_house: Any, tmp_path: Path) -> AsyncIterator[tuple[House, HardHost]]:
    """A house on a host that deletes hard, with a log of ours."""
    host = HardHost()
    log = SQLiteDeletionLog(tmp_path / "log.db")
    async with make_house(parts={"resources": host, "log": log}, removal_batch=2) as house:
        host.clock = house.clock
        await host.put(*(json.dumps(each) for each in people() if each["resourceType"] in {"Patient", "Observation"}))
        house.clock.advance(60)
        yield house, host
    log.close()


async def since(house: House) -> str:
    """Now, as a `_since` of what changes from now on; with some time before and behind."""
    house.clock.advance(60)
    now = render(house.clock(), Precision.MILLISECONDS)
    house.clock.advance(60)
    return now


async def gone(house: House, path: str) -> list[str]:
    house.clock.advance(60)
    manifest = await house.export(path)
    lines = (await house.lines(manifest, "deleted")).get("Bundle", [])
    return sorted(json.loads(line)["entry"][0]["request"]["url"] for line in lines)


async def put_out(house: House, path: str) -> list[str]:
    house.clock.advance(60)
    lines = await house.lines(await house.export(path))
    return sorted(json.loads(line)["id"] for several in lines.values() for line in several)


async def test_a_delete_is_in_the_next_export_and_what_came_back_is_in_its_output(house: House) -> None:
    start = await since(house)
    for id_ in ("p1", "p2"):
        assert (await house.ask("DELETE", f"/Patient/{id_}", scope=FULL)).status_code == 200
    await house.resources.update("Patient", "p2", {"resourceType": "Patient"})

    assert await gone(house, f"/$export?_type=Patient&_since={start}") == ["Patient/p1"]
    assert await put_out(house, f"/$export?_type=Patient&_since={start}") == ["p2"]
    assert await gone(house, f"/$export?_type=Patient&_since={await since(house)}") == []


@pytest.mark.parametrize("headers", [ALL, JOB], ids=["at once", "as a job"])
async def test_a_remove_all_is_in_the_next_export_each_once(house: House, headers: dict[str, str]) -> None:
    start = await since(house)
    await house.ask("DELETE", FINAL, scope=FULL, headers=headers)
    await house.runner.finish()

    assert await gone(house, f"/$export?_type=Observation&_since={start}") == [f"Observation/b{n}" for n in (1, 2, 3, 4)]


async def test_whose_it_was_decides_who_is_told_at_group_level(house: House) -> None:
    """Law 27."""
    start = await since(house)
    await house.ask("DELETE", FINAL, scope=FULL, headers=ALL)

    assert await gone(house, f"/Group/first/$export?_type=Observation&_since={start}") == ["Observation/b1", "Observation/b4"]
    assert await gone(house, f"/Patient/$export?_type=Observation&_since={start}") == [f"Observation/b{n}" for n in (1, 2, 4)]
    assert await gone(house, f"/Group/nobody/$export?_type=Observation&_since={start}") == []


async def test_with_snapshots_an_export_under_way_still_has_what_is_deleted(house: House) -> None:
    house.clock.advance(1)
    location = await house.kick_off("/$export?_type=Patient&_since=2020-01-01T00:00:00Z")
    await house.runner.step()  # the cut is fixed
    await house.ask("DELETE", "/Patient/p1", scope=FULL)
    await house.runner.finish()

    manifest = (await house.ask("GET", location)).json()
    ids = sorted(json.loads(line)["id"] for line in (await house.lines(manifest))["Patient"])
    assert ids == ["p1", "p2", "p3"]
    assert manifest["deleted"] == []
    assert await gone(house, f"/$export?_type=Patient&_since={manifest['transactionTime']}") == ["Patient/p1"]


async def test_without_snapshots_the_next_deleted_has_it(hard: tuple[House, HardHost]) -> None:
    house, _ = hard
    location = await house.kick_off("/$export?_type=Patient&_since=2020-01-01T00:00:00Z")
    await house.runner.step()
    await house.ask("DELETE", "/Patient/p1", scope=FULL)
    await house.runner.finish()

    manifest = (await house.ask("GET", location)).json()
    assert manifest["extension"] == {"exactSnapshot": False, "deletedComplete": False}, "the host may delete on its own (law 28)"
    assert await gone(house, f"/$export?_type=Patient&_since={manifest['transactionTime']}") == ["Patient/p1"]


async def test_a_host_that_deletes_hard_gets_a_memory(hard: tuple[House, HardHost]) -> None:
    house, host = hard
    version = host.rows["Patient", "p1"].version
    start = await since(house)

    removed = await house.ask("DELETE", "/Patient/p1", scope=FULL, headers={"If-Match": f'W/"{version}"'})
    assert removed.status_code == 200
    assert removed.headers["ETag"] == f'W/"{version}"'
    for tag, status in ((f'W/"{version}"', 204), (version, 204), ("other", 412), ("*", 412)):
        again = await house.ask("DELETE", "/Patient/p1", scope=FULL, headers={"If-Match": tag})
        assert again.status_code == status, tag
    assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 204
    assert ("Patient", "p1") not in host.rows
    assert await gone(house, f"/$export?_type=Patient&_since={start}") == ["Patient/p1"]

    await host.put(json.dumps({"resourceType": "Patient", "id": "p1"}))
    assert await gone(house, f"/$export?_type=Patient&_since={start}") == [], "it lives again"
    assert await put_out(house, f"/$export?_type=Patient&_since={start}") == ["p1"]


async def test_the_log_knows_whose_it_was_that_names_its_patient_by_the_server_s_url(
    hard: tuple[House, HardHost],
) -> None:
    """KO-85, law 27."""
    house, host = hard
    for id_, base in (("own", BASE), ("other", "https://other.example/fhir")):
        await host.put(json.dumps({"resourceType": "Observation", "id": id_, "subject": {"reference": f"{base}/Patient/p1"}}))
    start = await since(house)
    for id_ in ("own", "other"):
        assert (await house.ask("DELETE", f"/Observation/{id_}", scope=FULL)).status_code == 200
    assert await gone(house, f"/Patient/$export?_type=Observation&_since={start}") == ["Observation/own"]


async def test_what_the_log_knows_is_told_from_what_never_was(make_house: Any) -> None:
    policy = AIDBOX.but({DeleteOutcome.NEVER_EXISTED: NOT_FOUND})
    host = HardHost()
    await host.put('{"resourceType":"Patient","id":"p1"}')
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog(), "deletes": policy}) as house:
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 200
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 204
        assert (await house.ask("DELETE", "/Patient/never", scope=FULL)).status_code == 404


async def test_a_remove_all_on_a_host_that_deletes_hard(hard: tuple[House, HardHost]) -> None:
    house, host = hard
    start = await since(house)
    location = (await house.ask("DELETE", FINAL, scope=FULL, headers=JOB)).headers["Content-Location"]
    await host.put('{"resourceType":"Observation","id":"b2","status":"final"}')
    host.protected.add("Observation/b4")
    await house.runner.finish()

    bundle = (await house.ask("GET", location, scope=FULL)).json()
    told = {entry["fullUrl"][-2:]: entry["response"]["status"] for entry in bundle["entry"]}
    assert told == {"b1": "204", "b2": "412", "b3": "204", "b4": "409"}
    assert await gone(house, f"/$export?_type=Observation&_since={start}") == ["Observation/b1", "Observation/b3"]
    assert await gone(house, f"/Patient/$export?_type=Observation&_since={start}") == ["Observation/b1"]


@pytest.mark.parametrize(("url", "headers"), [("/Patient/p1", {}), ("/Patient?_id=p1", {}), ("/Patient?_id=p1,p2", ALL)])
async def test_what_the_storage_protects_stays(hard: tuple[House, HardHost], url: str, headers: dict[str, str]) -> None:
    """RD-07."""
    house, host = hard
    host.protected.add("Patient/p1")
    start = await since(house)

    refused = await house.ask("DELETE", url, scope=FULL, headers=headers)

    assert refused.status_code == 409
    assert "Others refer to it." in refused.text
    assert {"p1", "p2", "p3"} <= {id_ for _, id_ in host.rows}
    assert await gone(house, f"/$export?_type=Patient&_since={start}") == []


class Dying(HardHost):
    """Dies before, or after, the delete takes effect."""

    effect: bool | None = None

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        effect, self.effect = self.effect, None
        if effect is False:
            raise OSError("before")
        removal = await super().remove(type_, id_, if_version, rights)
        if effect is True:
            raise OSError("after")
        return removal


@pytest.mark.parametrize("effect", [False, True], ids=["before the delete", "after the delete"])
async def test_a_delete_that_a_crash_cut_short_is_settled_by_reading(make_house: Any, effect: bool) -> None:
    """Law 28."""
    host = Dying()
    await host.put('{"resourceType":"Patient","id":"p1"}')
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog()}) as house:
        start = await since(house)
        host.effect = effect
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 500

        assert await gone(house, f"/$export?_type=Patient&_since={start}") == (["Patient/p1"] if effect else [])
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == (204 if effect else 200)
        assert await gone(house, f"/$export?_type=Patient&_since={start}") == ["Patient/p1"]


@pytest.mark.parametrize("effect", [False, True], ids=["before the delete", "after the delete"])
async def test_a_batch_that_a_crash_cut_short_is_gone_on_with(make_house: Any, effect: bool) -> None:
    host = Dying()
    await host.put(*(f'{{"resourceType":"Patient","id":"p{number}","gender":"male"}}' for number in range(4)))
    parts = {"resources": host, "log": MemoryDeletionLog()}
    async with make_house(parts=parts, removal_batch=3, renew_seconds=0.001, lease_seconds=1) as house:
        start = await since(house)
        location = (await house.ask("DELETE", "/Patient?gender=male", scope=FULL, headers=JOB)).headers["Content-Location"]
        await house.runner.step()
        host.effect = effect
        await house.runner.finish()

        bundle = (await house.ask("GET", location, scope=FULL)).json()
        assert [entry["response"]["status"] for entry in bundle["entry"]] == ["204"] * 4
        assert not any("outcome" in entry["response"] for entry in bundle["entry"]), "each was removed by this job"
        assert await gone(house, f"/$export?_type=Patient&_since={start}") == [f"Patient/p{number}" for number in range(4)]


async def test_a_remove_all_one_by_one_reports_progress_every_fifty_resources(make_house: Any) -> None:
    host = HardHost()
    await host.put(*(f'{{"resourceType":"Patient","id":"p{number}","gender":"male"}}' for number in range(120)))
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog()}) as house:
        location = (await house.ask("DELETE", "/Patient?gender=male", scope=FULL, headers=JOB)).headers["Content-Location"]
        poll = await house.ask("GET", location, scope=FULL, headers={"Prefer": "wait=0"})
        assert poll.headers["X-Progress"] == "Delete queued"
        await house.runner.step()
        await house.runner.step()
        poll = await house.ask("GET", location, scope=FULL, headers={"Prefer": "wait=0"})
        assert poll.headers["X-Progress"] == "Deleting - 50 of 120 resources"
        await house.runner.finish()

        bundle = (await house.ask("GET", location, scope=FULL)).json()
        assert [entry["response"]["status"] for entry in bundle["entry"]] == ["204"] * 120


async def test_a_cancel_on_such_a_host_tells_what_was_removed(hard: tuple[House, HardHost]) -> None:
    house, host = hard
    location = (await house.ask("DELETE", FINAL, scope=FULL, headers=JOB)).headers["Content-Location"]
    await house.runner.step()
    await house.runner.step()

    cancelled = await house.ask("DELETE", location, scope=FULL)
    await house.runner.finish()

    assert "2 resources were deleted, 0 were left alone." in cancelled.text
    assert sum(type_ == "Observation" for type_, _ in host.rows) == 2


class Ticking(HandClock):
    """A clock that goes on each time that it is read."""

    def __call__(self) -> Instant:
        self.now = Instant(self.now + 1_000)
        return self.now


class Snapshots(MemoryResourceStore):
    """Reads as of an instant and does not tell what was deleted; dies after a delete, or answers late."""

    deletions = None  # type: ignore[assignment]
    dies = False
    meanwhile: Callable[[], Awaitable[None]] | None = None
    tells = True

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.dies:
            raise OSError("after")
        return removal

    async def current(self, type_: str, id_: str) -> Current | None:
        found = await super().current(type_, id_)
        return found if self.tells or found is None or not found.deleted else None


@pytest.mark.parametrize("history", ["answered", "answered late", "died", "died, and the storage does not tell"])
async def test_before_a_storage_with_snapshots_a_deletion_is_in_the_export_that_the_resource_is_missing_from(
    make_house: Any, history: str
) -> None:
    """Law 28: neither late by an export nor in two."""
    clock = Ticking()
    host = Snapshots(clock=clock)
    exports: list[tuple[list[str], list[str]]] = []
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog(), "clock": clock}) as house:
        house.clock = clock
        for id_ in ("p1", "p2"):
            await host.create("Patient", {"resourceType": "Patient"}, id_)
        since = (await house.export("/$export?_type=Patient"))["transactionTime"]

        async def export() -> None:
            nonlocal since
            clock.advance(1)
            location = await house.kick_off(f"/$export?_type=Patient&_since={since}")
            await house.runner.finish()
            manifest = (await house.ask("GET", location)).json()
            lines = await house.lines(manifest)
            bundles = (await house.lines(manifest, "deleted")).get("Bundle", [])
            urls = [json.loads(line)["entry"][0]["request"]["url"] for line in bundles]
            exports.append(([json.loads(line)["id"] for line in lines.get("Patient", [])], urls))
            since = manifest["transactionTime"]

        host.dies, host.meanwhile = history.startswith("died"), export if history == "answered late" else None
        host.tells = history != "died, and the storage does not tell"
        removed = await house.ask("DELETE", "/Patient/p1", scope=FULL)
        assert removed.status_code == (500 if host.dies else 200)
        await export()
        await export()
        told = [urls for _, urls in exports]
        assert told == [["Patient/p1"]] + [[]] * (len(exports) - 1), "in the first export whose cut is after it, and in no other"


def test_a_storage_that_forgets_what_it_deletes_needs_a_log_or_no_deletes(house_parts: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"log: HardHost .*SupportsDeletions"):
        BulkData(**house_parts, deletes=AIDBOX)
    without = BulkData(**house_parts, deletes=None)
    assert not [row for row in without.table if row.path.startswith("/{type}")]
    assert [row.path for row in BulkData(**house_parts, log=MemoryDeletionLog(), deletes=AIDBOX).table if row.shared] == [
        "/{type}/{id}",
        "/{type}",
    ]


def test_a_log_needs_a_storage_that_can_be_read(house_parts: dict[str, Any]) -> None:
    class Bare:
        """Deletes, and cannot be read."""

        authorise, pages, deletable, remove = HardHost.authorise, HardHost.pages, HardHost.deletable, HardHost.remove

    with pytest.raises(TypeError, match="lacks current"):
        BulkData(**{**house_parts, "resources": Bare()}, log=MemoryDeletionLog())


@pytest.fixture
def house_parts() -> dict[str, Any]:
    from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
    from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore

    class Nobody:
        async def verify(self, token: str) -> Any: ...

    return {"resources": HardHost(), "verifier": Nobody(), "jobs": MemoryJobStore(), "outputs": MemoryOutputStore()}


async def test_rows_outside_of_the_rights_are_as_if_they_never_were(make_house: Any) -> None:
    """A host with row rights of its own: nobody learns of another ward's resources."""

    class Wards(HardHost):
        async def deletable(self, principal: Any) -> Any:
            from fhir_bulk_middleware.contract.query import Authorisation

            return Authorisation(frozenset({"Patient"}), principal.owner.subject)

        async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
            from fhir_bulk_middleware.contract.removal import NeverExisted

            row: Current | None = self.rows.get((type_, id_))
            if row is None or f'"family":"{rights}"'.encode() not in row.json:
                return NeverExisted()
            return await super().remove(type_, id_, if_version, rights)

    host = Wards()
    await host.put('{"resourceType":"Patient","id":"p1","name":[{"family":"alice"}]}')
    policy = AIDBOX.but({DeleteOutcome.NEVER_EXISTED: NOT_FOUND})
    async with make_house(parts={"resources": host, "log": MemoryDeletionLog(), "deletes": policy}) as house:
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL, subject="mallory")).status_code == 404
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 200
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL, subject="mallory")).status_code == 404
        assert (await house.ask("DELETE", "/Patient/p1", scope=FULL)).status_code == 204
        kept = await house.ask("DELETE", "/Observation/b1", scope=FULL)
        assert kept.status_code == 405
        assert kept.headers["Allow"] == "GET, HEAD"
