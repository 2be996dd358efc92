"""Oracle Health Soarian Clinicals, "Delete bulk data", statement by statement, as section 12.2 of the requirements reads it."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from house import House, populate

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.contract.query import Authorisation
from fhir_bulk_middleware.dialects import SOARIAN
from fhir_bulk_middleware.dialects.model import RequiredHeader
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.outcomes import Reason, Refused

pytestmark = pytest.mark.anyio

HEADERS = {"Accept": "application/fhir+json", "Prefer": "respond-async"}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture
async def house(make_house: Any) -> AsyncIterator[House]:
    """A server that speaks this dialect."""
    async with make_house(SOARIAN) as house:
        await populate(house)
        yield house


def issue(response: Any) -> dict[str, Any]:
    """The one issue of an OperationOutcome."""
    (found,) = response.json()["issue"]
    return dict(found)


async def test_the_location_is_that_of_the_initial_request(house: House) -> None:
    """Example request: .../bulk-api/request/{uuid}, as the initial response gave it (AS-06)."""
    location = await house.kick_off()

    assert re.fullmatch(rf"https://ehr\.example/fhir/bulk-api/request/{UUID}", location)


async def test_a_get_never_cancels(house: House) -> None:
    """The page's method label says get; a GET is the status poll, and safe (CD-01, SD-04)."""
    location = await house.kick_off()
    for _ in range(3):
        assert (await house.ask("GET", location, headers=HEADERS)).status_code == 202
    await house.runner.finish()

    assert (await house.ask("GET", location, headers=HEADERS)).status_code == 200


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED])
async def test_a_request_is_cancelled_in_progress_or_its_files_are_deleted(house: House, state: JobState) -> None:
    """ "If the delete request specifies ... in progress ... If ... completed previously" (SD-05): 202, and nothing is left."""
    location = await house.kick_off()
    await house.turn(location, state)
    answer = await house.ask("GET", location)
    urls = [item["url"] for item in answer.json()["output"]] if answer.status_code == 200 else []

    assert (await house.ask("DELETE", location, headers=HEADERS)).status_code == 202
    for url in [location, *urls]:
        assert (await house.ask("GET", url)).status_code == 404
    await house.runner.finish()
    await house.expire()
    assert [job async for job in house.outputs.jobs()] == []


async def test_a_successful_response_is_202_with_the_shown_outcome(house: House) -> None:
    """Example response, white space and all (CD-04, CD-05, SD-04)."""
    location = await house.kick_off()
    response = await house.ask("DELETE", location, headers=HEADERS)
    outcome = response.json()

    assert response.status_code == 202
    assert re.fullmatch(UUID, outcome.pop("id"))
    job = location.rpartition("/")[2]
    text = (
        f"Cancellation of Bulkdata request <{job}> has been accepted.\n\t\t\t\t\tCancellation requested at : 2026-03-01T12:00:01Z"
    )
    assert outcome == {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "information", "code": "processing", "details": {"text": text}}],
    }


async def test_prefer_is_required_only_where_a_host_insists(make_house: Any, house: House) -> None:
    """Header Prefer(required), but no error row for its absence: accepted, with a strict switch (CD-02)."""
    location = await house.kick_off()
    assert (await house.ask("DELETE", location, headers={"Accept": "application/fhir+json"})).status_code == 202

    strict = replace(SOARIAN, status_requires=frozenset({RequiredHeader.PREFER, RequiredHeader.ACCEPT}))
    async with make_house(strict) as strict_house:
        await populate(strict_house)
        location = await strict_house.kick_off()
        response = await strict_house.ask("DELETE", location, headers={"Accept": "application/fhir+json"})
        assert (response.status_code, issue(response)["code"]) == (400, "required")
        assert (await strict_house.ask("DELETE", location, headers=HEADERS)).status_code == 202


async def test_inactive_application_is_404_not_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Error row 1 (law 29): the host says that its service is not active for this principal."""

    async def inactive(_: Principal) -> Authorisation:
        raise Refused(Reason.SERVICE_INACTIVE)

    monkeypatch.setattr(house.resources, "authorise", inactive)
    response = await house.ask("GET", "/Patient/$export", headers=HEADERS)

    assert (response.status_code, issue(response)["severity"], issue(response)["code"]) == (404, "error", "not-found")


async def test_unknown_request_id_is_404_not_found(house: House) -> None:
    """Error row 2 (CD-19)."""
    for method in ("GET", "DELETE"):
        response = await house.ask(method, f"/bulk-api/request/{new_job_id()}", headers=HEADERS)

        assert (response.status_code, issue(response)["severity"], issue(response)["code"]) == (404, "error", "not-found")


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.EXPIRED])
async def test_cancelled_or_expired_is_404_deleted(house: House, state: JobState) -> None:
    """Error row 3."""
    location = await house.kick_off()
    await house.turn(location, state)
    for method in ("GET", "DELETE"):
        response = await house.ask(method, location, headers=HEADERS)

        assert (response.status_code, issue(response)["severity"], issue(response)["code"]) == (404, "error", "deleted")


async def test_an_invalid_accept_is_406_structure(house: House) -> None:
    """Error row 4: the row speaks of a status request; the same rule for both methods (CD-03, CD-21)."""
    location = await house.kick_off()
    for method in ("GET", "DELETE"):
        response = await house.ask(method, location, headers={**HEADERS, "Accept": "text/html"})

        assert (response.status_code, issue(response)["severity"], issue(response)["code"]) == (406, "error", "structure")
    for accept in ("application/fhir+json", "application/json", "*/*"):
        assert (await house.ask("GET", location, headers={**HEADERS, "Accept": accept})).status_code == 202


async def test_an_internal_error_is_500_fatal_exception(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Error row 5 (CD-06, SD-04): and nothing of the cause is told."""
    location = await house.kick_off()

    async def broken(*_: object) -> None:
        raise OSError("disk 7 is on fire")

    monkeypatch.setattr(house.jobs, "find", broken)
    response = await house.ask("DELETE", location, headers=HEADERS)

    assert (response.status_code, issue(response)["severity"], issue(response)["code"]) == (500, "fatal", "exception")
    assert "fire" not in response.text


async def test_responses_carry_both_ids(house: House) -> None:
    """Headers: X-Request-Id and opc-request-id."""
    response = await house.ask("DELETE", await house.kick_off(), headers=HEADERS)

    assert response.headers["X-Request-Id"] == response.headers["opc-request-id"] != ""


async def test_outcomes_say_it_in_details(house: House) -> None:
    """All of the page's outcomes have details.text and no diagnostics."""
    response = await house.ask("GET", f"/bulk-api/request/{new_job_id()}", headers=HEADERS)

    assert issue(response)["details"]["text"]
    assert "diagnostics" not in issue(response)


async def test_progress_is_a_percentage(house: House) -> None:
    """The sibling page's "23.0% complete" (CD-12); never 100 before the end."""
    location = await house.kick_off()
    await house.runner.step()
    await house.runner.step()
    response = await house.ask("GET", location)

    assert re.fullmatch(r"\d{1,2}\.\d% complete", response.headers["X-Progress"])
