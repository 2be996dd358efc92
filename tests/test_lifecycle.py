"""An export from kick-off to cancel, in the STANDARD dialect (IG STU3)."""

import hashlib
import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from house import BASE, KICK_OFF, House

from fhir_bulk_middleware import instant

pytestmark = pytest.mark.anyio

JOB = r"[0-9a-f-]{36}"


def ids(lines: dict[str, list[str]]) -> dict[str, list[str]]:
    return {type_: sorted(json.loads(line)["id"] for line in several) for type_, several in lines.items()}


async def test_a_kick_off_is_accepted_with_an_absolute_polling_location_and_no_body(house: House) -> None:
    """KO-110, KO-111. ST-25."""
    response = await house.ask("GET", "/$export", headers=KICK_OFF)

    assert response.status_code == 202
    assert response.headers["Content-Location"].startswith(f"{BASE}/$export-status/")
    assert response.content == b""
    assert response.headers["Cache-Control"] == "no-store"


async def test_a_job_that_waits_or_runs_says_how_far_it_is_and_when_to_ask_again(house: House) -> None:
    """ST-01, ST-03, ST-04."""
    location = await house.kick_off()
    for _ in range(3):
        response = await house.ask("GET", location)

        assert response.status_code == 202
        assert response.content == b""
        assert int(response.headers["Retry-After"]) >= 1
        assert 0 < len(response.headers["X-Progress"]) < 100
        await house.runner.step()


async def test_nobody_is_sent_away_for_longer_than_the_export_has_taken_yet(house: House) -> None:
    """ST-04: at its begin an export is slower than later."""
    location = await house.kick_off()
    await house.runner.step()  # plans
    await house.runner.step()  # the first of several types
    house.clock.advance(10)

    response = await house.ask("GET", location)

    assert response.status_code == 202
    assert response.headers["Retry-After"] == "10"


async def test_what_is_written_while_a_job_waits_for_a_worker_is_in_it_and_its_transaction_time_is_that_of_its_cut(
    house: House,
) -> None:
    """Law 1, MF-01: the cut is fixed when work begins, which may be long after the kick-off."""
    location = await house.kick_off("/$export?_type=Patient")
    house.clock.advance(60)
    await house.resources.update("Patient", "late", {"resourceType": "Patient", "id": "late"})
    house.clock.advance(1)
    begun = instant.render(house.clock(), instant.Precision.MILLISECONDS)
    await house.runner.step()
    house.clock.advance(60)
    await house.runner.finish()

    manifest = (await house.ask("GET", location)).json()

    assert manifest["transactionTime"] == begun
    assert "late" in ids(await house.lines(manifest))["Patient"]


async def test_the_manifest_of_a_completed_job_holds_what_the_ig_asks_for(house: House) -> None:
    """ST-20, ST-22, MF-01 to MF-07, MF-15."""
    location = await house.kick_off("/$export?_type=Patient,Observation")
    cut = house.clock()
    await house.runner.finish()
    house.clock.advance(60)
    response = await house.ask("GET", location)

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    manifest = response.json()
    assert list(manifest) == ["transactionTime", "request", "requiresAccessToken", "output", "error"]
    assert manifest["transactionTime"] == instant.render(cut, instant.Precision.MILLISECONDS)
    assert manifest["request"] == f"{BASE}/$export?_type=Patient,Observation"
    assert manifest["requiresAccessToken"] is True
    assert manifest["error"] == []
    assert [(item["type"], item["count"]) for item in manifest["output"]] == [("Observation", 4), ("Patient", 3)]
    expires = parsedate_to_datetime(response.headers["Expires"])
    assert instant.from_datetime(expires) == instant.after(cut, house.settings.retention)


