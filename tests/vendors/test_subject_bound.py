"""The subject-bound vendor's "Bulk data" page, statement by statement, as section 12.2 of the requirements reads it."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from house import House, populate

from fhir_bulk_middleware.dialects import SUBJECT_BOUND
from fhir_bulk_middleware.dialects.model import RetryAfter
from fhir_bulk_middleware.identifiers import file_id, new_job_id

pytestmark = pytest.mark.anyio

PATIENTS = "system/Patient.rs system/Group.rs"


@pytest.fixture
async def house(make_house: Any) -> AsyncIterator[House]:
    """A server that speaks this dialect."""
    async with make_house(SUBJECT_BOUND) as house:
        await populate(house)
        yield house


async def test_requests_are_made_to_a_groups_export_with_get(house: House) -> None:
    """ "Requests are made to [base url]/Group/[group id]/$export"; other levels are not offered (CD-18)."""
    assert (await house.ask("GET", "/Group/both/$export")).status_code == 202
    assert (await house.ask("POST", "/Group/both/$export")).status_code == 405
    assert (await house.ask("GET", "/$export")).status_code == 404
    assert (await house.ask("GET", "/Patient/$export")).status_code == 404


async def test_a_valid_token_is_required(house: House) -> None:
    """ "A valid OAuth2 token is required to schedule an export.\""""
    assert (await house.ask("GET", "/Group/both/$export", subject=None)).status_code == 401


async def test_upon_success_there_is_no_body_but_a_content_location(house: House) -> None:
    """ "There is no HTTP body, but ... Content-Location" (CD-17: 202)."""
    response = await house.ask("GET", "/Group/both/$export")

    assert response.status_code == 202
    assert response.content == b""
    assert response.headers["Content-Location"].startswith("https://ehr.example/fhir/")


async def test_only_the_same_subject_can_check_cancel_and_retrieve(house: House) -> None:
    """ "Only HTTP requests with the same subject"; with a new token too, and 404 forbidden to all others (SD-06, CD-14)."""
    location = await house.kick_off("/Group/both/$export")
    await house.runner.finish()
    urls = [item["url"] for item in (await house.ask("GET", location)).json()["output"]]
    for method, url in [("GET", location), ("DELETE", location), *(("GET", url) for url in urls)]:
        response = await house.ask(method, url, subject="mallory")

        assert response.status_code == 404
        assert response.json()["issue"][0]["code"] == "forbidden"
    house.clock.advance(3600)
    assert (await house.ask("GET", urls[0])).status_code == 200
    assert (await house.ask("DELETE", location)).status_code == 202


async def test_results_are_stored_for_seven_days_and_then_deleted(house: House) -> None:
    """ "Stored for seven days ... the export request and all exported files are deleted" (SD-09, ST-22)."""
    location = await house.kick_off("/Group/both/$export")
    await house.runner.finish()
    url = (await house.ask("GET", location)).json()["output"][0]["url"]
    house.clock.advance(7 * 86_400 - 1)
    assert (await house.ask("GET", location)).status_code == 200
    house.clock.advance(1)

    for gone in (location, url):
        response = await house.ask("GET", gone)
        assert response.status_code == 404
        assert response.json()["issue"][0]["code"] == "forbidden"
    await house.sweep()
    assert [job async for job in house.outputs.jobs()] == []


async def test_types_without_permission_are_rejected(house: House) -> None:
    """ "A request will be rejected if the _type ... does not have permission" (SD-07)."""
    response = await house.ask("GET", "/Group/both/$export?_type=Patient,Observation", scope=PATIENTS)

    assert response.status_code == 403
    assert "Observation" in response.text


