"""No request holds the event loop: the worst that is allowed, sent to a real server with a watchdog (law 38)."""

import asyncio
import json
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, people
from loopback import LONGEST_TURN, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from test_caps import LARGE, post, text

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Codec, Options
from fhir_bulk_middleware.contract.lease import Recorded
from fhir_bulk_middleware.contract.query import Everything, Filter, Page, Rows
from fhir_bulk_middleware.export.transform import Transform
from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, system_clock
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.job_values import ROWS, a_job, a_part, a_slice
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import LoopRunner

pytestmark = pytest.mark.anyio
EVERYTHING: dict[str, Any] = {"jobs_per_owner": 10_000, "kick_offs_per_minute": 1_000_000, "refusals_per_minute": 1_000_000}


def idle(tmp_path: Path, mint: TokenMint, resources: Any, **settings: Any) -> tuple[BulkData, SQLiteJobStore]:
    jobs = SQLiteJobStore(tmp_path / "jobs.db")
    bulk = BulkData(
        resources=resources,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=jobs,
        outputs=MemoryOutputStore(),
        runner=LoopRunner(),
        settings=Settings(**EVERYTHING, **settings),
    )
    return bulk, jobs


def host(statements: Any) -> Starlette:
    async def metadata(_: Request) -> Response:
        return Response(next(statements), media_type="application/fhir+json")

    return Starlette(routes=[Route("/fhir/metadata", metadata)])


def statement(number: int) -> bytes:
    """A CapabilityStatement of some 200 kB that is another each time."""
    parameters = [{"name": f"p{each}", "type": "token", "documentation": "x" * 30} for each in range(20)]
    resources = [{"type": f"Type{each}", "searchParam": parameters} for each in range(150)]
    return json.dumps(
        {"resourceType": "CapabilityStatement", "date": str(number), "rest": [{"mode": "server", "resource": resources}]}
    ).encode()


async def test_nobody_holds_the_loop_with_the_largest_that_is_read_nor_with_more(tmp_path: Path, mint: TokenMint) -> None:
    """The watchdog of `served` fails this test otherwise."""
    store = MemoryResourceStore()
    for resource in people():
        await store.create(resource["resourceType"], resource, resource["id"])
    bulk, jobs = idle(tmp_path, mint, store)
    app = host(map(statement, count()))
    bulk.install(app)
    statuses: list[int] = []

    async def send(http: httpx2.AsyncClient, number: int) -> None:
        authorization = {"Authorization": f"Bearer {mint.token(f'caller {number}', 'system/*.cruds')}"}
        for large in LARGE[number:] + LARGE[:number]:
            for size in (large.most, 2 * large.most):
                made = large.make(size)
                headers = authorization | made.pop("headers", {})
                url = "/fhir" + made.pop("url")
                statuses.append((await http.request(large.method, url, headers=headers, **made)).status_code)
            statuses.append((await http.get("/fhir/metadata")).status_code)

    with served(app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=600) as http:
            await asyncio.gather(*(send(http, number) for number in range(4)))
    jobs.close()

    assert max(statuses) < 500
    assert {200, 202, 400, 414, 431} <= set(statuses)


def observation(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"text": "x"},
        "effectiveDateTime": "2020-01-01T00:00:00Z",
    }


async def test_the_watchdog_sees_who_holds_the_loop() -> None:
    async def hold(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            begun = time.thread_time()
            while time.thread_time() - begun < 2 * LONGEST_TURN:
                pass
            await Response(b"done")(scope, receive, send)

    async def ask() -> None:
        with served(hold) as url:
            async with httpx2.AsyncClient(base_url=url, timeout=600) as http:
                assert (await http.get("/")).text == "done"

    with pytest.raises(AssertionError, match="held the loop"):
        await ask()


async def test_a_manifest_of_very_many_files_is_written_beside_the_loop(tmp_path: Path, mint: TokenMint) -> None:
    """A client may ask for small files."""
    bulk, jobs = idle(tmp_path, mint, MemoryResourceStore(), poll_burst=1_000)
    app = host(map(statement, count()))
    bulk.install(app)
    files = 20_000
    job = a_job(Owner(ISSUER, "alice"), mount=bulk.mount)
    job = replace(job, request=replace(job.request, retention=3_600, options=Options()), created_at=system_clock())
    assert await jobs.add(job, ROWS, working_at_most=9)
    now = system_clock()
    planning = await jobs.claim("worker", now, lease_seconds=60)
    assert planning is not None
    assert await jobs.plan(planning, now, Codec.PLAIN, [a_slice(0)], now)
    lease = await jobs.claim("worker", now, lease_seconds=60)
    assert lease is not None
    parts = [a_part(job, 0, number) for number in range(files)]
    assert await jobs.checkpoint(lease, parts, "end", now, done=files, finished=True) is Recorded.COMPLETED
    headers = {"Authorization": f"Bearer {mint.token('alice', 'system/*.rs')}"}

    with served(app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=600, headers=headers) as http:
            answer = await http.get(f"/fhir/$export-status/{job.id}")
    jobs.close()

    assert answer.status_code == 200
    assert len(answer.json()["output"]) == files


DATES = "Observation?date=" + ",".join(f"gt{3_000 + number}" for number in range(1_000))
"""A thousand values that each have to be tried on each resource, and of which none is met."""


async def test_an_export_in_the_loop_leaves_others_their_turn_within_a_page(tmp_path: Path, mint: TokenMint) -> None:
    store = MemoryResourceStore()
    for number in range(3_000):
        await store.create("Observation", observation(number), f"o{number}")
    bulk, jobs = idle(tmp_path, mint, store, settle=0, poll_burst=1_000_000, first_poll_wait=0)
    app = host(map(statement, count()))
    bulk.install(app)
    body = post(text("_typeFilter", DATES), text("_type", "Observation"))
    headers = body["headers"] | {"Authorization": f"Bearer {mint.token('alice', 'system/*.rs')}"}

    with served(app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=600, headers=headers) as http:
            made = await http.post("/fhir/$export", content=body["content"])
            polls = 0
            while (answer := await http.get(made.headers["Content-Location"])).status_code == 202:
                polls += 1
    jobs.close()

    assert answer.status_code == 200
    assert answer.json()["output"] == []
    assert polls > 5, "the export took many turns, and polls came in between"


async def test_the_shaping_of_a_page_can_be_stopped_within_the_page() -> None:
    criteria = Criteria.parse(FhirVersion.R4, *DATES.split("?", 1))
    rows = Rows(Everything(), filters=(Filter("Observation", (criteria,)),))
    lines = b"".join(canonical(observation(number)).text(1, Instant(0)) + b"\n" for number in range(2_000))
    transform = Transform.of("Observation", rows, Options())
    task = asyncio.create_task(transform.apply(Page(lines, 2_000, "end")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
