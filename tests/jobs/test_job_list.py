"""The list of one's own jobs at `$export-status`: whose, in which order, in which pages, and as which Tasks."""

import json
from typing import Any

import official
import pytest
from house import BASE, House, job_of, populate

from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

LIST = "/$export-status"
OFFERED = {name: dialect for name, dialect in DIALECTS.items() if dialect.jobs_path is not None}
REMOVE_ALL = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}
MANY = {"jobs_per_owner": 1_000, "poll_burst": 10_000}


def tasks(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle.get("entry", ())]


def ids(bundle: dict[str, Any]) -> list[str]:
    return [task["id"] for task in tasks(bundle)]


def link(bundle: dict[str, Any], relation: str) -> str | None:
    return next((each["url"] for each in bundle["link"] if each["relation"] == relation), None)


async def jobs_of(house: House, url: str = LIST, **more: Any) -> dict[str, Any]:
    answer = await house.ask("GET", url, **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/fhir+json"
    bundle: dict[str, Any] = answer.json()
    return bundle


async def begun(house: House, count: int) -> list[str]:
    """The ids of so many new jobs, newest first."""
    found = []
    for _ in range(count):
        house.clock.advance(1)
        found.append(job_of(await house.kick_off()))
    return found[::-1]


# --- Whose ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("dialect", OFFERED.values(), ids=OFFERED)
async def test_a_stranger_is_told_of_a_job_what_it_is_told_without_one(
    make_house: Any, dialect: Dialect, state: JobState
) -> None:
    """Law 7, byte for byte, for each verb."""
    async with make_house(dialect) as house:
        await populate(house)
        other = TokenMint("https://other.example", house.mint.audience)

        async def answers() -> list[tuple[int, list[tuple[str, str]], bytes]]:
            strangers = [
                house.token("mallory", scope) for scope in ("system/*.rs", "system/*.cruds", "system/Observation.rs", "")
            ]
            strangers += [other.token("alice", "system/*.rs", now=house.clock()), "nonsense"]
            found = []
            for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                for token in strangers:
                    answer = await house.ask(verb, LIST, token=token)
                    headers = [item for item in answer.headers.multi_items() if item[0] != "x-request-id"]
                    found.append((answer.status_code, headers, answer.content))
            return found

        before = await answers()
        location = await house.kick_off()
        await house.turn(location, state)
        assert await answers() == before
        assert {200, 401, 400, 405} == {status for status, _, _ in before}


async def test_a_job_is_listed_through_its_own_mount_only(make_house: Any) -> None:
    """Law 10."""
    async with make_house() as house:
        await begun(house, 1)
        async with make_house(parts={"jobs": house.jobs, "mount": "elsewhere", "resources": house.resources}) as other:
            assert ids(await jobs_of(other)) == []
        assert len(ids(await jobs_of(house))) == 1


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_a_vendor_whose_document_gives_the_path_no_meaning_has_no_list(make_house: Any, dialect: Dialect) -> None:
    async with make_house(dialect) as house:
        assert (await house.ask("GET", LIST)).status_code == (
            200 if dialect.jobs_path else 400 if "$export-status" in dialect.status_path else 404
        )
        assert (await house.ask("GET", f"{LIST}/")).status_code == (400 if "$export-status" in dialect.status_path else 404)


async def test_jobs_that_are_cancelled_or_expired_are_not_listed(house: House) -> None:
    for state in JobState:
        location = await house.kick_off()
        await house.turn(location, state)
    found = {task["status"] for task in tasks(await jobs_of(house))}
    assert found <= {"accepted", "in-progress", "completed", "failed"}
    for location in [task["output"][0]["valueUri"] for task in tasks(await jobs_of(house))]:
        assert (await house.ask("GET", location)).status_code != 404, "what is listed can be polled"


async def test_a_job_that_no_sweep_has_ended_yet_is_not_listed_after_its_retention(house: House) -> None:
    (job,) = await begun(house, 1)
    await house.runner.finish()
    assert ids(await jobs_of(house)) == [job]
    house.clock.advance(house.settings.retention)

    assert ids(await jobs_of(house)) == []


async def test_jobs_of_types_that_the_scopes_no_longer_cover_are_left_out(house: House) -> None:
    """SE-03."""
    await house.kick_off("/$export?_type=Observation")
    house.clock.advance(1)
    patients = job_of(await house.kick_off("/$export?_type=Patient"))

    assert ids(await jobs_of(house, scope="system/Patient.rs")) == [patients]
    assert ids(await jobs_of(house, scope="")) == []
    assert len(ids(await jobs_of(house, scope="system/*.rs"))) == 2


async def test_a_remove_all_is_listed_and_told_apart_by_its_code(house: House) -> None:
    (export,) = await begun(house, 1)
    house.clock.advance(1)
    accepted = await house.ask("DELETE", "/Observation?status=final", scope="system/*.cruds", headers=REMOVE_ALL)
    removal = job_of(accepted.headers["Content-Location"])

    codes = {task["id"]: task["code"]["coding"][0]["code"] for task in tasks(await jobs_of(house, scope="system/*.cruds"))}
    assert codes == {export: "export", removal: "remove-all"}
    assert ids(await jobs_of(house, scope="system/*.rs")) == [export], "a token that may not delete is not told of it"


# --- Pages ---------------------------------------------------------------------------------------------------------------


async def test_the_list_begins_with_the_newest_job_and_goes_on_by_its_link(make_house: Any) -> None:
    async with make_house(**MANY) as house:
        there = await begun(house, 7)
        seen: list[str] = []
        sizes: list[int] = []
        url = f"{LIST}?_count=3"
        while url:
            bundle = await jobs_of(house, url)
            assert link(bundle, "self") == f"{BASE}{url.removeprefix(BASE)}"
            seen += ids(bundle)
            sizes.append(len(ids(bundle)))
            url = link(bundle, "next") or ""

        assert seen == there
        assert sizes == [3, 3, 1]


async def test_what_begins_or_ends_while_a_list_is_read_changes_nothing_behind_it(make_house: Any) -> None:
    async with make_house(**MANY) as house:
        there = await begun(house, 6)
        first = await jobs_of(house, f"{LIST}?_count=2")
        new = await begun(house, 3)
        last = tasks(first)[-1]["output"][0]["valueUri"]
        assert (await house.ask("DELETE", last)).status_code == 202
        second = await jobs_of(house, link(first, "next") or "")
        third = await jobs_of(house, link(second, "next") or "")

        assert ids(first) + ids(second) + ids(third) == there
        assert link(third, "next") is None
        assert ids(await jobs_of(house))[:3] == new


async def test_jobs_of_one_instant_are_each_listed_once(make_house: Any) -> None:
    async with make_house(**MANY) as house:
        there = {job_of(await house.kick_off()) for _ in range(5)}
        seen: list[str] = []
        url = f"{LIST}?_count=2"
        while url:
            bundle = await jobs_of(house, url)
            seen += ids(bundle)
            url = link(bundle, "next") or ""

        assert len(seen) == 5
        assert {*seen} == there


async def test_a_page_has_50_jobs_by_default_and_200_at_most(make_house: Any) -> None:
    """Law 38."""
    async with make_house(**MANY) as house:
        await begun(house, 205)

        assert len(ids(await jobs_of(house))) == 50
        assert len(ids(await jobs_of(house, f"{LIST}?_count=100000"))) == 200


async def test_jobs_that_are_left_out_are_looked_at_in_bounds_and_the_link_leads_on(make_house: Any) -> None:
    """Law 38: a request looks at no more than 1,000 jobs."""
    async with make_house(jobs_per_owner=5_000, poll_burst=10_000) as house:
        wanted = job_of(await house.kick_off("/$export?_type=Patient"))
        for _ in range(1_005):
            house.clock.advance(1)
            await house.kick_off("/$export?_type=Observation")
        first = await jobs_of(house, scope="system/Patient.rs")
        assert ids(first) == []
        second = await jobs_of(house, link(first, "next") or "", scope="system/Patient.rs")

        assert (ids(second), link(second, "next")) == ([wanted], None)


@pytest.mark.parametrize(
    "query",
    [
        "_count=0",
        "_count=-1",
        "_count=x",
        "_count=",
        "_count=1.0",
        "_count=%D9%A1",
        "_count=99999999999999999999",
        "_count=1&_count=2",
        "_cursor=",
        "_cursor=x",
        "_cursor=%00",
        "_cursor=MS54",
        "_cursor=..%2F..%2Fjobs.db",
        "_cursor=" + "x" * 500,
        "_sort=date",
        "_total=accurate",
        "%zz",
    ],
)
async def test_a_bad_value_or_an_unknown_parameter_is_refused(house: House, query: str) -> None:
    answer = await house.ask("GET", f"{LIST}?{query}")

    assert answer.status_code == 400
    assert answer.json()["resourceType"] == "OperationOutcome"


async def test_who_lists_too_often_is_told_when_to_come_again(make_house: Any) -> None:
    """ST-05, as for polls; the list and the polls of a job do not use up each other's rate."""
    async with make_house(poll_burst=3, polls_per_second=0.5) as house:
        location = await house.kick_off()
        for _ in range(3):
            await jobs_of(house)
        refused = await house.ask("GET", LIST)

        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) == 2
        assert (await house.ask("GET", location)).status_code == 202
        assert (await house.ask("GET", LIST, subject="bob")).status_code == 200
        house.clock.advance(2)
        await jobs_of(house)


