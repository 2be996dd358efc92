"""Only the subject that created a job can do anything with it; all others get the unknown job's answer (law 7, SE-14, DL-07)."""

from typing import Any

import httpx2
import pytest
from house import ISSUER, House, job_of, populate

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Failure, JobState
from fhir_bulk_middleware.dialects import DIALECTS
from fhir_bulk_middleware.identifiers import file_id, new_job_id
from fhir_bulk_middleware.outcomes import Reason
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SCOPES = ("system/*.rs", "system/*.cruds", "system/*.*", "user/*.rs", "system/Observation.rs", "")


def job_paths(house: House) -> list[str]:
    """Every path of the table that names a job or a file; a new route joins by itself."""
    return sorted({row.path for row in house.bulk.table if "{job}" in row.path or "{file}" in row.path})


def fill(path: str, job: str) -> str:
    """A path for one job."""
    return path.format(job=job, file=file_id(job, 0, 0), page=1)


def told(response: httpx2.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a caller is told; ids of the request itself aside."""
    headers = [item for item in response.headers.multi_items() if item[0] not in {"x-request-id", "opc-request-id"}]
    return response.status_code, headers, response.content


async def an_export(house: House) -> str:
    return await house.kick_off()


async def a_remove_all(house: House) -> str:
    headers = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}
    accepted = await house.ask("DELETE", "/Observation?status=final", scope="system/*.cruds", headers=headers)
    assert accepted.status_code == 202, accepted.text
    return str(accepted.headers["Content-Location"])


@pytest.mark.parametrize("begin", [an_export, a_remove_all], ids=["export", "remove-all"])
@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_a_stranger_is_told_what_an_unknown_job_id_is_told(
    make_house: Any, dialect: Any, state: JobState, begin: Any
) -> None:
    """Law 7; SE-04, SE-14, DL-07."""
    async with make_house(dialect) as house:
        await populate(house)
        location = await begin(house)
        await house.turn(location, state)
        job = job_of(location)
        strangers = [house.token("mallory", scope) for scope in SCOPES]
        other = TokenMint("https://other.example", house.mint.audience)
        strangers.append(other.token("alice", "system/*.rs", now=house.clock()))
        for path in job_paths(house):
            for verb in VERBS:
                for token in strangers:
                    about_job = await house.ask(verb, fill(path, job), token=token)
                    about_nothing = await house.ask(verb, fill(path, new_job_id()), token=token)

                    assert told(about_job) == told(about_nothing), (path, verb)
                    assert about_job.status_code < 500


@pytest.mark.parametrize("state", list(JobState))
async def test_nobody_without_a_good_token_learns_anything(house: House, state: JobState) -> None:
    """SE-13, FR-03, FR-04."""
    location = await house.kick_off()
    await house.turn(location, state)
    for path in job_paths(house):
        for verb in VERBS:
            for token in (None, "nonsense", house.token("alice", "system/*.rs", exp=1)):
                about_job = await house.ask(verb, fill(path, job_of(location)), token=token, subject=None)
                about_nothing = await house.ask(verb, fill(path, new_job_id()), token=token, subject=None)

                assert told(about_job) == told(about_nothing), (path, verb)
                assert about_job.status_code == 401
                assert about_job.headers["WWW-Authenticate"].startswith("Bearer")


async def test_the_owner_can_do_all_of_it_with_a_new_token(house: House) -> None:
    """SE-05; law 9."""
    location = await house.kick_off()
    house.clock.advance(3_000)
    await house.runner.finish()
    house.clock.advance(3_000)

    status = await house.ask("GET", location, token=house.token("alice"))
    assert status.status_code == 200
    for item in status.json()["output"]:
        assert (await house.ask("GET", item["url"], token=house.token("alice"))).status_code == 200
    assert (await house.ask("DELETE", location, token=house.token("alice"))).status_code == 202


async def test_fewer_scopes_are_refused_to_the_owner_and_only_to_the_owner(house: House) -> None:
    """SE-03, FR-04; law 7."""
    manifest_url = await house.kick_off()
    await house.runner.finish()
    file_url = (await house.ask("GET", manifest_url)).json()["output"][0]["url"]

    for url in (manifest_url, file_url):
        owner = await house.ask("GET", url, scope="system/Patient.rs")
        assert owner.status_code == 403
        assert owner.json()["issue"][0]["code"] == "forbidden"
        assert (await house.ask("GET", url, subject="mallory", scope="system/Patient.rs")).status_code == 404


async def test_cancelling_needs_ownership_alone(house: House) -> None:
    location = await house.kick_off()

    assert (await house.ask("DELETE", location, scope="")).status_code == 202


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_where_the_client_is_a_part_of_ownership_another_client_is_a_stranger(
    make_house: Any, dialect: Any, state: JobState
) -> None:
    """Law 7; `Settings.owner_includes_client`."""
    async with make_house(dialect, owner_includes_client=True) as house:
        await populate(house)
        mine, theirs = (house.token("alice", "system/*.rs", client_id=client) for client in ("app-1", "app-2"))
        location = await house.kick_off(token=mine)
        job = await house.jobs.find(job_of(location), house.bulk.mount, Owner(ISSUER, "alice", "app-1"))
        assert job is not None
        if state is JobState.CANCELLED:
            await house.ask("DELETE", location, token=mine)
        elif state is JobState.FAILED:
            assert await house.jobs.replace(job.failed(Failure(Reason.JOB_FAILED, "The disk broke."), house.clock()))
        else:
            await house.turn(location, state)
        for path in job_paths(house):
            for verb in VERBS:
                about_job = await house.ask(verb, fill(path, job.id), token=theirs)
                about_nothing = await house.ask(verb, fill(path, new_job_id()), token=theirs)
                assert told(about_job) == told(about_nothing), (path, verb)
        if state is JobState.COMPLETED:
            assert (await house.ask("GET", location, token=mine)).status_code == 200


async def test_where_the_client_is_a_part_of_ownership_a_token_must_name_one(make_house: Any) -> None:
    async with make_house(owner_includes_client=True) as house:
        refused = await house.ask("GET", "/$export", token=house.token("alice", "system/*.rs"))
        nonsense = await house.ask("GET", "/$export", token="nonsense")

        assert refused.status_code == 401
        assert told(refused) == told(nonsense)


async def test_by_default_all_clients_of_a_subject_are_one_owner(house: House) -> None:
    location = await house.kick_off(token=house.token("alice", "system/*.rs", client_id="app-1"))

    answer = await house.ask("GET", location, token=house.token("alice", "system/*.rs", client_id="app-2"))
    assert answer.status_code == 202


async def test_a_subject_of_another_issuer_is_somebody_else(make_house: Any) -> None:
    async with make_house() as house:
        await house.resources.create("Patient", {"resourceType": "Patient"}, "p1")
        location = await house.kick_off()

        assert house.mint.issuer == ISSUER
        assert await house.jobs.find(job_of(location), house.bulk.mount, Owner("https://other.example", "alice")) is None
        assert await house.jobs.find(job_of(location), house.bulk.mount, Owner(ISSUER, "alice")) is not None


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_the_owner_is_told_what_became_of_a_job(make_house: Any, dialect: Any) -> None:
    """DL-05, DL-14; law 23."""
    async with make_house(dialect) as house:
        await populate(house)
        for state in (JobState.CANCELLED, JobState.EXPIRED):
            location = await house.kick_off()
            await house.turn(location, state)
            for verb in ("GET", "DELETE"):
                response = await house.ask(verb, location)

                assert response.status_code == 404
                assert response.json()["resourceType"] == "OperationOutcome"
