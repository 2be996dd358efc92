"""The example adapter on a real PostgreSQL keeps the promises of the kit, in this process and in workers."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import postgres_host
import psycopg
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER
from postgres_host import SCHEMA, PostgresStorage

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.instant import after, system_clock
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite
from fhir_bulk_middleware.testing.resource_values import observation, patient
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytest_plugins = ["postgres_fixtures"]


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    """A schema of one's own."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
        own = f"{postgres}{'&' if '?' in postgres else '?'}options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"
        with psycopg.connect(own, autocommit=True) as inside:
            inside.execute(SCHEMA.encode())
        yield own
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


class TestPostgresStorage(ResourceStoreSuite, StoredTextSuite):
    @pytest.fixture
    def store(self, dsn: str) -> Iterator[PostgresStorage]:
        store = PostgresStorage(dsn)
        yield store
        store.close()

    @pytest.fixture
    def writer(self, dsn: str) -> Iterator[PostgresStorage]:
        writer = PostgresStorage(dsn)  # on a connection of its own, as the host's users are
        yield writer
        writer.close()

    @pytest.fixture
    def set_clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        return lambda seconds: monkeypatch.setattr(postgres_host, "_machine", lambda: after(system_clock(), seconds))


async def changes(client: httpx2.AsyncClient, token: str, folder: Path, since: str | None) -> tuple[str, set[str], set[str]]:
    """One export: its cut, the resources in it, and the references to deleted ones."""
    manifest, found = await exported(client, token, folder, **({"_since": since} if since else {}))
    output = {f"{content['resourceType']}/{content['id']}" for content in found.get("output", [])}
    gone = {entry["request"]["url"] for bundle in found.get("deleted", []) for entry in bundle["entry"]}
    return manifest.transaction_time, output, gone


@pytest.mark.anyio
async def test_worker_processes_export_from_it_in_a_chain(dsn: str, tmp_path: Path, mint: TokenMint) -> None:
    storage = PostgresStorage(dsn)
    await storage.put(*(patient(f"p{number}") for number in range(5)))
    for number in range(40):
        await storage.put(*(observation(f"o{number}-{n}", f"Patient/p{n}", "x" * 500) for n in range(5)))
    bulk = BulkData(
        resources=storage,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=SQLiteJobStore(tmp_path / "jobs.db"),
        outputs=FileOutputStore(tmp_path / "exports"),
        settings=Settings(page_bytes=2_048, part_bytes=16_384, slice_bytes=32_768, polls_per_second=100),
        deletes=None,
    )
    token = mint.token("alice", "system/*.rs")
    async with bulk.running():
        transport = httpx2.ASGITransport(bulk.app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as client:
            cut, output, gone = await changes(client, token, tmp_path / "first", None)
            assert output == {f"Patient/p{n}" for n in range(5)} | {f"Observation/o{m}-{n}" for m in range(40) for n in range(5)}
            assert not gone
            await storage.delete("Observation", "o7-0")
            await storage.put(patient("p2", "changed"), patient("p9"))
            cut, output, gone = await changes(client, token, tmp_path / "second", cut)
            assert (output, gone) == ({"Patient/p2", "Patient/p9"}, {"Observation/o7-0"})
            cut, output, gone = await changes(client, token, tmp_path / "third", cut)
            assert (output, gone) == (set(), set())
    storage.close()
