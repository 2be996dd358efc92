"""The example with FHIRStarter, under uvicorn: its routes stay its own, and `/Patient/$export` is ours."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from example_server import example_server, url
from exporting import exported
from waiting import PATIENCE

from fhir_bulk_middleware.testing import TokenMint

pytestmark = pytest.mark.anyio

FHIR = {"Content-Type": "application/fhir+json"}
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = tmp_path_factory.mktemp("patients")
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    (state / "keys.json").write_text(json.dumps(mint.jwks))
    (state / "token").write_text(mint.token("me", "system/*.rs"))
    with example_server("fhirstarter_host.app:application", state / "log", PATIENTS_STATE=str(state)) as log:
        yield log


async def test_a_patient_export_is_not_taken_for_a_patient_and_exports_chain(patients: Path, tmp_path: Path) -> None:
    token = (patients.parent / "token").read_text()
    async with httpx2.AsyncClient(base_url=await url(patients), timeout=PATIENCE) as http:
        for id_ in "abc":
            content = json.dumps({"resourceType": "Patient", "id": id_, "active": True})
            assert (await http.put(f"/Patient/{id_}", content=content, headers=FHIR)).status_code == 200
        manifest, found = await exported(http, token, tmp_path / "all", "/Patient/$export")
        assert {each["id"] for each in found["output"]} == {"a", "b", "c"}
        assert (await http.delete("/Patient/b")).status_code == 204
        assert (await http.post("/Patient", content=b'{"resourceType":"Patient"}', headers=FHIR)).status_code == 201
        since = manifest.transaction_time
        _, found = await exported(http, token, tmp_path / "since", "/Patient/$export", _since=since)
        assert [len(found["output"]), found["deleted"][0]["entry"][0]["request"]["url"]] == [1, "Patient/b"]


async def test_what_is_not_ours_is_answered_by_fhirstarter(patients: Path) -> None:
    async with httpx2.AsyncClient(base_url=await url(patients), timeout=PATIENCE) as http:
        assert (await http.get("/Patient/$export", headers=ASYNC)).status_code == 401, "ours, which asks for a token"
        unknown = await http.get("/Patient/unknown")
        assert (unknown.status_code, unknown.json()["resourceType"]) == (404, "OperationOutcome")
        assert (await http.get("/Patient/$other")).status_code == 400, "an id that FHIRStarter refuses"
        assert (await http.get("/docs")).status_code == 200
        metadata = (await http.get("/metadata")).json()["rest"][0]
        assert metadata["resource"][0]["interaction"][0] == {"code": "read"}
        assert "export" in {operation["name"] for operation in metadata["operation"]}
