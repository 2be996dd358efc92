"""The demo host, which cannot delete: with us installed it can, and then says itself that the resource is gone (RD-05)."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from fhir_bulk_middleware import BulkData, JoseTokenVerifier
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

FHIR = {"content-type": "application/fhir+json"}


@pytest.fixture
async def http(tmp_path: Path, mint: TokenMint) -> AsyncIterator[httpx2.AsyncClient]:
    store = SQLiteResourceStore(tmp_path / "store.db")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    app = fhir_host(store, verifier)
    jobs, outputs = MemoryJobStore(), MemoryOutputStore()
    BulkData(resources=store, verifier=verifier, jobs=jobs, outputs=outputs, deletes=AIDBOX).install(app)
    headers = {"authorization": f"Bearer {mint.token('somebody', 'system/*.cruds')}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr/fhir", headers=headers) as http:
        yield http
    store.close()


async def test_a_deleted_resource_reads_410_from_the_host_and_its_history_stays(http: httpx2.AsyncClient) -> None:
    await http.put("/Patient/a", json={"resourceType": "Patient", "id": "a", "active": True}, headers=FHIR)
    stale = await http.delete("/Patient/a", headers={"If-Match": 'W/"2"'})
    assert stale.status_code == 412

    deleted = await http.delete("/Patient/a", headers={"If-Match": (await http.get("/Patient/a")).headers["etag"]})

    assert deleted.status_code == 200
    assert deleted.json()["active"] is True
    gone = await http.get("/Patient/a")
    assert gone.status_code == 410
    assert (await http.get("/Patient/a/_history/1")).content == deleted.content
    assert (await http.get("/Patient?_id=a")).json().get("entry", []) == []
    revived = await http.put("/Patient/a", json={"resourceType": "Patient", "id": "a"}, headers=FHIR)
    assert revived.json()["meta"]["versionId"] == "3"


async def test_the_host_says_in_its_metadata_that_it_deletes_now(http: httpx2.AsyncClient) -> None:
    (rest,) = (await http.get("/metadata")).json()["rest"]
    patient = next(entry for entry in rest["resource"] if entry["type"] == "Patient")
    assert {"code": "delete"} in patient["interaction"]
    assert patient["conditionalDelete"] == "multiple"


async def test_the_hosts_405_is_still_its_own(http: httpx2.AsyncClient) -> None:
    assert (await http.patch("/Patient/a")).headers["allow"]
    assert (await http.delete("/Patient/a/_history/1")).status_code == 405
    assert (await http.delete("/metadata")).status_code == 405
