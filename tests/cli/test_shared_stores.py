"""`fhir-bulk` on a PostgreSQL and a storage of files that several machines share: each has a STATE folder of its own."""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from exporting import polled
from psycopg.conninfo import make_conninfo
from waiting import PATIENCE, until

from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, JobState, Request
from fhir_bulk_middleware.contract.query import Everything, Level, Rows, Window
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Precision, system_clock
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytest_plugins = ["postgres_fixtures"]

COMMAND = [sys.executable, "-m", "fhir_bulk_middleware.cli"]
ISSUER, AUDIENCE = "https://auth.example", "https://ehr.example/fhir"
PLAIN = os.environ | {"PYTHONWARNINGS": "", "COLUMNS": "120"}
LINES = list(population(patients=3))


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The DSN of a database of one's own, in which nothing is."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def environment(database: str, tmp_path: Path) -> Mapping[str, str]:
    """As each machine has it."""
    return PLAIN | {"FHIR_BULK_DATABASE": database, "FHIR_BULK_OUTPUTS": f"file://{tmp_path}/exports"}


def fhir_bulk(environment: Mapping[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)


@contextmanager
def running(environment: Mapping[str, str], begun: str, *arguments: str | Path) -> Iterator[str]:
    """A command that runs until it is stopped, and the line by which it says that it has begun."""
    command = [*COMMAND, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield next(line for line in process.stdout if begun in line)
        finally:
            process.terminate()
            assert process.wait(60) == 0


@contextmanager
def served(environment: Mapping[str, str], state: Path, keys: Path) -> Iterator[str]:
    """A server of a machine; its base URL."""
    options = ["--port", "0", "--workers", "1", "--jwks", str(keys), "--issuer", ISSUER, "--audience", AUDIENCE]
    with running(environment, "bulk data at", "serve", "--dir", state, *options) as line:
        found = re.search(r"bulk data at (\S+) ", line)
        assert found is not None
        yield found[1]


def at(base: str, url: str) -> str:
    """The same resource at another machine, as behind a load balancer."""
    return urlsplit(url)._replace(netloc=urlsplit(base).netloc).geturl()


def a_job() -> Job:
    """A job that a server accepted which is gone now."""
    request = Request(
        url="https://ehr.example/fhir/$export",
        level=Level.SYSTEM,
        types=("Patient",),
        window=Window(None, None),
        retention=3600,
        precision=Precision.MILLISECONDS,
    )
    now = system_clock()
    return Job(
        id=new_job_id(), mount="m", adapter="state", owner=Owner("i", "s"), request=request, created_at=now, changed_at=now
    )


async def accepted(database: str, job: Job) -> None:
    store = PostgresJobStore(database, listen=False)
    assert await store.add(job, Rows(Everything()), working_at_most=9)
    store.close()


@pytest.mark.timeout(600)
def test_one_machine_takes_an_export_on_that_another_one_shows_and_serves(environment: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "data.ndjson").write_bytes(b"\n".join(LINES))
    loaded = fhir_bulk(environment, "migrate", "--data", tmp_path / "data.ndjson")
    assert loaded.returncode == 0, loaded.stderr
    assert f"{len(LINES):,} resources are loaded" in loaded.stdout
    mint = TokenMint(ISSUER, AUDIENCE)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(mint.jwks))
    token = {"Authorization": f"Bearer {mint.token('client', 'system/*.cruds')}"}
    with ExitStack() as stack:
        first, second = (stack.enter_context(served(environment, tmp_path / name, keys)) for name in ("a", "b"))
        http = stack.enter_context(httpx2.Client(headers=token, timeout=PATIENCE))
        kicked_off = http.get(f"{first}/$export", headers={"Prefer": "respond-async"})
        assert kicked_off.status_code == 202, kicked_off.text
        location = at(second, kicked_off.headers["Content-Location"])
        manifest = polled(http.get, location)
        assert manifest.status_code == 200, manifest.text
        files = [http.get(at(base, item["url"])) for base in (first, second) for item in manifest.json()["output"]]
        assert {file.status_code for file in files} == {200}
        counts = [len(file.content.splitlines()) for file in files]
        assert sum(counts) == 2 * len(LINES)

        written = http.put(f"{second}/Patient/new", json={"resourceType": "Patient", "id": "new"})
        assert written.status_code == 201
        assert http.get(f"{first}/Patient/new").status_code == 200, "the resources are shared too"

        listed = fhir_bulk(environment, "jobs", "--json", "--dir", tmp_path / "c")
        assert [job["state"] for job in json.loads(listed.stdout)] == ["completed"], listed.stderr
        assert http.delete(location).status_code == 202
        assert http.get(kicked_off.headers["Content-Location"]).status_code == 404
    for name in ("a", "b"):
        assert not list((tmp_path / name).glob("*.db")), "nothing but what is local is in the folder"
        assert (tmp_path / name / "audit.jsonl").exists()


@pytest.mark.timeout(600)
def test_a_worker_and_a_sweep_of_a_third_machine_find_the_jobs(
    environment: Mapping[str, str], database: str, tmp_path: Path
) -> None:
    (tmp_path / "data.ndjson").write_bytes(b"\n".join(LINES))
    assert fhir_bulk(environment, "migrate", "--data", tmp_path / "data.ndjson").returncode == 0
    job = a_job()
    asyncio.run(accepted(database, job))
    store = PostgresJobStore(database, listen=False)

    async def state() -> JobState | None:
        found = await store.find(job.id, job.mount, job.owner)
        return None if found is None else found.state

    async def completed() -> bool:
        return await state() is JobState.COMPLETED

    with running(environment, "Working on", "worker", "--dir", tmp_path / "w", "--set", "worker_processes=1"):
        asyncio.run(until(completed))
    (exported,) = (path for path in (tmp_path / "exports" / job.id).iterdir() if not path.name.startswith("."))
    assert exported.stat().st_size > 0

    cancelled = fhir_bulk(environment, "jobs", "cancel", job.id, "--dir", tmp_path / "w")
    assert cancelled.returncode == 0, cancelled.stderr
    swept = fhir_bulk(environment, "sweep", "--dir", tmp_path / "w")
    assert swept.returncode == 0, swept.stderr
    assert asyncio.run(state()) is JobState.CANCELLED
    assert not exported.exists()
    store.close()
    told = [json.loads(line) for line in (tmp_path / "w" / "audit.jsonl").read_text().splitlines()]
    assert job.id in json.dumps(told), "a machine without a server keeps an audit of its own"


def test_a_database_that_has_resources_is_not_loaded_again(environment: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "data.ndjson").write_bytes(b"\n".join(LINES))
    assert fhir_bulk(environment, "migrate", "--data", tmp_path / "data.ndjson").returncode == 0
    again = fhir_bulk(environment, "migrate", "--data", tmp_path / "data.ndjson")
    assert again.returncode == 2
    assert "holds resources already, and nothing was loaded" in again.stderr
    assert fhir_bulk(environment, "migrate").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--database", "postgresql://me:secret@db/x", "--outputs", "file:///x"], "into the environment variable"),
        (["jobs", "--database", "host=db password=secret", "--outputs", "file:///x"], "into the environment variable"),
        (["serve", "--database", "host=db"], "--database needs --outputs"),
        (["worker", "--database", "host=db"], "--database needs --outputs"),
        (["serve", "--database", "nonsense", "--outputs", "file:///x"], "--database: missing"),
        (["serve", "--database", "host=db", "--outputs", "file:///x", "--data", "."], "fhir-bulk migrate --data"),
        (["serve", "--outputs", "file://machine/x"], "a folder is written file:///folder"),
        (["sweep", "--database", "host=127.0.0.1 port=9", "--outputs", "file:///x"], "PostgreSQL cannot be reached now"),
        (["serve", "--database", "host=127.0.0.1 port=9", "--outputs", "file:///x", "--port", "0"], "cannot be reached now"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dir", str(tmp_path / "state")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "secret" not in told


@pytest.mark.parametrize("command", ["worker", "sweep", "jobs"])
def test_a_hosts_own_bulk_data_says_itself_where_its_data_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--app", "a:b", "--outputs", "file:///x"]) == 2
    assert "only with --dir" in capsys.readouterr().err


def test_migrate_needs_something_to_migrate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate"]) == 2
    assert "--app or --database is required" in capsys.readouterr().err
