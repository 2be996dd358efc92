"""The authorization server in a host of one's own, as the README shows it."""

from pathlib import Path

import httpx2
import pytest
from registered import AUDIENCE, KEYS, SERVER, URL, assertion, form
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from fhir_bulk_middleware import BulkData, Settings
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.smart.clients import Client
from fhir_bulk_middleware.smart.replay import SQLiteReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.workers.runner import LoopRunner


@pytest.mark.anyio
async def test_a_host_takes_the_tokens_of_the_server_that_is_mounted_beside_it(tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/fhir/metadata", lambda _: JSONResponse({"resourceType": "CapabilityStatement"}))])
    replay = SQLiteReplayLog(tmp_path / "assertions.db")
    client = Client.registered("backend", KEYS["ES384"].jwks, ["system/Patient.rs"])
    server = AuthorizationServer(URL, AUDIENCE, [client], key=SERVER, replay=replay)
    bulk = BulkData(
        resources=MemoryResourceStore(),
        verifier=server.verifier(),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        runner=LoopRunner(),
        settings=Settings(smart=server.configuration),
    )
    bulk.install(app, base="/fhir")
    app.router.routes.insert(0, Mount("/fhir/auth", server.app))

    async with bulk.running(), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
        where = (await http.get("/.well-known/smart-configuration")).json()
        seconds = system_clock() // 1_000_000
        token = (await http.post(where["token_endpoint"], data=form(assertion(exp=seconds + 200)))).json()
        assert token["scope"] == "system/Patient.rs"
        headers = {"Authorization": f"Bearer {token['access_token']}", "Prefer": "respond-async"}
        assert (await http.get("/fhir/$export", headers=headers)).status_code == 202
        assert (await http.get("/fhir/$export?_type=Observation", headers=headers)).status_code == 403
        metadata = (await http.get("/fhir/metadata")).json()
        assert "SMART-on-FHIR" in str(metadata["rest"][0]["security"])
    replay.close()