async def test_other_verbs_on_the_path_are_answered_as_elsewhere(house: House) -> None:
    """Law 14: a DELETE without a job id is 400."""
    head = await house.ask("HEAD", LIST)
    assert (head.status_code, head.headers["Content-Type"]) == (200, "application/fhir+json")
    deleted = await house.ask("DELETE", LIST, scope="system/*.cruds")
    assert (deleted.status_code, deleted.json()["issue"][0]["code"]) == (400, "required")
    for verb in ("POST", "PUT", "PATCH"):
        refused = await house.ask(verb, LIST)
        assert (refused.status_code, refused.headers["Allow"]) == (405, "DELETE, GET, HEAD")


# --- Tasks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", FhirVersion)
async def test_every_state_and_kind_of_job_is_a_valid_task_of_the_mounts_version(make_house: Any, version: FhirVersion) -> None:
    async with make_house(parts={"fhir_version": version}, reuse="never") as house:  # else the second is completed at once
        await populate(house)
        for state in (JobState.COMPLETED, JobState.FAILED, JobState.RUNNING, JobState.QUEUED):
            house.clock.advance(1)
            await house.turn(await house.kick_off(), state)
        answer = await house.ask("GET", LIST)

        for task in tasks(answer.json()):
            official.check(task, version)
        found = {task["status"]: task for task in tasks(answer.json())}
        assert found.keys() == {"completed", "failed", "in-progress", "accepted"}
        why = {"text": "The disk broke."}
        assert found["failed"]["statusReason"] == ({"concept": why} if version is FhirVersion.R5 else why)


