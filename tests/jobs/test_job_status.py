"""Polls: throttling, a status in a header of its own, manifests in pages, repeated kick-offs (section 2, laws 12 and 20)."""

import json
from typing import Any

import pytest
from house import KICK_OFF, House, job_of, populate

from fhir_bulk_middleware.dialects import STU4

pytestmark = pytest.mark.anyio

SEPARATE = {**KICK_OFF, "Prefer": "respond-async, separate-export-status"}


async def test_who_polls_too_often_is_told_when_to_come_again(make_house: Any) -> None:
    """ST-05. Law 19."""
    async with make_house(poll_burst=3, polls_per_second=0.5) as house:
        location = await house.kick_off()
        other = await house.kick_off()
        for _ in range(3):
            assert (await house.ask("GET", location)).status_code == 202
        refused = await house.ask("GET", location)

        assert refused.status_code == 429
        assert refused.json()["issue"][0]["code"] == "throttled"
        wait = int(refused.headers["Retry-After"])
        assert (await house.ask("GET", other)).status_code == 202, "the limit is per job"
        house.clock.advance(wait - 1)
        assert (await house.ask("GET", location)).status_code == 429
        house.clock.advance(1)
        assert (await house.ask("GET", location)).status_code == 202, "the wait was true"


async def test_a_stranger_cannot_use_up_an_owners_polls(make_house: Any) -> None:
    async with make_house(poll_burst=3, polls_per_second=0.001) as house:
        location = await house.kick_off()
        for _ in range(10):
            assert (await house.ask("GET", location, subject="mallory")).status_code == 404

        assert (await house.ask("GET", location)).status_code == 202


async def test_a_status_in_a_header_of_its_own_leaves_200_to_the_poll(house: House) -> None:
    """KO-45, ST-02, ST-11, ST-21."""
    accepted = await house.ask("GET", "/$export", headers=SEPARATE)
    location = accepted.headers["Content-Location"]

    assert accepted.status_code == 202
    assert accepted.headers["Preference-Applied"] == "respond-async, separate-export-status"
    running = await house.ask("GET", location)
    assert (running.status_code, running.headers["X-Export-Status"]) == (200, "202 Accepted")
    assert "X-Progress" in running.headers
    await house.runner.finish()
    done = await house.ask("GET", location)
    assert (done.status_code, done.headers["X-Export-Status"]) == (200, "200 OK")
    assert done.json()["output"]

    failing = (await house.ask("GET", "/$export", headers=SEPARATE)).headers["Content-Location"]
    await house.fail(failing)
    failed = await house.ask("GET", failing)
    assert (failed.status_code, failed.headers["X-Export-Status"]) == (200, "500 Internal Server Error")
    assert failed.json()["resourceType"] == "OperationOutcome"


async def test_the_preference_is_per_job_and_not_asked_for_is_not_applied(house: House) -> None:
    """KO-49."""
    accepted = await house.ask("GET", "/$export", headers=KICK_OFF)

    assert "Preference-Applied" not in accepted.headers
    assert "X-Export-Status" not in (await house.ask("GET", accepted.headers["Content-Location"])).headers


async def many_files(house: House, files: int) -> None:
    for number in range(files * 5):
        await house.resources.create("Patient", {"resourceType": "Patient", "name": [{"text": "x" * 500}]}, f"m{number}")
    house.clock.advance(1)


@pytest.mark.parametrize("dialect", ["standard", "stu4"])
async def test_pages_of_a_manifest_appear_while_the_job_runs_and_never_change(make_house: Any, dialect: str) -> None:
    """KO-95, ST-40 to ST-45, law 20. MF-14."""
    small = {"part_bytes": 4096, "page_bytes": 1024, "slice_bytes": 4096, "smallest_part_bytes": 1024, "manifest_files": 3}
    settings = {**small, "poll_burst": 1000}
    async with make_house(STU4, **settings) if dialect == "stu4" else make_house(**settings) as house:
        await many_files(house, 12)
        body = '{"resourceType":"Parameters","parameter":[{"name":"allowPartialManifests","valueBoolean":true}]}'
        headers = {**KICK_OFF, "Content-Type": "application/fhir+json"}
        location = (await house.ask("POST", "/$export", headers=headers, content=body)).headers["Content-Location"]
        seen: dict[str, dict[str, Any]] = {}
        partial = 0
        working = True
        while working:
            working = await house.runner.step()
            url: str | None = location
            while url is not None:
                response = await house.ask("GET", url)
                assert response.status_code in {200, 202}, response.text
                if not response.content:
                    break
                partial += response.status_code == 202
                page = response.json()
                earlier = seen.get(url)
                if earlier is not None:
                    assert {**page, "link": None} == {**earlier, "link": None}, "a page that was read does not change"
                    assert earlier.get("link") in (None, page.get("link")), "it may only gain its link"
                for item in page["output"]:
                    assert (await house.ask("GET", item["url"])).status_code == 200, "what is listed can be fetched"
                seen[url] = page
                url = next((link["url"] for link in page.get("link", ()) if link["relation"] == "next"), None)

        assert partial > 1, "pages were shown while the job ran"
        listed = [item["url"] for page in seen.values() for item in page["output"]]
        assert len(listed) == len(set(listed)) >= 12
        assert [len(page["output"]) for page in seen.values()][:-1] == [3] * (len(seen) - 1)
        whole = (await house.ask("GET", location)).json()
        for page in seen.values():
            assert {**page, "output": None, "link": None} == {**whole, "output": None, "link": None}


