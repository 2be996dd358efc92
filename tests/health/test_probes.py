"""`/$health` and `/$health/ready`, as the probes of an orchestrator meet them."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from house import AUDIENCE, ISSUER, House, populate
from jsonschema import validate
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import PATIENCE, until

from fhir_bulk_middleware import (
    BulkData,
    BulkDataMiddleware,
    FileOutputStore,
    JoseTokenVerifier,
    Settings,
    SQLiteJobStore,
    SQLiteResourceStore,
)
from fhir_bulk_middleware.contract.registration import Registry
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.discovery.schemas import HEALTH
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

PATHS = ("/$health", "/$health/ready")


class Moody(MemoryJobStore):
    """A store that can be told to break or to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = "well"
        self.asked = 0

    async def registry(self) -> Registry:
        self.asked += 1
        if self.mood == "hangs":
            await anyio.sleep_forever()
        if self.mood == "breaks":
            raise OSError("10.1.2.3:5432 refused the connection of user clinic")
        if self.mood == "is busy":
            raise Refused(Reason.BUSY)
        return await super().registry()


async def shown(house: House, path: str = "/$health/ready") -> tuple[int, dict[str, Any]]:
    answer = await house.ask("GET", path, subject=None)
    assert answer.headers["Content-Type"] == "application/health+json"
    assert answer.headers["Cache-Control"] == "no-store"
    document: dict[str, Any] = answer.json()
    validate(document, HEALTH)
    return answer.status_code, document


@asynccontextmanager
async def moody(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[House, Moody]]:
    """A house whose answers about health are not remembered."""
    monkeypatch.setattr("fhir_bulk_middleware.health.gauging._KEEP", 0.0)
    monkeypatch.setattr("fhir_bulk_middleware.health.gauging._PATIENCE", 0.05)
    jobs = Moody()
    async with make_house(parts={"jobs": jobs}, health=True) as house:
        yield house, jobs


async def test_there_is_no_such_path_unless_it_is_asked_for(make_house: Any) -> None:
    async with make_house() as house:
        for path in PATHS:
            assert (await house.ask("GET", path)).status_code == 404
        assert not [path for path in house.bulk.openapi()["paths"] if "health" in path]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_a_server_that_is_well_says_so_in_every_dialect_without_a_token(make_house: Any, dialect: Dialect) -> None:
    async with make_house(dialect, health=True) as house:
        await populate(house)
        await house.kick_off()
        house.clock.advance(7)
        for path in PATHS:
            status, document = await shown(house, path)
            assert (status, document["status"]) == (200, "pass")
            assert document["checks"]["jobs:queued"] == [{"status": "pass", "observedValue": 1, "observedUnit": "jobs"}]
            assert document["checks"]["jobs:oldestQueued"][0]["observedValue"] == 7.0
            head = await house.ask("HEAD", path, subject=None)
            assert (head.status_code, head.headers["Content-Type"]) == (200, "application/health+json")
            assert (await house.ask("POST", path)).status_code == 405
            assert set(house.bulk.openapi()["paths"][path]) == {"get", "head"}
            assert house.bulk.openapi()["paths"][path]["get"]["security"] == []
        rows = [(row.method, row.path) for row in house.bulk.table]
        assert len(rows) == len(set(rows))


async def test_a_dialect_with_that_path_is_refused_in_a_sentence(make_house: Any) -> None:
    dialect = replace(STANDARD, name="own", jobs_path="/$health")
    with pytest.raises(ValueError, match=r"^health: /\$health is a path of the dialect already"):
        async with make_house(dialect, health=True):
            pass


