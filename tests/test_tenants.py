"""Several adapters on one job store: nothing crosses, or the second is refused at its start (law 32)."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, KICK_OFF
from pydantic import JsonValue

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.registration import NotAdmitted
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.dialects import HEALTH_CONNECT_AU, STANDARD
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

pytestmark = pytest.mark.anyio

TENANTS = ("north", "south")
ROUNDS = 15
SETTINGS = Settings(
    public_base_url="https://ehr.example",
    worker_processes=1,
    jobs_per_owner=1_000,
    kick_offs_per_minute=1_000_000,
    polls_per_second=1_000,
    poll_burst=1_000,
)
FULL = "system/*.cruds"


class Place:
    """One folder with one job store and one output store, for as many adapters as a test likes."""

    def __init__(self, folder: Path, mint: TokenMint) -> None:
        self.folder = folder
        self.mint = mint
        self.jobs: Any = SQLiteJobStore(folder / "jobs.db")
        self.outputs: Any = FileOutputStore(folder / "exports")

    def verifier(self, audience: str = AUDIENCE) -> JoseTokenVerifier:
        return JoseTokenVerifier(jwks=self.mint.jwks, issuer=ISSUER, audience=audience)

    def bulk(self, resources: Any, **more: Any) -> BulkData:
        parts: dict[str, Any] = {"verifier": self.verifier(), "jobs": self.jobs, "outputs": self.outputs, "runner": LoopRunner()}
        return BulkData(resources=resources, settings=SETTINGS, **{"deletes": AIDBOX, **parts, **more})

    def token(self, audience: str = AUDIENCE) -> str:
        return self.mint.token("alice", FULL, aud=audience)

    @asynccontextmanager
    async def client(self, bulk: BulkData, audience: str = AUDIENCE) -> AsyncIterator[httpx2.AsyncClient]:
        headers = {**KICK_OFF, "Authorization": f"Bearer {self.token(audience)}"}
        transport = httpx2.ASGITransport(bulk.app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://ehr.example", headers=headers) as client:
            yield client


@pytest.fixture
def place(tmp_path: Path, mint: TokenMint) -> Any:
    place = Place(tmp_path, mint)
    jobs = place.jobs
    yield place
    jobs.close()


async def started(bulk: BulkData) -> None:
    async with bulk.running():
        pass


async def done(client: httpx2.AsyncClient, location: str) -> dict[str, Any]:
    while (answer := await client.get(location)).status_code == 202:  # noqa: ASYNC110 - as clients poll
        await asyncio.sleep(0.2)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def exported(client: httpx2.AsyncClient, tenant: str, number: int) -> None:
    """An export holds the tenant's own patient and nothing else."""
    location = (await client.get("/$export?_type=Patient", headers={"Idempotency-Key": f"{tenant}-{number}"})).headers
    manifest = await done(client, location["Content-Location"])
    lines = [line for file in manifest["output"] for line in (await client.get(file["url"])).text.splitlines()]
    assert [json.loads(line)["id"] for line in lines] == [tenant], f"an export of {tenant} holds {lines}"


async def removed(client: httpx2.AsyncClient, resources: Any, number: int) -> None:
    """A remove-all removes the tenant's own observations with this code; the other has the same ones."""
    headers = {"x-conditional-delete": "remove-all"}
    answer = await client.delete(f"/Observation?code=c{number}", headers=headers)
    bundle = await done(client, answer.headers["Content-Location"])
    assert [entry["response"]["status"] for entry in bundle["entry"]] == ["204"]
    assert (await resources.read("Observation", f"o{number}")).deleted


async def filled(resources: Any, tenant: str) -> Any:
    await resources.create("Patient", {"resourceType": "Patient", "id": tenant}, tenant)
    for number in range(2 * ROUNDS):
        observation = {
            "resourceType": "Observation",
            "id": f"o{number}",
            "status": "final",
            "code": {"coding": [{"code": f"c{number}"}]},
        }
        await resources.create("Observation", observation, f"o{number}")
    return resources


@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["in the loop", "in worker processes"])
async def test_no_job_of_two_adapters_on_one_store_crosses(place: Place, where: str) -> None:
    """Exports and remove-alls at once; the observations that a tenant has in common with what the other removes stay."""
    async with AsyncExitStack() as stack:
        tenants = {}
        for tenant in TENANTS:
            resources = await filled(SQLiteResourceStore(place.folder / f"{tenant}.db"), tenant)
            stack.callback(resources.close)
            runner = LoopRunner() if where == "in the loop" else ProcessRunner(place.folder / "runner", SETTINGS)
            bulk = place.bulk(resources, adapter=tenant, runner=runner)
            await stack.enter_async_context(bulk.running())
            tenants[tenant] = resources, await stack.enter_async_context(place.client(bulk))
        async with asyncio.TaskGroup() as group:
            for number in range(ROUNDS):
                for offset, (tenant, (resources, client)) in enumerate(tenants.items()):
                    group.create_task(exported(client, tenant, number))
                    group.create_task(removed(client, resources, number + offset * ROUNDS))
        for offset, (resources, _) in enumerate(tenants.values()):
            left = {f"o{number}" for number in range(2 * ROUNDS) if not offset * ROUNDS <= number < (offset + 1) * ROUNDS}
            found = (await resources.search("Observation", ids=None, count=1_000, after=None)).resources
            assert {stored.id for stored in found} == left


