"""The smallest host keeps the promises of the kit, and exports under a real server."""

import json
from pathlib import Path

import httpx2
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER
from loopback import served
from smallest.server import Shelf, host
from smallest.test_kit import Desk, TestSmallest

from fhir_bulk_middleware import JoseTokenVerifier
from fhir_bulk_middleware.testing.token_mint import TokenMint

__all__ = ["TestSmallest"]


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
