"""Health Connect Australia, "Batch Request Status" (Provider Directory IG 0.3.0-preview), statement by statement."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest
from house import KICK_OFF, House, job_of, populate

from fhir_bulk_middleware.dialects import HEALTH_CONNECT_AU

pytestmark = pytest.mark.anyio

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture
async def house(make_house: Any) -> AsyncIterator[House]:
    """A directory that speaks this dialect, somewhere at +11:00."""
    async with make_house(replace(HEALTH_CONNECT_AU, zone=timezone(timedelta(hours=11)))) as house:
        await populate(house)
        yield house


async def test_the_client_has_received_a_202_with_a_polling_location(house: House) -> None:
    """Preconditions 1 and 2: a 202 whose Content-Location has the job id."""
    accepted = await house.ask("POST", "/$export", headers=KICK_OFF)

    assert accepted.status_code == 202
    assert re.fullmatch(rf"https://ehr\.example/fhir/\$export-poll-status\?_jobId={UUID}", accepted.headers["Content-Location"])


async def test_clients_poll_the_url_with_a_standard_get(house: House) -> None:
    """Request: GET [base url]/$export-poll-status?_jobId=..., Accept: application/json."""
    location = await house.kick_off()

    assert (await house.ask("GET", location, headers={"Accept": "application/json"})).status_code == 202


async def test_an_answer_in_progress_is_202_with_both_headers_and_no_body(house: House) -> None:
    """Response headers and "in progress"; SD-02, CD-09: Retry-After in whole seconds, X-Progress for a person to read."""
    location = await house.kick_off()
    await house.runner.step()
    response = await house.ask("GET", location)

    assert response.status_code == 202
    assert response.content == b""
    assert int(response.headers["Retry-After"]) > 0
    assert re.fullmatch(r"Search in progress - found [\d,]+ of [\d,]+ resources", response.headers["X-Progress"])


async def test_a_successful_manifest_has_the_shown_keys(house: House) -> None:
    """ "Example of a successful response manifest"; MF-18: no message where there is data."""
    location = await house.kick_off()
    await house.runner.finish()
    response = await house.ask("GET", location, headers={"Accept": "application/json"})
    manifest = response.json()

    assert response.status_code == 200
    assert list(manifest) == ["transactionTime", "request", "requiresAccessToken", "output", "error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+11:00", manifest["transactionTime"])
    assert manifest["request"] == "https://ehr.example/fhir/$export"
    assert manifest["requiresAccessToken"] is True
    assert manifest["error"] == []
    for item in manifest["output"]:
        assert re.fullmatch(r"https://ehr\.example/fhir/Binary/[A-Za-z0-9\-.]{1,64}", item["url"])


async def test_a_manifest_of_nothing_has_a_message_with_the_job(house: House) -> None:
    """ "Example of unsuccessful response manifest"; SD-03, CD-10, ST-26: 200 all the same."""
    location = await house.kick_off("/$export?_type=Immunization")
    await house.runner.finish()
    response = await house.ask("GET", location)

    assert response.status_code == 200
    assert response.json()["output"] == response.json()["error"] == []
    expected = f"Export complete, but no data to generate report for job instance: {job_of(location)}"
    assert response.json()["message"] == expected


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_links_give_the_files(house: House, method: str) -> None:
    """ "Retrieving results"; the companion page fetches them by POST."""
    location = await house.kick_off()
    await house.runner.finish()
    for item in (await house.ask("GET", location)).json()["output"]:
        response = await house.ask(method, item["url"])

        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/fhir+ndjson"


async def test_a_binary_of_the_hosts_stays_the_hosts(house: House) -> None:
    """Law 14: only ids of our own shape are ours below Binary."""
    for path in ("/Binary/fnQjLPLp7x3VpEAsJd4mZ9Fz5mLbZWkY", "/Binary", "/Binary/bulk.1"):
        response = await house.ask("GET", path)

        assert "There is nothing at this address." in response.text, "it reached no route of ours"


async def test_a_request_can_be_deleted_at_the_polling_location(house: House) -> None:
    """ "Deleting a request"."""
    location = await house.kick_off()

    assert (await house.ask("DELETE", location)).status_code == 202
