"""The smallest host keeps the promises of the kit, and exports under a real server."""

import json
from pathlib import Path

import httpx2
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER
from loopback import served
from smallest.server import Shelf, host

from fhir_bulk_middleware import Instant, JoseTokenVerifier, system_clock
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite
from fhir_bulk_middleware.testing.samples import Samples
from fhir_bulk_middleware.testing.token_mint import TokenMint


class Desk:
    """Writes into the dict."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def put(self, *resources: str) -> None:
        now = Instant(max([system_clock(), *(changed + 1 for changed, _ in self.shelf.values())]))
        contents = map(json.loads, resources)
        self.shelf.update({f"{content['resourceType']}/{content['id']}": (now, content) for content in contents})

    async def delete(self, type_: str, id_: str) -> None:
        del self.shelf[f"{type_}/{id_}"]


class TwoTypes(Samples):
    outside_type, types = None, frozenset({"Observation"})

    def outside(self, _: str) -> None:
        """There is nothing outside of a patient's compartment."""

    def linked(self, type_: str, id_: str, path: str, reference: str) -> str:
        link = {"reference": reference}
        return json.dumps({"resourceType": type_, "id": id_, path: [link] if path == "performer" else link})


class TestSmallest(ResourceStoreSuite):
    @pytest.fixture
    def samples(self) -> Samples:
        return TwoTypes()

    @pytest.fixture
    def store(self) -> Shelf:
        return Shelf()

    @pytest.fixture
    def writer(self, store: Shelf) -> Desk:
        return Desk(store)


@pytest.mark.anyio
async def test_it_exports_its_dict_under_a_real_server(tmp_path: Path, mint: TokenMint) -> None:
    shelf = Shelf()
    await Desk(shelf).put(*(json.dumps({"resourceType": "Patient", "id": id_}) for id_ in ("b", "a")))
    app = host(shelf, tmp_path / "state", JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE))
    with served(app, longest=None) as url:
        async with httpx2.AsyncClient(base_url=url) as http:
            manifest, found = await exported(http, mint.token("me", "system/*.rs"), tmp_path / "home", "/fhir/$export")

    assert [(line["id"], set(line["meta"])) for line in found["output"]] == [("a", {"lastUpdated"}), ("b", {"lastUpdated"})]
    assert manifest.requires_access_token