@pytest.mark.parametrize("mood", ["breaks", "hangs", "is busy"])
async def test_a_store_that_cannot_be_reached_makes_a_server_unready_and_not_dead(
    make_house: Any, mood: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Restarting the server does not mend its store. The document says nothing of the inside; the log says it once."""
    async with moody(make_house, monkeypatch) as (house, jobs):
        assert (await shown(house))[0] == 200
        jobs.mood = mood
        with caplog.at_level(logging.WARNING, "fhir_bulk_middleware"), anyio.fail_after(60):
            for _ in range(3):
                status, document = await shown(house)
                assert (status, document["status"]) == (503, "fail")
                assert [check["status"] for check in document["checks"]["jobs:reachable"]] == ["fail"]
                assert "10.1.2.3" not in str(document)
            status, document = await shown(house, "/$health")
            assert (status, document["status"]) == (200, "fail")
        said = [record for record in caplog.records if record.getMessage() == "health: jobs:reachable fails"]
        assert len(said) == 1
        if mood == "breaks":
            assert "10.1.2.3" in str(said[0].exc_info and said[0].exc_info[1])
            jobs.mood = "well"
            assert (await shown(house))[0] == 200


async def test_a_store_that_hangs_is_asked_once_at_a_time(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that probes do not pile up in it."""
    async with moody(make_house, monkeypatch) as (house, jobs):
        jobs.mood, before = "hangs", jobs.asked
        with anyio.fail_after(60):
            async with anyio.create_task_group() as probes:
                for _ in range(20):
                    probes.start_soon(shown, house)
        # By the check of the store, and by that of outputs, which are bound to it.
        assert jobs.asked - before <= 2


async def test_many_probes_cost_one_look(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhir_bulk_middleware.health.gauging._KEEP", 3600.0)  # however long a busy machine takes for the probes
    jobs = Moody()
    async with make_house(parts={"jobs": jobs}, health=True) as house:
        before = jobs.asked
        for _ in range(50):
            assert (await shown(house))[0] == 200
        assert jobs.asked - before <= 2


class Bound(FileOutputStore):
    """Counts the bindings: at the start, and by the first sweep. Both would make the folder."""

    bindings = 0

    async def bind(self, store: str) -> bool:
        bound = await super().bind(store)
        self.bindings += 1
        return bound


async def test_a_folder_that_is_gone_is_unready_and_a_full_disk_is_a_warning(
    make_house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_bulk_middleware.health.gauging._KEEP", 0.0)
    outputs = Bound(tmp_path / "exports")
    async with make_house(parts={"outputs": outputs}, health=True) as house:
        await until(lambda: outputs.bindings >= 2)
        status, document = await shown(house)
        assert (status, document["checks"]["outputs:free"][0]["status"]) == (200, "pass")
        assert document["checks"]["outputs:free"][0]["observedValue"] > 0
        assert str(tmp_path) not in str(document)
        (tmp_path / "exports").rename(tmp_path / "unmounted")
        status, document = await shown(house)
        assert (status, document["checks"]["outputs:reachable"][0]["status"]) == (503, "fail")
        assert not (tmp_path / "exports").exists(), "a probe writes nothing"
        (tmp_path / "unmounted").rename(tmp_path / "exports")
    async with make_house(parts={"outputs": outputs, "jobs": house.jobs}, health=True, part_bytes=2**62) as house:
        status, document = await shown(house)
        assert (status, document["status"]) == (200, "warn")
        assert document["checks"]["outputs:free"][0]["status"] == "warn"


async def test_an_engine_that_has_stopped_makes_a_server_unready(make_house: Any) -> None:
    """It sweeps nothing and works on nothing, but answers."""

    class Stopping:
        """A runner that fails while it runs."""

        def __init__(self) -> None:
            self.fail = anyio.Event()

        @asynccontextmanager
        async def running(self, _: object) -> AsyncIterator[None]:
            async def failing() -> None:
                await self.fail.wait()
                raise RuntimeError("the runner broke")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(failing)
                yield

        def wake(self) -> None:
            """Nobody."""

    runner = Stopping()
    async with make_house(parts={"runner": runner}, health=True) as house:
        assert (await shown(house))[0] == 200
        runner.fail.set()
        with anyio.fail_after(60):
            while (await shown(house))[0] == 200:
                await anyio.lowlevel.checkpoint()
        assert (await shown(house))[1]["checks"]["engine:running"] == [{"status": "fail"}]


async def test_the_hosts_own_paths_stay_its_own(make_house: Any) -> None:
    """Also one that looks alike."""
    async with make_house(health=True) as house:
        host = Starlette(routes=[Route("/{rest:path}", lambda request: PlainTextResponse(f"host {request.url.path}"))])
        app = BulkDataMiddleware(host, house.bulk, "/fhir")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
            for path in ("/health", "/$health", "/fhir/health", "/fhir/$healthy", "/fhir/$health/other", "/fhir/Patient/$health"):
                assert (await http.get(path)).text == f"host {path}"
            assert (await http.get("/fhir/$health")).json()["status"] == "pass"


async def test_workers_are_counted_whichever_process_keeps_them(
    tmp_path: Path, mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that stands by counts the workers of the one that keeps them."""
    monkeypatch.setattr("fhir_bulk_middleware.health.gauging._KEEP", 0.0)

    def bulk() -> BulkData:
        return BulkData(
            resources=SQLiteResourceStore(tmp_path / "store.db"),
            verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
            jobs=SQLiteJobStore(tmp_path / "jobs.db"),
            outputs=FileOutputStore(tmp_path / "exports"),
            settings=Settings(health=True, worker_processes=2),
        )

    keeping, standing_by = bulk(), bulk()

    async def alive(http: httpx2.AsyncClient) -> dict[str, Any]:
        found: dict[str, Any] = (await http.get("/$health/ready")).json()["checks"]["workers:alive"][0]
        return found

    async with keeping.running(), standing_by.running():
        transport = httpx2.ASGITransport(standing_by.app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as http:
            with anyio.fail_after(PATIENCE):
                while (await alive(http))["observedValue"] != 2:
                    await anyio.lowlevel.checkpoint()
                assert await alive(http) == {"status": "pass", "observedValue": 2, "observedUnit": "workers"}
