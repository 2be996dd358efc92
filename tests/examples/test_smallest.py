"""The smallest host keeps the promises of the kit, and exports under a real server."""

import json
from pathlib import Path

import httpx2
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER
from loopback import served
from smallest.server import Patients, host

from fhir_bulk_middleware import Instant, JoseTokenVerifier, system_clock
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import Samples
from fhir_bulk_middleware.testing.token_mint import TokenMint


class Desk:
    """Writes patients into the dict."""

    def __init__(self, patients: Patients) -> None:
        self.patients = patients

    async def put(self, *resources: str) -> None:
        now = Instant(max([system_clock(), *(changed + 1 for changed, _ in self.patients.values())]))
        self.patients.update({content["id"]: (now, content) for content in map(json.loads, resources)})

    async def delete(self, type_: str, id_: str) -> None:
        assert type_ == "Patient"
        del self.patients[id_]


class PatientsOnly(Samples):
    record_type, outside_type, types = "Patient", None, frozenset[str]()

    def record(self, id_: str, *patients: str, text: str = "") -> str | None:
        """There is nothing but patients."""
        return None

    def outside(self, id_: str) -> str | None:
        return None


class TestSmallest(ResourceStoreSuite):
    @pytest.fixture
    def samples(self) -> Samples:
        return PatientsOnly()

    @pytest.fixture
    def store(self) -> Patients:
        return Patients()

    @pytest.fixture
    def writer(self, store: Patients) -> Desk:
        return Desk(store)


@pytest.mark.anyio
async def test_it_exports_its_dict_under_a_real_server(tmp_path: Path, mint: TokenMint) -> None:
    patients = Patients()
    await Desk(patients).put(*(json.dumps({"resourceType": "Patient", "id": id_}) for id_ in ("b", "a")))
    patients.update({id_: (Instant(changed - 60_000_000), content) for id_, (changed, content) in patients.items()})
    app = host(patients, tmp_path / "state", JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE))
    with served(app, longest=None) as url:
        async with httpx2.AsyncClient(base_url=url) as http:
            manifest, found = await exported(http, mint.token("me", "system/*.rs"), tmp_path / "home", "/fhir/$export")

    assert [(line["id"], set(line["meta"])) for line in found["output"]] == [("a", {"lastUpdated"}), ("b", {"lastUpdated"})]
    assert manifest.requires_access_token