async def test_files_are_what_the_manifest_says_they_are(house: House) -> None:
    """FR-01, FR-11, law 5. KO-93, MF-21, ST-24, FR-10."""
    manifest = await house.export()

    for item in manifest["output"]:
        response = await house.ask("GET", item["url"])
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/fhir+ndjson"
        assert response.content.endswith(b"\n")
        lines = response.content.splitlines()
        assert len(lines) == item["count"]
        assert {json.loads(line)["resourceType"] for line in lines} == {item["type"]}
        assert len(response.content) == item["extension"]["size"]
        assert hashlib.sha256(response.content).hexdigest() == item["extension"]["sha256"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "/$export",
            {
                "Group": ["both", "first", "nobody"],
                "Observation": ["b1", "b2", "b3", "b4"],
                "Organization": ["o1"],
                "Patient": ["p1", "p2", "p3"],
            },
        ),
        ("/Patient/$export", {"Group": ["both", "first"], "Observation": ["b1", "b2", "b4"], "Patient": ["p1", "p2", "p3"]}),
        ("/Group/both/$export", {"Group": ["both"], "Observation": ["b1", "b2", "b4"], "Patient": ["p1", "p2"]}),
        ("/Group/first/$export?_type=Observation", {"Observation": ["b1", "b4"]}),
        ("/Group/nobody/$export", {}),
        ("/$export?_type=Immunization", {}),
        ("/$export?_type=Patient&_type=Organization,Patient", {"Organization": ["o1"], "Patient": ["p1", "p2", "p3"]}),
    ],
)
async def test_each_level_exports_what_lies_in_its_compartments_once(
    house: House, path: str, expected: dict[str, list[str]]
) -> None:
    """KO-01 to KO-03, KO-60, KO-80, KO-83, MF-20. KO-82, KO-85."""
    manifest = await house.export(path)

    assert ids(await house.lines(manifest)) == expected


async def test_since_takes_what_changed_later_and_a_chain_misses_and_repeats_nothing(house: House) -> None:
    """KO-73, laws 2 and 3. KO-74, KO-75, DR-01 to DR-05."""
    first = await house.export()
    house.clock.advance(1)
    await house.resources.update("Patient", "p1", {"resourceType": "Patient", "id": "p1", "active": True}, None)
    await house.resources.delete("Observation", "b1", None)
    await house.resources.create("Patient", {"resourceType": "Patient", "id": "p9"}, "p9")
    house.clock.advance(1)
    second = await house.export(f"/$export?_since={first['transactionTime']}")
    house.clock.advance(1)
    third = await house.export(f"/$export?_since={second['transactionTime']}")

    assert ids(await house.lines(second)) == {"Patient": ["p1", "p9"]}
    deleted = await house.lines(second, "deleted")
    assert [json.loads(line) for line in deleted["Bundle"]] == [
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"request": {"method": "DELETE", "url": "Observation/b1"}}],
        }
    ]
    assert third["output"] == []
    assert third["deleted"] == []


@pytest.mark.parametrize("offset", ["Z", "+00:00", "%2B00:00", " 00:00", "-00:00"])
async def test_an_instant_may_have_any_offset_even_with_its_plus_lost(house: House, offset: str) -> None:
    """KO-64."""
    manifest = await house.export(f"/$export?_since=2020-01-01T00:00:00{offset}")

    assert len(manifest["output"]) == 4


@pytest.mark.parametrize("spelling", ["application/fhir%2Bndjson", "application/fhir+ndjson", "application/ndjson", "ndjson"])
async def test_every_spelling_of_ndjson_is_an_output_format(house: House, spelling: str) -> None:
    """KO-70, KO-64."""
    await house.export(f"/$export?_outputFormat={spelling}")


@pytest.mark.parametrize(
    "value",
    ['"valueString":"Patient,Organization"', '"valueCode":"Patient"}, {"name":"_type","valueString":"Organization"'],
)
@pytest.mark.parametrize("content_type", ["application/fhir+json", "application/json; charset=utf-8"])
async def test_a_post_of_parameters_means_the_same_as_a_get(house: House, value: str, content_type: str) -> None:
    """KO-06, KO-20 to KO-23, MF-02."""
    response = await house.ask(
        "POST",
        "/$export",
        headers={**KICK_OFF, "Content-Type": content_type},
        content='{"resourceType":"Parameters","parameter":[{"name":"_type",' + value + "},"
        '{"name":"_since","valueInstant":"2020-01-01T00:00:00+01:00"},{"name":"_outputFormat","valueString":"ndjson"}]}',
    )
    await house.runner.finish()
    manifest = (await house.ask("GET", response.headers["Content-Location"])).json()

    assert response.status_code == 202
    assert manifest["request"] == f"{BASE}/$export"
    assert [item["type"] for item in manifest["output"]] == ["Organization", "Patient"]


async def test_a_post_without_a_body_asks_for_everything(house: House) -> None:
    """KO-08."""
    response = await house.ask("POST", "/Patient/$export", headers=KICK_OFF)

    assert response.status_code == 202


