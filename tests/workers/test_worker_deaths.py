"""Work that kills its worker, and workers that cannot start: each job has an end, and the log its cause, once (law 43)."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from deadly import WAYS, Blocking, Deadly, Waiting
from house import AUDIENCE, ISSUER, KICK_OFF
from waiting import PATIENCE

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.contract.running import JobRunner
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

pytestmark = pytest.mark.anyio

SETTINGS = Settings(attempts=3, lease_seconds=3, renew_seconds=0.2, worker_processes=2, polls_per_second=1_000, poll_burst=1_000)
FAILED = "The export could not be finished: one of its steps failed each time that it was tried."
NO_WORKER = "The export could not be begun: this server's workers cannot start; its operator is told why."


class Client:
    def __init__(self, http: httpx2.AsyncClient, mint: TokenMint) -> None:
        self.http = http
        self._headers = {"Authorization": f"Bearer {mint.token('alice', 'system/*.rs')}"}

    async def kick_off(self, types: str) -> httpx2.Response:
        return await self.http.get("/$export", params={"_type": types}, headers={**self._headers, **KICK_OFF})

    async def cancel(self, accepted: httpx2.Response) -> httpx2.Response:
        return await self.http.delete(accepted.headers["Content-Location"], headers=self._headers)

    async def ended(self, accepted: httpx2.Response) -> tuple[int, Any]:
        """How an export ended."""
        assert accepted.status_code == 202, accepted.text
        deadline = time.monotonic() + PATIENCE
        while (answer := await self.http.get(accepted.headers["Content-Location"], headers=self._headers)).status_code == 202:
            assert time.monotonic() < deadline, "the export never ended"
            await anyio.sleep(0.05)
        return answer.status_code, answer.json()

    async def export(self, types: str) -> tuple[int, str]:
        """How an export ended: with which detail, or which counts."""
        status, body = await self.ended(await self.kick_off(types))
        if status != 200:
            return status, body["issue"][0]["diagnostics"]
        return status, json.dumps([item["count"] for item in body["output"]])


@asynccontextmanager
async def serving(folder: Path, adapter: Deadly, runner: JobRunner, mint: TokenMint) -> AsyncIterator[Client]:
    bulk = BulkData(
        resources=adapter,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=SQLiteJobStore(folder / "jobs.db"),
        outputs=FileOutputStore(folder / "exports"),
        runner=runner,
        settings=SETTINGS,
    )
    transport = httpx2.ASGITransport(bulk.app)
    async with bulk.running(), httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as http:
        yield Client(http, mint)


def errors(caplog: pytest.LogCaptureFixture, *, containing: str = "") -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR and containing in record.getMessage()
    ]


CAUSES = {
    "exits": "ended with status 3",
    "crashes": "was ended by SIGSEGV",
    "is killed": "was ended by SIGKILL",
    "has no memory": "last: MemoryError",
    "raises SystemExit": "last: SystemExit",
    "raises KeyboardInterrupt": "last: KeyboardInterrupt",
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way == "crashes" else pytest.mark.long) for way in WAYS])
async def test_work_that_kills_its_worker_fails_its_job_after_some_attempts(
    tmp_path: Path, mint: TokenMint, capfd: pytest.CaptureFixture[str], way: str
) -> None:
    adapter = Deadly(str(tmp_path), way)
    async with serving(tmp_path, adapter, ProcessRunner(tmp_path, SETTINGS), mint) as client:
        assert await client.export("Observation") == (500, FAILED)
        assert adapter.attempts == SETTINGS.attempts
        assert await client.export("Patient") == (200, "[1]"), "other jobs go on"

    # A worker finds that it was too often, and logs to the standard error that it has of the server.
    [message] = [line for line in capfd.readouterr().err.splitlines() if "its work was begun 3 times and never finished" in line]
    assert CAUSES[way] in message


@pytest.mark.parametrize("way", ["raises SystemExit", "raises KeyboardInterrupt", "has no memory"])
async def test_an_adapter_that_exits_in_the_servers_loop_leaves_a_server_that_answers(
    tmp_path: Path, mint: TokenMint, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    adapter = Deadly(str(tmp_path), way)
    async with serving(tmp_path, adapter, LoopRunner(), mint) as client:
        assert await client.export("Observation") == (500, FAILED)
        assert adapter.attempts == SETTINGS.attempts
        adapter.deadly_door = True
        assert (await client.kick_off("Patient")).status_code == 500
        adapter.deadly_door = False
        assert await client.export("Patient") == (200, "[1]")

    assert len(errors(caplog, containing="its work was begun 3 times and never finished")) == 1
    assert len(errors(caplog, containing="KICK_OFF failed")) == 1


async def test_an_adapter_that_blocks_the_servers_loop_is_told_with_the_place_where_it_stands(
    tmp_path: Path, mint: TokenMint, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Blocking(str(tmp_path))

    class Noticed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "stood still" in record.getMessage():
                adapter.let_go.set()

    handler = Noticed()
    logging.getLogger("fhir_bulk_middleware").addHandler(handler)
    try:
        async with serving(tmp_path, adapter, LoopRunner(patience=0.5), mint) as client:
            assert await client.export("Patient") == (200, "[1]")
    finally:
        logging.getLogger("fhir_bulk_middleware").removeHandler(handler)

    told = next(record for record in caplog.records if "stood still" in record.getMessage())
    assert told.levelno == logging.CRITICAL
    assert "deadly.py" in told.getMessage()
    assert "give it a recipe (SupportsWorkerProcess)" in told.getMessage()


async def test_an_adapter_that_never_answers_is_told_once(
    tmp_path: Path, mint: TokenMint, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, Waiting(str(tmp_path), ""), LoopRunner(), mint) as client:
        accepted = await client.kick_off("Patient")
        deadline = time.monotonic() + PATIENCE
        while not (told := [each for each in caplog.records if "does the adapter hang?" in each.getMessage()]):
            assert time.monotonic() < deadline, "nobody noticed"
            await anyio.sleep(0.05)
        assert (await client.cancel(accepted)).status_code == 202

    assert len(told) == 1
    assert "nothing was read for slice 0 (Patient) of job" in told[0].getMessage()


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("deadly:raising", "ConnectionError: the database is not there"),
        pytest.param("deadly:exiting", "SystemExit: deadly:exiting has gone home", marks=pytest.mark.long),
        pytest.param("deadly:dying", "it ended with status 9 without a word", marks=pytest.mark.long),
    ],
)
async def test_a_job_fails_when_no_worker_can_start_and_the_log_says_why_once(
    tmp_path: Path, mint: TokenMint, caplog: pytest.LogCaptureFixture, factory: str, said: str
) -> None:
    adapter = Deadly(str(tmp_path), "", factory)
    async with serving(tmp_path, adapter, ProcessRunner(tmp_path, SETTINGS), mint) as client:
        assert await client.export("Patient") == (500, NO_WORKER)
        if factory == "deadly:raising":
            (tmp_path / "mended").touch()
            with anyio.fail_after(PATIENCE):  # workers are tried on, so what is mended works, once the report of the last is in
                while (answer := await client.export("Patient")) == (500, NO_WORKER):
                    pass
            assert answer == (200, "[1]")

    [first] = errors(caplog, containing="could not start to work")
    assert said in first
    failed = errors(caplog, containing="the job fails")
    assert all(said.splitlines()[-1] in each for each in failed)
    assert len(failed) == 1 or factory == "deadly:raising"
    assert len(errors(caplog)) == 1 + len(failed)
