"""Health Connect Australia, "Batch Request Delete" (Provider Directory IG 0.3.0-preview), statement by statement."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from house import BASE, House, populate

from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.dialects import HEALTH_CONNECT_AU
from fhir_bulk_middleware.identifiers import new_job_id

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(make_house: Any) -> AsyncIterator[House]:
    """A directory that speaks this dialect."""
    async with make_house(HEALTH_CONNECT_AU) as house:
        await populate(house)
        yield house


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED, JobState.FAILED])
async def test_a_client_may_delete_a_request_that_was_accepted(house: House, state: JobState) -> None:
    """Precondition, request and success: after a 202 a DELETE, without a body, gets 202 without a body (SD-01, CD-20)."""
    location = await house.kick_off()
    assert location.startswith(f"{BASE}/$export-poll-status?_jobId=")
    await house.turn(location, state)
    response = await house.ask("DELETE", location)

    assert response.status_code == 202
    assert response.content == b""


async def test_later_polls_get_404_with_an_outcome(house: House) -> None:
    """ "Subsequent polls ... MUST return 404"; with an OperationOutcome, as the IG wants it (CD-22, SD-01)."""
    location = await house.kick_off()
    await house.ask("DELETE", location)
    for method in ("GET", "DELETE"):
        response = await house.ask(method, location)

        assert response.status_code == 404
        assert response.json()["issue"][0]["code"] == "not-found"


async def test_a_rejected_delete_gets_400_with_an_outcome(house: House) -> None:
    """Error response: 400, and the example's OperationOutcome to the letter; a poll of such an id is 404 (CD-07, law 11)."""
    location = f"{BASE}/$export-poll-status?_jobId={new_job_id()}"
    response = await house.ask("DELETE", location)

    assert response.status_code == 400
    assert response.json() == {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": "invalid",
                "diagnostics": "Endpoint artefact not found for the provided job ID.",
            }
        ],
    }
    assert (await house.ask("GET", location)).status_code == 404


async def test_somebody_elses_request_is_one_that_never_was(house: House) -> None:
    """Law 11: the 400 is for an id that is unknown to this caller."""
    location = await house.kick_off()
    response = await house.ask("DELETE", location, subject="mallory")

    assert response.status_code == 400
    assert (await house.ask("GET", location)).status_code == 202


@pytest.mark.parametrize("path", ["/$export-poll-status", "/$export-poll-status?_jobId=", "/$export-poll-status?other=1"])
async def test_a_delete_without_a_job_id_deletes_nothing(house: House, path: str) -> None:
    """AS-07, AS-08, law 14: never a conditional delete."""
    location = await house.kick_off()
    response = await house.ask("DELETE", path)

    assert response.status_code == 400
    assert (await house.ask("GET", location)).status_code == 202


async def test_two_job_ids_name_none(house: House) -> None:
    """AS-07: a polling location is used unchanged."""
    first, second = await house.kick_off(), await house.kick_off()
    response = await house.ask("DELETE", f"{first}&_jobId={second.rpartition('=')[2]}")

    assert response.status_code == 400
    assert (await house.ask("GET", first)).status_code == (await house.ask("GET", second)).status_code == 202
