"""Several dialects at several mounts on the same stores and workers; a job answers through the mount that made it (law 10)."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, KICK_OFF, HandClock, HandRunner, House, populate
from starlette.applications import Starlette
from starlette.routing import Mount

from fhir_bulk_middleware import HEALTH_CONNECT_AU, SOARIAN, STANDARD, BulkData, JoseTokenVerifier, Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def mounts(make_house: Any) -> AsyncIterator[tuple[House, dict[str, str], httpx2.AsyncClient]]:
    """A house whose stores three mounts share: its settings, headers with a token, and a client."""
    async with make_house() as house:
        await populate(house)
        verifier = JoseTokenVerifier(jwks=house.mint.jwks, issuer=ISSUER, audience=AUDIENCE, clock=house.clock)

        def bulk(dialect: Any, clock: HandClock = house.clock, runner: HandRunner = house.runner) -> BulkData:
            return BulkData(
                resources=house.resources,
                verifier=verifier,
                jobs=house.jobs,
                outputs=house.outputs,
                runner=runner,
                settings=Settings(jobs_per_owner=3),
                dialect=dialect,
                clock=clock,
            )

        several = {"standard": bulk(STANDARD), "au": bulk(HEALTH_CONNECT_AU), "soarian": bulk(SOARIAN)}
        app = Starlette(routes=[Mount(f"/{name}", app=one.app) for name, one in several.items()])
        async with (
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as client,
            several["standard"].running(),
            several["au"].running(),
            several["soarian"].running(),
        ):
            yield house, {**KICK_OFF, "Authorization": f"Bearer {house.token()}"}, client


async def test_a_job_is_unknown_through_another_mount(mounts: Any) -> None:
    house, headers, client = mounts
    made = (await client.get("/standard/$export", headers=headers)).headers["Content-Location"]
    job = made.rpartition("/")[2]
    await house.runner.finish()

    assert (await client.get(made, headers=headers)).status_code == 200
    for elsewhere in (f"/au/$export-poll-status?_jobId={job}", f"/soarian/bulk-api/request/{job}"):
        assert (await client.get(elsewhere, headers=headers)).status_code == 404
        assert (await client.delete(elsewhere, headers=headers)).status_code in {400, 404}
    assert (await client.get(made, headers=headers)).status_code == 200


async def test_each_mount_speaks_its_own_dialect_about_its_own_jobs(mounts: Any) -> None:
    house, headers, client = mounts
    standard = (await client.get("/standard/$export", headers=headers)).headers["Content-Location"]
    au = (await client.get("/au/$export", headers=headers)).headers["Content-Location"]
    soarian = (await client.get("/soarian/Patient/$export", headers=headers)).headers["Content-Location"]
    await house.runner.finish()

    assert "/standard/$export-status/" in standard
    assert "/au/$export-poll-status?_jobId=" in au
    assert "/soarian/bulk-api/request/" in soarian
    for location in (standard, au, soarian):
        for item in (await client.get(location, headers=headers)).json()["output"]:
            assert (await client.get(item["url"], headers=headers)).status_code == 200


async def test_limits_are_shared_by_all_mounts(mounts: Any) -> None:
    _, headers, client = mounts
    for path in ("/standard/$export", "/au/$export", "/soarian/Patient/$export"):
        assert (await client.get(path, headers=headers)).status_code == 202
    for path in ("/standard/$export", "/au/$export", "/soarian/Patient/$export"):
        assert (await client.get(path, headers=headers)).status_code == 429