async def test_without_types_all_that_is_allowed_is_exported(house: House) -> None:
    """ "Omitting the _type ... will export all resources the user is allowed to" (SD-07)."""
    manifest = await house.export("/Group/both/$export", scope=PATIENTS)

    assert [item["type"] for item in manifest["output"]] == ["Group", "Patient"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_export_that_cannot_be_found_is_404_forbidden(house: House, method: str) -> None:
    """Response 1: "a forbidden OperationOutcome ... the queried request is not available" (CD-14, CD-19)."""
    response = await house.ask(method, f"/$export-status/{new_job_id()}")

    assert response.status_code == 404
    assert response.json()["issue"][0]["code"] == "forbidden"
    assert "not available" in response.json()["issue"][0]["details"]["text"]


async def test_unknown_foreign_deleted_and_expired_are_one_answer(house: House) -> None:
    """CD-14: deliberate non-disclosure, on files as well."""
    cancelled = await house.kick_off("/Group/both/$export")
    await house.ask("DELETE", cancelled)
    expired = await house.kick_off("/Group/both/$export")
    await house.runner.finish()
    await house.expire()
    foreign = await house.kick_off("/Group/both/$export", subject="bob")
    answers = [await house.ask("GET", url) for url in (cancelled, expired, foreign, f"/$export-status/{new_job_id()}")]
    answers.append(await house.ask("GET", f"/$export-file/{file_id(new_job_id(), 0, 0)}"))

    assert len({(answer.status_code, answer.content) for answer in answers}) == 1


async def test_an_incomplete_export_is_202_without_body_with_one_of_the_states(house: House) -> None:
    """Response 2: Retry-After and X-Progress, one of scheduled, started, completed (SD-08, CD-12, CD-13)."""
    location = await house.kick_off("/Group/both/$export")
    said = []
    for _ in range(2):
        response = await house.ask("GET", location)
        assert (response.status_code, response.content) == (202, b"")
        assert int(response.headers["Retry-After"]) > 0
        said.append(response.headers["X-Progress"])
        await house.runner.step()
    await house.runner.finish()

    assert said == ["scheduled", "started"]
    assert (await house.ask("GET", location)).status_code == 200


async def test_retry_after_counts_milliseconds_only_for_who_opts_in(make_house: Any, house: House) -> None:
    """ "The number of milliseconds": RFC 9110 knows seconds; literal by switch (CD-11, SD-08)."""
    seconds = int((await house.ask("GET", await house.kick_off("/Group/both/$export"))).headers["Retry-After"])
    async with make_house(replace(SUBJECT_BOUND, retry_after=RetryAfter.MILLISECONDS)) as literal:
        await populate(literal)
        milliseconds = int((await literal.ask("GET", await literal.kick_off())).headers["Retry-After"])

    assert milliseconds == 1000 * seconds


async def test_a_finished_export_is_200_with_the_described_body(house: House) -> None:
    """Response 3: transactionTime, request, requiresAccessToken, output, error (CD-15, CD-16; MF-03)."""
    location = await house.kick_off("/Group/both/$export?_type=Patient")
    cut = house.clock()
    house.clock.advance(0.9)
    await house.runner.finish()
    response = await house.ask("GET", location)
    manifest = response.json()

    assert response.headers["Content-Type"] == "application/json"
    assert list(manifest) == ["transactionTime", "request", "requiresAccessToken", "output", "error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["transactionTime"])
    assert manifest["transactionTime"] == "2026-03-01T12:00:01Z", "the cut, rounded down: rounding up would lose updates"
    assert cut <= house.clock()
    assert manifest["request"] == "https://ehr.example/fhir/Group/both/$export?_type=Patient"
    assert manifest["requiresAccessToken"] is True
    assert {"type", "url"} <= manifest["output"][0].keys()
    assert manifest["error"] == []


async def test_exports_can_be_cancelled_at_the_status_url(house: House) -> None:
    """ "Exports can be canceled by issuing an HTTP DELETE ... same user" (CD-17: 202)."""
    location = await house.kick_off("/Group/both/$export")

    assert (await house.ask("DELETE", location)).status_code == 202
    assert (await house.ask("GET", location)).status_code == 404