async def test_a_task_tells_what_the_client_needs_to_find_its_job_again(house: House) -> None:
    house.clock.advance(1)
    location = await house.kick_off("/$export?_type=Patient,Observation")
    house.clock.advance(2)
    await house.runner.step()
    running = (await house.ask("GET", location)).headers["X-Progress"]

    (task,) = tasks(await jobs_of(house))
    assert task["identifier"][0]["value"] == task["id"] == job_of(location)
    assert task["businessStatus"] == {"text": running}
    assert task["output"][0]["valueUri"] == location
    assert task["description"] == f"{BASE}/$export?_type=Patient,Observation"
    assert (task["authoredOn"], task["lastModified"]) == ("2026-03-01T12:00:02.000Z", "2026-03-01T12:00:04.000Z")
    assert task["executionPeriod"] == {"start": "2026-03-01T12:00:02.000Z"}
    house.clock.advance(3)
    await house.runner.finish()
    (task,) = tasks(await jobs_of(house))
    assert task["executionPeriod"]["end"] == task["lastModified"] == "2026-03-01T12:00:07.000Z"
    assert "businessStatus" not in task


async def test_a_failed_job_is_listed_without_what_it_no_longer_keeps(house: House) -> None:
    """Law 38."""
    location = await house.kick_off("/$export?_type=Patient")
    await house.fail(location)

    (task,) = tasks(await jobs_of(house))
    assert "description" not in task
    assert "_type" not in json.dumps(task)


async def test_the_list_is_in_the_descriptions_of_the_mount(make_house: Any) -> None:
    async with make_house(STANDARD) as house:
        operations = house.bulk.openapi()["paths"][LIST]
        documentation = house.bulk.capability.fragment()["rest"][0]["documentation"]

    assert operations.keys() == {"get", "head", "delete"}
    assert {each["name"] for each in operations["get"]["parameters"]} == {"_count", "_cursor"}
    assert "200" in operations["get"]["responses"]
    assert "202" not in operations["delete"]["responses"]
    assert "`$export-status` without an id" in documentation