@pytest.mark.parametrize(
    "prefer", ["respond-async", "RESPOND-ASYNC", "wait=10, respond-async", "respond-async; x=1, handling=strict"]
)
async def test_the_preference_is_read_as_the_rfc_has_it(house: House, prefer: str) -> None:
    """KO-43, KO-48."""
    response = await house.ask("GET", "/$export", headers={"Prefer": prefer})

    assert response.status_code == 202


async def test_without_type_the_scopes_decide(house: House) -> None:
    """SE-11, SE-06 to SE-08. KO-81, KO-96."""
    manifest = await house.export(scope="system/Patient.rs system/Organization.read")

    assert [item["type"] for item in manifest["output"]] == ["Organization", "Patient"]


@pytest.mark.parametrize("steps", [0, 1, 2, 99])
async def test_cancel_is_accepted_in_every_live_state_and_final(house: House, steps: int) -> None:
    """DL-01, DL-04, DL-05, DL-08, SD-11. DL-02, DL-11 to DL-14, AS-05; law 23."""
    location = await house.kick_off()
    for _ in range(steps):
        await house.runner.step()
    manifest = await house.ask("GET", location)
    urls = [item["url"] for item in manifest.json()["output"]] if manifest.status_code == 200 else []

    response = await house.ask("DELETE", location)

    assert response.status_code == 202
    assert response.content == b""
    await house.runner.finish()
    for url in [location, *urls]:
        gone = await house.ask("GET", url)
        assert gone.status_code == 404
        assert gone.json()["issue"][0]["code"] == "deleted"
    assert (await house.ask("DELETE", location)).status_code == 404


async def test_a_failed_job_says_so_for_good_and_can_be_deleted(house: House) -> None:
    """ST-10, ST-12, ST-14, DL-06."""
    location = await house.kick_off()
    await house.fail(location)
    for _ in range(2):
        response = await house.ask("GET", location)

        assert response.status_code == 500
        assert response.headers["Content-Type"] == "application/fhir+json"
        assert response.json()["issue"][0] == {
            "severity": "error",
            "code": "processing",
            "details": {"text": "The disk broke."},
            "diagnostics": "The disk broke.",
        }
    assert (await house.ask("DELETE", location)).status_code == 202
    assert (await house.ask("GET", location)).status_code == 404


async def test_a_job_is_gone_at_the_very_instant_that_expires_names(house: House) -> None:
    """ST-22, ST-27."""
    location = await house.kick_off()
    await house.runner.finish()
    house.clock.advance(house.settings.retention - 1)
    assert (await house.ask("GET", location)).status_code == 200
    house.clock.advance(1)

    assert (await house.ask("GET", location)).status_code == 404


async def test_one_owner_can_have_so_many_jobs_at_work_and_no_more(make_house: Any) -> None:
    """KO-113. SE-16."""
    async with make_house(jobs_per_owner=2) as house:
        first = await house.kick_off()
        await house.kick_off()
        refused = await house.ask("GET", "/$export", headers=KICK_OFF)

        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["issue"][0]["code"] == "throttled"
        await house.kick_off(subject="bob")
        await house.ask("DELETE", first)
        await house.kick_off()


async def test_every_answer_has_an_id_and_gives_the_clients_own_back(house: House) -> None:
    """RD-19."""
    response = await house.ask("GET", "/$export", headers={**KICK_OFF, "X-Request-Id": "mine-1"})

    assert response.headers["X-Request-Id"]
    assert response.headers["X-Correlation-Id"] == "mine-1"


async def test_a_wrong_method_is_told_which_are_right(house: House) -> None:
    """ST-08."""
    location = await house.kick_off()
    response = await house.ask("PUT", location)

    assert response.status_code == 405
    assert response.headers["Allow"] == "DELETE, GET, HEAD"


async def test_a_head_request_begins_no_export(house: House) -> None:
    response = await house.ask("HEAD", "/$export", headers=KICK_OFF)

    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, POST"
    assert not await house.runner.step()


async def test_parts_are_no_larger_than_their_ceiling_and_lose_nothing(make_house: Any) -> None:
    """FR-12; law 16."""
    async with make_house(part_bytes=4096, page_bytes=1024, slice_bytes=20_000) as house:
        for number in range(300):
            await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"text": "x" * 40}]}, f"p{number}")
        manifest = await house.export()

        assert len(manifest["output"]) > 5
        assert all(item["extension"]["size"] <= 4096 for item in manifest["output"])
        assert len(ids(await house.lines(manifest))["Patient"]) == 300
