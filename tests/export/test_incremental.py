"""What an export since an instant costs: as much as has changed, whatever number of types there is (law 44)."""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, KICK_OFF, HandClock, HandRunner

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.database import Database
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

PATIENTS, EACH = 100, 29


@dataclass
class Costs:
    """A server on SQLite files with some thousand resources, whose transactions are counted by file."""

    client: httpx2.AsyncClient
    runner: HandRunner
    store: SQLiteResourceStore
    clock: HandClock
    headers: dict[str, str]
    commits: Counter[str] = field(default_factory=Counter)

    async def export(self, path: str = "/$export", since: str | None = None) -> dict[str, Any]:
        """An export that has run; `commits` has its transactions."""
        self.clock.advance(1)
        self.commits.clear()
        accepted = await self.client.get(path, headers=self.headers, params={} if since is None else {"_since": since})
        assert accepted.status_code == 202, accepted.text
        await self.runner.finish()
        answer = await self.client.get(accepted.headers["Content-Location"], headers=self.headers)
        manifest: dict[str, Any] = answer.json()
        return manifest


@pytest.fixture
async def costs(tmp_path: Path, mint: TokenMint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Costs]:
    clock, runner = HandClock(), HandRunner()
    store, jobs = SQLiteResourceStore(tmp_path / "store.db", clock=clock), SQLiteJobStore(tmp_path / "jobs.db")
    store.load(resources())
    bulk = BulkData(
        resources=store,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE, clock=clock),
        jobs=jobs,
        outputs=FileOutputStore(tmp_path / "exports"),
        runner=runner,
        settings=Settings(lease_seconds=300, renew_seconds=100),
        clock=clock,
    )
    headers = {**KICK_OFF, "Authorization": f"Bearer {mint.token('alice', 'system/*.rs', now=clock())}"}
    transport = httpx2.ASGITransport(bulk.app)
    async with bulk.running(), httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as client:
        costs = Costs(client, runner, store, clock, headers)
        write_here = Database.write_here

        def counted(database: Database, change: Callable[[Any], Any]) -> Any:
            costs.commits[database.path.name] += 1
            return write_here(database, change)

        monkeypatch.setattr(Database, "write_here", counted)
        yield costs
    store.close()
    jobs.close()


def resources() -> list[bytes]:
    found: list[dict[str, Any]] = [{"resourceType": "Patient", "id": f"p{number}"} for number in range(PATIENTS)]
    members = [{"entity": {"reference": f"Patient/p{number}"}} for number in range(10)]
    found.append({"resourceType": "Group", "id": "ten", "type": "person", "actual": True, "member": members})
    found += [
        {"resourceType": "Observation", "id": f"o{number}", "subject": {"reference": f"Patient/p{number % PATIENTS}"}}
        for number in range(PATIENTS * EACH)
    ]
    return [json.dumps(content).encode() for content in found]


@pytest.mark.parametrize("path", ["/$export", "/Patient/$export", "/Group/ten/$export"])
async def test_one_change_costs_a_handful_of_durable_writes(costs: Costs, path: str) -> None:
    since = (await costs.export(path))["transactionTime"]
    await costs.store.update("Patient", "p5", {"resourceType": "Patient", "id": "p5", "active": True})
    await costs.store.delete("Observation", "o7")
    manifest = await costs.export(path, since)
    assert [(item["type"], item["count"]) for item in manifest["output"]] == [("Patient", 1)]
    assert [(item["type"], item["count"]) for item in manifest["deleted"]] == [("Bundle", 1)]
    # The kick-off, the plan with its claim, and for each of the two slices its claim, the look before it seals, and its end.
    # A cohort also has the plan of its context with its claim.
    assert costs.commits == {"jobs.db": 9 if path == "/$export" else 11, "store.db": 1}


async def test_an_export_of_nothing_costs_its_kick_off_its_plan_and_its_cut(costs: Costs) -> None:
    since = (await costs.export())["transactionTime"]
    begin = time.perf_counter()
    manifest = await costs.export(since=since)
    took = time.perf_counter() - begin
    assert (manifest["output"], manifest["deleted"]) == ([], [])
    assert costs.commits == {"jobs.db": 3, "store.db": 1}
    assert took < 10, "a second, on a machine that has nothing else to do"