async def test_a_second_adapter_that_nobody_named_is_refused_at_its_start(place: Place) -> None:
    north, south = (SQLiteResourceStore(place.folder / f"{tenant}.db") for tenant in TENANTS)
    async with place.bulk(north).running():
        with pytest.raises(NotAdmitted, match=r"where it is another one, give it a name of its own, BulkData\(adapter=...\)"):
            await started(place.bulk(south))
    with pytest.raises(NotAdmitted, match="adapter"):
        await started(place.bulk(south))  # also when the first is not there any more: its jobs are
    await started(place.bulk(south, adapter="south"))


async def test_two_objects_of_one_class_that_cannot_be_told_apart_are_refused(place: Place) -> None:
    place.jobs, place.outputs = MemoryJobStore(), MemoryOutputStore()
    north, south = MemoryResourceStore(), MemoryResourceStore()
    async with place.bulk(north).running(), place.bulk(north, dialect=HEALTH_CONNECT_AU).running():
        with pytest.raises(NotAdmitted, match="nothing tells the two apart"):
            await started(place.bulk(south))
        await started(place.bulk(south, adapter="south"))
        await started(place.bulk(south, mount="south"))
    await started(place.bulk(south))  # as after a restart, with an object of its own


async def test_a_restart_and_many_processes_make_the_same_mount_without_friction(place: Place) -> None:
    def again() -> BulkData:
        return place.bulk(SQLiteResourceStore(place.folder / "north.db"), jobs=SQLiteJobStore(place.folder / "jobs.db"))

    async with again().running(), again().running():
        await started(again())
    await started(again())
    assert len((await place.jobs.registry()).registrations) == 1


async def test_an_adapter_that_is_made_in_another_way_is_told_its_name(place: Place) -> None:
    first = place.bulk(SQLiteResourceStore(place.folder / "north.db"))
    await started(first)
    moved = SQLiteResourceStore(place.folder / "moved.db")
    with pytest.raises(NotAdmitted) as refused:
        await started(place.bulk(moved))
    name = first.registration.adapter
    assert f"give BulkData(adapter={name!r}, mount='standard')" in str(refused.value)
    await started(place.bulk(moved, adapter=name, mount="standard"))


class Hospital(MemoryResourceStore):
    """Made again from what its module says of its database."""

    def __init__(self, database: JsonValue) -> None:
        super().__init__()
        self._database = database

    def recipe(self) -> Recipe:
        return Recipe(f"{__name__}:Hospital", {"database": self._database})


@pytest.mark.parametrize(
    ("database", "changed", "other"),
    [
        (
            "postgresql+psycopg://me:old@db/north",
            "postgresql+psycopg://me:n:e@w@db/north",
            "postgresql+psycopg://you:old@db/north",
        ),
        ("postgresql://me:old@db/north", "postgresql://me@db/north", "postgresql://me:old@db/south"),
        (
            "postgresql://db/north?user=me&password=old",
            "postgresql://db/north?user=me&password=new",
            "postgresql://db/north?user=x",
        ),
        ("host=db password=old dbname=north", r"host=db password='n \' e' dbname=north", "host=db password=old dbname=south"),
        ({"host": "db", "password": "old"}, {"host": "db", "password": "new"}, {"host": "other", "password": "old"}),
        ([{"PGPASSWORD": "old"}, 1], [{"PGPASSWORD": "new"}, 1], [{"PGPASSWORD": "old"}, 2]),
    ],
    ids=["in a URL", "taken out of a URL", "in a query", "of libpq", "by its name", "in a list"],
)
async def test_a_new_password_makes_no_other_adapter(
    place: Place, database: JsonValue, changed: JsonValue, other: JsonValue
) -> None:
    """And everything else does: another user may see other rows."""
    before = place.bulk(Hospital(database))
    await started(before)
    after = place.bulk(Hospital(changed))
    await started(after)
    assert after.registration.adapter == before.registration.adapter
    with pytest.raises(NotAdmitted, match="give it a name of its own"):
        await started(place.bulk(Hospital(other)))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"adapter": "other"}, "adapter"),
        ({"adapter": "north", "dialect": HEALTH_CONNECT_AU}, "dialect"),
        ({"adapter": "north", "audience": "https://other.example"}, "tokens for"),
    ],
    ids=["adapter", "dialect", "audience"],
)
async def test_two_mounts_of_one_name_are_refused(place: Place, changed: dict[str, Any], word: str) -> None:
    north = SQLiteResourceStore(place.folder / "north.db")
    await started(place.bulk(north, adapter="north", mount="m"))
    audience = changed.pop("audience", AUDIENCE)
    second = place.bulk(north, mount="m", verifier=place.verifier(audience), **changed)
    with pytest.raises(NotAdmitted, match=word):
        await started(second)
    async with place.client(second, audience) as client:
        with pytest.raises(NotAdmitted, match=word):
            await client.get("/$export")  # it answers nothing, where no lifespan started it