async def test_without_partial_manifests_there_is_one_and_only_at_the_end(make_house: Any) -> None:
    async with make_house(
        part_bytes=4096, page_bytes=1024, slice_bytes=4096, smallest_part_bytes=1024, manifest_files=2
    ) as house:
        await many_files(house, 5)
        location = await house.kick_off()
        for _ in range(3):
            await house.runner.step()
            assert (await house.ask("GET", location)).content == b""
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()

        assert len(manifest["output"]) > 2
        assert "link" not in manifest


async def test_a_page_of_a_job_that_failed_meanwhile_tells_the_failure(make_house: Any) -> None:
    """ST-46, ST-10."""
    async with make_house() as house:
        await populate(house)
        location = await house.kick_off("/$export?allowPartialManifests=true")
        await house.fail(location)
        response = await house.ask("GET", f"{location}/page/1")

        assert response.status_code == 500
        assert response.json()["issue"][0]["code"] == "processing"


@pytest.mark.parametrize("page", ["0", "1", "01", "-1", "x", "999999", "9" * 50])
async def test_a_page_that_is_not_there_is_unknown(house: House, page: str) -> None:
    """ST-47."""
    location = await house.kick_off()
    await house.runner.finish()
    response = await house.ask("GET", f"{location}/page/{page}")

    assert response.status_code == 404
    assert (await house.ask("DELETE", f"{location}/page/1")).status_code == 405


async def test_the_same_kick_off_under_one_key_is_one_job(house: House) -> None:
    """Law 12."""
    headers = {**KICK_OFF, "Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    first = await house.ask("GET", "/$export?_type=Patient", headers=headers)
    again = await house.ask("GET", "/$export?_type=Patient", headers=headers)

    assert first.status_code == again.status_code == 202
    assert first.headers["Content-Location"] == again.headers["Content-Location"]
    assert (await house.kick_off("/$export?_type=Patient")) != first.headers["Content-Location"]

    other = await house.ask("GET", "/$export?_type=Observation", headers=headers)
    fewer = await house.ask("GET", "/$export?_type=Patient", headers=headers, scope="system/Patient.rs?active=true")
    for refused in (other, fewer):
        assert refused.status_code == 422
        assert refused.json()["issue"][0]["expression"] == ["http.Idempotency-Key"]
    stranger = await house.ask("GET", "/$export?_type=Patient", headers=headers, subject="bob")
    assert stranger.headers["Content-Location"] != first.headers["Content-Location"], "a key belongs to its owner"

    await house.ask("DELETE", first.headers["Content-Location"])
    after = await house.ask("GET", "/$export?_type=Patient", headers=headers)
    assert job_of(after.headers["Content-Location"]) != job_of(first.headers["Content-Location"]), "it dies with the job"


async def test_a_kick_off_that_is_repeated_at_another_address_is_the_same_job(make_house: Any) -> None:
    """Law 12: the answer of one server was lost with it, and the client asks the next one."""
    headers = {**KICK_OFF, "Idempotency-Key": "k"}
    async with make_house(public_base_url=None) as house:
        first = await house.ask("GET", "/$export?_type=Patient", headers={**headers, "Host": "one.example"})
        again = await house.ask("GET", "/$export?_type=Patient", headers={**headers, "Host": "two.example:8080"})

        assert first.headers["Content-Location"].startswith("https://one.example/")
        assert again.headers["Content-Location"].startswith("https://two.example:8080/")
        assert job_of(first.headers["Content-Location"]) == job_of(again.headers["Content-Location"])


async def test_a_job_of_a_granular_scope_is_shown_only_under_that_scope(house: House) -> None:
    """SE-09, SE-03."""
    await populate_more(house)
    granular = "system/Observation.rs?status=preliminary"
    location = await house.kick_off("/$export?_type=Observation", scope=granular)
    await house.runner.finish()

    assert (await house.ask("GET", location, scope=granular)).status_code == 200
    assert (await house.ask("GET", location, scope="system/*.rs")).status_code == 200
    assert (await house.ask("GET", location, scope="system/Observation.rs?status=final")).status_code == 403
    assert (await house.ask("GET", location, scope="system/Patient.rs")).status_code == 403


async def populate_more(house: House) -> None:
    observation = {"resourceType": "Observation", "id": "b9", "status": "preliminary", "code": {"text": "z"}}
    await house.resources.create("Observation", observation, "b9")
    house.clock.advance(1)


async def test_progress_never_falls_and_never_says_it_is_done(make_house: Any) -> None:
    async with make_house(part_bytes=4096, page_bytes=1024, slice_bytes=4096, smallest_part_bytes=1024) as house:
        await populate(house)
        await many_files(house, 5)
        location = await house.kick_off()
        done = []
        while (response := await house.ask("GET", location)).status_code == 202:
            words = response.headers["X-Progress"].replace(",", "").split()
            done.append([int(word) for word in words if word.isdigit()])
            await house.runner.step()
        counts = [pair for pair in done if pair]

        assert [pair[0] for pair in counts] == sorted(pair[0] for pair in counts)
        assert all(pair[0] <= pair[1] for pair in counts)
        assert json.loads(response.content)["output"]
