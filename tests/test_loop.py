"""No request holds the event loop: the worst that is allowed, sent to a real server with a watchdog (law 38)."""

import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import AUDIENCE, ISSUER, people
from loopback import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from test_caps import LARGE, post, text

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.export.job import Options
from fhir_bulk_middleware.export.query import Everything, Filter, Page, Rows
from fhir_bulk_middleware.export.runner import LoopRunner
from fhir_bulk_middleware.export.shaping import Shaping
from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.fhir.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.tokens import TokenMint

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


DATES = "Observation?date=" + ",".join(f"gt{3_000 + number}" for number in range(1_000))
"""A thousand values that each have to be tried on each resource, and of which none is met."""


async def test_an_export_in_the_loop_leaves_others_their_turn_within_a_page(tmp_path: Path, mint: TokenMint) -> None:
    store = MemoryResourceStore()
    for number in range(3_000):
        await store.create("Observation", observation(number), f"o{number}")
    bulk, jobs = idle(tmp_path, mint, store, settle=0, poll_burst=1_000_000)
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
    assert polls > 20, "the export took many turns, and polls came in between"


async def test_the_shaping_of_a_page_can_be_stopped_within_the_page() -> None:
    criteria = Criteria.from_filter(FhirVersion.R4, DATES)
    rows = Rows(Everything(), filters=(Filter("Observation", (criteria,)),))
    lines = b"".join(canonical(observation(number)).text(1, Instant(0)) + b"\n" for number in range(2_000))
    shaping = Shaping.of("Observation", rows, Options())
    task = asyncio.create_task(shaping.shape(Page(lines, 2_000, "end")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