async def test_a_token_for_one_mount_opens_nothing_of_another(place: Place) -> None:
    """One issuer and one owner; only the audience differs."""
    north = await filled(SQLiteResourceStore(place.folder / "north.db"), "north")
    elsewhere = "https://elsewhere.example"
    here = place.bulk(north, adapter="north")
    there = place.bulk(north, adapter="north", mount="there", verifier=place.verifier(elsewhere))
    async with here.running(), there.running(), place.client(here) as ours, place.client(there, elsewhere) as theirs:
        location = (await ours.get("/$export?_type=Patient")).headers["Content-Location"]
        file = (await done(ours, location))["output"][0]["url"]
        for url in (location, file):
            assert (await theirs.get(url)).status_code == 404
        assert (await theirs.delete(location)).status_code == 404
        assert (await ours.get(location)).status_code == 200


async def test_a_second_job_store_over_one_output_folder_is_refused_and_sweeps_nothing(place: Place) -> None:
    north = await filled(SQLiteResourceStore(place.folder / "north.db"), "north")
    bulk = place.bulk(north)
    second = place.bulk(north, jobs=SQLiteJobStore(place.folder / "other.db"), outputs=FileOutputStore(place.folder / "exports"))
    async with bulk.running(), place.client(bulk) as client:
        location = (await client.get("/$export?_type=Patient")).headers["Content-Location"]
        file = (await done(client, location))["output"][0]["url"]
        with pytest.raises(NotAdmitted, match="belong to another job store"):
            await started(second)
        with pytest.raises(NotAdmitted, match="belong to another job store"):
            await second.retention.sweep()
        await bulk.retention.sweep()
        assert (await client.get(file)).status_code == 200


async def test_two_adapters_with_one_log_of_deletes_are_refused(place: Place) -> None:
    """What was deleted in one would be told in the exports of the other."""
    north, south = (SQLiteResourceStore(place.folder / f"{tenant}.db") for tenant in TENANTS)

    def log() -> SQLiteDeletionLog:
        return SQLiteDeletionLog(place.folder / "log.db")

    async with place.bulk(north, adapter="north", log=log()).running():
        await started(place.bulk(north, adapter="north", log=log()))
        with pytest.raises(NotAdmitted, match="a log of its own"):
            await started(place.bulk(south, adapter="south", log=log()))


async def test_adapters_that_share_a_folder_for_files_sweep_their_own(place: Place) -> None:
    async with AsyncExitStack() as stack:
        files, bulks = {}, {}
        for tenant in TENANTS:
            resources = await filled(SQLiteResourceStore(place.folder / f"{tenant}.db"), tenant)
            bulks[tenant] = bulk = place.bulk(resources, adapter=tenant, dialect=STANDARD)
            await stack.enter_async_context(bulk.running())
            client = await stack.enter_async_context(place.client(bulk))
            location = (await client.get("/$export?_type=Patient")).headers["Content-Location"]
            files[tenant] = client, location, (await done(client, location))["output"][0]["url"]
        client, location, _ = files["south"]
        assert (await client.delete(location)).status_code == 202
        kept = {path.name for path in (place.folder / "exports").iterdir()}
        await bulks["north"].retention.sweep()
        assert {path.name for path in (place.folder / "exports").iterdir()} == kept, "what south cancelled is south's to remove"
        await bulks["south"].retention.sweep()
        assert len({path.name for path in (place.folder / "exports").iterdir()}) == len(kept) - 1
        client, _, file = files["north"]
        assert (await client.get(file)).status_code == 200


async def test_processes_that_disagree_on_a_setting_are_told_at_their_start(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    north = SQLiteResourceStore(place.folder / "north.db")
    await started(place.bulk(north))
    with caplog.at_level(logging.WARNING):
        await started(place.bulk(north))
        assert "lease_seconds" not in caplog.text
        hasty = SETTINGS.model_copy(update={"lease_seconds": 3.0})
        await started(
            BulkData(resources=north, verifier=place.verifier(), jobs=place.jobs, outputs=place.outputs, settings=hasty)
        )
    assert "mount standard: lease_seconds is 3 here and 30 there" in caplog.text
