"""The example with documents keeps the promises of the kit on a real PostgreSQL, and exports in workers behind a real server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
from documents.app import host
from documents.storage import DocumentStorage
from documents.writing import SCHEMA, write
from exporting import exported
from loopback import served
from postgres_fixture import database, set_clock
from postgres_fixture import server as postgres
from waiting import PATIENCE

from fhir_bulk_middleware import Settings
from fhir_bulk_middleware.testing import TokenMint
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite
from fhir_bulk_middleware.testing.resource_values import observation, patient


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as dsn:
        yield dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    with database(server, SCHEMA) as own:
        yield own


class Desk:
    """Writes as the host's users do, on connections of their own."""

    def __init__(self, storage: DocumentStorage) -> None:
        self.storage = storage

    async def put(self, *resources: str) -> None:
        self.storage.write(*resources)

    async def delete(self, type_: str, id_: str) -> None:
        self.storage.delete(type_, id_)


@pytest.mark.long
class TestDocumentStorage(ResourceStoreSuite, StoredTextSuite):
    @pytest.fixture
    def store(self, dsn: str) -> Iterator[DocumentStorage]:
        store = DocumentStorage(dsn)
        yield store
        store.close()

    @pytest.fixture
    def writer(self, dsn: str) -> Iterator[Desk]:
        desk = Desk(DocumentStorage(dsn))
        yield desk
        desk.storage.close()

    @pytest.fixture
    def set_clock(self, dsn: str) -> Callable[[float], None]:
        def put_off(seconds: float) -> None:
            with psycopg.connect(dsn, autocommit=True) as connection:
                set_clock(connection, round(seconds * 1_000_000))

        return put_off


async def changes(client: httpx2.AsyncClient, token: str, folder: Path, since: str | None) -> tuple[str, set[str], set[str]]:
    """One export: its cut, the resources in it, and the references to deleted ones."""
    manifest, found = await exported(client, token, folder, "/fhir/$export", **({"_since": since} if since else {}))
    output = {f"{content['resourceType']}/{content['id']}" for content in found.get("output", [])}
    gone = {entry["request"]["url"] for bundle in found.get("deleted", []) for entry in bundle["entry"]}
    return manifest.transaction_time, output, gone


@pytest.mark.anyio
async def test_worker_processes_behind_a_real_server_export_in_a_chain(dsn: str, tmp_path: Path) -> None:
    """A transaction that writes before a cut and commits after it is in the export after that cut."""
    mint = TokenMint("https://auth.example", "https://ehr.example/fhir")
    (tmp_path / "keys.json").write_text(json.dumps(mint.jwks))
    storage = DocumentStorage(dsn, patience=0.1)
    for number in range(40):
        storage.write(*(observation(f"o{number}-{n}", f"Patient/p{n}", "x" * 500) for n in range(5)))
    settings = Settings(page_bytes=2_048, part_bytes=16_384, slice_bytes=32_768, polls_per_second=100, worker_niceness=0)
    app = host(storage, tmp_path, settings)
    token = mint.token("alice", "system/*.rs")
    with served(app, longest=None) as url, storage.connection() as slow:
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            for number in range(5):
                answer = await client.put(f"/fhir/Patient/p{number}", content=patient(f"p{number}"))
                assert answer.status_code == 200
            with slow.transaction():
                write(slow, [patient("slow")], storage.compartments)
                cut, output, gone = await changes(client, token, tmp_path / "first", None)
            assert output == {f"Patient/p{n}" for n in range(5)} | {f"Observation/o{m}-{n}" for m in range(40) for n in range(5)}
            assert not gone
            assert (await client.delete("/fhir/Observation/o7-0")).status_code == 204
            assert (await client.get("/fhir/Observation/o7-0")).status_code == 404
            assert (await client.put("/fhir/Patient/p2", content=patient("p2", "changed"))).status_code == 200
            cut, output, gone = await changes(client, token, tmp_path / "second", cut)
            assert (output, gone) == ({"Patient/p2", "Patient/slow"}, {"Observation/o7-0"})
            cut, output, gone = await changes(client, token, tmp_path / "third", cut)
            assert (output, gone) == (set(), set())
    storage.close()
