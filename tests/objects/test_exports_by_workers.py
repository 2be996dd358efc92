"""Exports by worker processes into S3, fetched through the server and by signed URLs. `.ci/long` runs this."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER, KICK_OFF
from object_servers import ObjectServer, fetch

from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, Settings, SQLiteJobStore, SQLiteResourceStore
from fhir_bulk_middleware.demo.client import BulkClient
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import ProcessRunner

pytest_plugins = ["object_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600), pytest.mark.long]
SETTINGS = Settings(worker_processes=2, slice_bytes=200_000, part_bytes=400_000)


async def export(folder: Path, outputs: Any, mint: TokenMint, resources: SQLiteResourceStore, settings: Settings) -> Any:
    jobs = SQLiteJobStore(folder / "jobs.db")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE)
    runner = ProcessRunner(folder / "workers", settings)
    bulk = BulkData(resources=resources, verifier=verifier, jobs=jobs, outputs=outputs, runner=runner, settings=settings)
    token = mint.token("alice", "system/*.rs")
    headers = {"Authorization": f"Bearer {token}", **KICK_OFF}
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="https://ehr.example", headers=headers)
    async with bulk.running(), http:
        if settings.signed_url_seconds is None:
            _, lines = await exported(http, token, folder / "files", "/$export")
            found: Any = sorted(map(str, lines["output"]))
        else:
            location = (await http.get("/$export")).headers["Content-Location"]
            client = BulkClient(http, lambda: token, sleep=lambda _: anyio.sleep(0.1))
            found = [answer async for answer in client.wait(location)][-1]
    jobs.close()
    return found


async def test_the_same_data_has_the_same_lines_on_files_and_on_s3_and_by_signed_urls(
    tmp_path: Path, mint: TokenMint, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    resources = SQLiteResourceStore(tmp_path / "store.db")
    for line in population(12):
        resource = json.loads(line)
        await resources.create(resource["resourceType"], resource, resource["id"])
    for name in "abc":
        (tmp_path / name).mkdir()

    on_files = await export(tmp_path / "a", FileOutputStore(tmp_path / "exports"), mint, resources, SETTINGS)
    on_s3 = await export(tmp_path / "b", outputs_on(s3_server), mint, resources, SETTINGS)
    assert len(on_files) > 500
    assert on_s3 == on_files

    signing = SETTINGS.model_copy(update={"signed_url_seconds": 300.0})
    below = outputs_on(s3_server)
    other = ObjectOutputStore(f"{below.recipe().arguments['url']}/signed", **_options(below))
    manifest = await export(tmp_path / "c", other, mint, resources, signing)
    resources.close()
    count = 0
    assert manifest.requires_access_token is False
    for file in manifest.files:
        status, headers, body = fetch(file.url)
        plain = gzip.decompress(body) if headers["Content-Encoding"] == "gzip" else body
        assert (status, hashlib.sha256(plain).hexdigest()) == (200, file.sha256)
        count += plain.count(b"\n")
    assert count == len(on_files)


def _options(store: ObjectOutputStore) -> dict[str, Any]:
    return {name: value for name, value in store.recipe().arguments.items() if name != "url"}
