"""The same data on SQLite and files, and on three machines with one PostgreSQL and one S3. `.ci/long` runs this.

A machine is a group of processes with folders of their own, so that they share nothing but the two services.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from exporting import exported
from house import AUDIENCE, ISSUER
from object_servers import ObjectServer
from waiting import until

from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, Settings, SQLiteJobStore, SQLiteResourceStore
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.instant import Instant, Precision, parse, render
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import ProcessRunner

pytest_plugins = ["object_fixtures", "postgres_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600), pytest.mark.long]

FILE_OF_EACH_TYPE: dict[str, Any] = {"slice_bytes": 2**30, "part_bytes": 2**20}
"""The plan is the same on every store: one slice for each type. Some have several files."""
MANY_SLICES: dict[str, Any] = {
    "slice_bytes": 100_000,
    "part_bytes": 200_000,
    "smallest_part_bytes": 10_000,
    "page_bytes": 20_000,
}
_AT_EASE: dict[str, Any] = {"worker_processes": 1, "poll_burst": 10_000, "polls_per_second": 10_000, "first_poll_wait": 0}


@dataclass(frozen=True)
class Export:
    """What a client has.

    Attributes:
        files: list, type, count and SHA-256 of each file of the manifest, in its order.
        lines: all lines, parsed, in an order that is the same for the same lines.
    """

    files: list[tuple[str, str, int | None, str | None]]
    lines: list[str]


class Machines:
    """Three machines: one with a server, one with a server and a worker, one with a worker."""

    def __init__(self, folder: Path, environment: dict[str, str], stack: ExitStack) -> None:
        self._folder, self._environment, self._stack = folder, environment, stack
        self._logs: dict[Path, subprocess.Popen[bytes]] = {}
        self.urls = [self._server("first"), self._server("second")]
        self._worker("second")
        self._worker("third")

    def check(self) -> None:
        """Fail if a process has ended."""
        for log, process in self._logs.items():
            assert process.poll() is None, log.read_text()

    def kept(self) -> list[str]:
        """The names of all files of the machines but their logs."""
        found = [path for machine in ("first", "second", "third") for path in (self._folder / machine).rglob("*")]
        return [str(path) for path in found if path.is_file() and path.suffix != ".log"]

    def _server(self, machine: str) -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self._start(machine, "server", "uvicorn", "--factory", "machine:app", "--port", str(port), "--log-level", "warning")
        return f"http://127.0.0.1:{port}"

    def _worker(self, machine: str) -> None:
        self._start(machine, "worker", "fhir_bulk_middleware.cli", "worker", "--app", "machine:bulk")

    def _start(self, machine: str, name: str, *command: str) -> None:
        home = self._folder / machine
        home.mkdir(exist_ok=True)
        log = self._stack.enter_context((home / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self._environment | {"TMPDIR": str(home), "HOME": str(home)},
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        self._logs[home / f"{name}.log"] = process

        def end() -> None:
            process.terminate()
            try:
                process.wait(60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)

        self._stack.callback(end)


@pytest.fixture(scope="module")
def lines() -> Sequence[bytes]:
    """A few thousand resources, each with an instant of its own."""
    found, at = [], parse("2026-01-01T00:00:00Z")
    for number, line in enumerate(population(50)):
        resource = json.loads(line)
        updated = render(Instant(at + number * 1_000), Precision.MICROSECONDS)
        found.append(json.dumps({**resource, "meta": {**resource.get("meta", {}), "lastUpdated": updated}}).encode())
    assert len(found) > 3_000
    return found


@pytest.fixture
def on_files(tmp_path: Path, lines: Sequence[bytes], mint: TokenMint) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Exports on SQLite and files, by settings."""
    resources = SQLiteResourceStore(tmp_path / "store.db")
    resources.load(lines, keep_last_updated=True)

    async def export(given: dict[str, Any]) -> Export:
        folder = tmp_path / "files"
        folder.mkdir()
        jobs, settings = SQLiteJobStore(folder / "jobs.db"), Settings(**_AT_EASE, **given)
        bulk = BulkData(
            resources=resources,
            verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
            jobs=jobs,
            outputs=FileOutputStore(folder / "exports"),
            runner=ProcessRunner(folder / "workers", settings),
            settings=settings,
        )
        token = mint.token("alice", "system/*.rs")
        transport = httpx2.ASGITransport(bulk.app)
        async with bulk.running(), httpx2.AsyncClient(transport=transport, base_url="https://ehr.example") as http:
            found = await taken(http, token, folder / "taken")
        jobs.close()
        return found

    yield export
    resources.close()


@pytest.fixture
def on_machines(
    *,
    tmp_path: Path,
    lines: Sequence[bytes],
    mint: TokenMint,
    postgres: str,
    schema: str,
    s3_server: ObjectServer,
    outputs_on: Callable[..., ObjectOutputStore],
) -> Callable[[dict[str, Any]], Any]:
    """Exports on three machines, by settings."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(f"CREATE TABLE {schema}.reached (worker text PRIMARY KEY)".encode())
    resources = PostgresResourceStore(postgres, schema=schema)
    resources.load(lines, keep_last_updated=True)
    resources.close()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *(entry or str(Path.cwd()) for entry in sys.path)]),
        "DSN": postgres,
        "SCHEMA": schema,
        "OUTPUTS": json.dumps({**outputs_on(s3_server).recipe().arguments}),
        "JWKS": json.dumps(mint.jwks),
        "WORKERS": "2",
    }

    async def export(given: dict[str, Any]) -> Export:
        folder = tmp_path / "machines"
        folder.mkdir()
        token = mint.token("alice", "system/*.rs")
        with ExitStack() as stack:
            machines = Machines(folder, environment | {"SETTINGS": json.dumps(_AT_EASE | given)}, stack)
            async with httpx2.AsyncClient(transport=Alternating(machines.urls), base_url="https://ehr.example/fhir") as http:

                async def answers() -> bool:
                    machines.check()
                    with suppress(httpx2.TransportError):
                        return [(await http.get("/nothing")).status_code for _ in machines.urls] == [404, 404]
                    return False

                await until(answers)
                found = await taken(http, token, tmp_path / "taken")
            with psycopg.connect(postgres, autocommit=True) as connection:
                assert connection.execute(f"TABLE {schema}.reached".encode()).rowcount == 2
            assert machines.kept() == [], "a machine can be lost with all that it has"
        return found

    return export


class Alternating(httpx2.AsyncHTTPTransport):
    """Sends each request to the next server: a load balancer."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self._urls, self._turn = [httpx2.URL(url) for url in urls], 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._turn += 1
        to = self._urls[self._turn % len(self._urls)]
        request.url = request.url.copy_with(scheme=to.scheme, host=to.host, port=to.port)
        return await super().handle_async_request(request)


async def taken(http: httpx2.AsyncClient, token: str, folder: Path) -> Export:
    http.headers["Authorization"] = f"Bearer {token}"
    manifest, lines = await exported(http, token, folder, "$export")
    files = [(file.list, file.type, file.count, file.sha256) for file in manifest.files]
    return Export(files, sorted(json.dumps(line) for found in lines.values() for line in found))


async def test_three_machines_have_the_lines_that_one_has(
    on_files: Callable[[dict[str, Any]], Any], on_machines: Callable[[dict[str, Any]], Any], lines: Sequence[bytes]
) -> None:
    """In many slices, which are cut where each store thinks best."""
    machines, files = await on_machines(MANY_SLICES), await on_files(MANY_SLICES)

    assert len(machines.lines) == len(lines)
    assert machines.lines == files.lines
    assert len(machines.files) > 20


async def test_three_machines_have_the_files_that_one_has_where_the_plan_is_the_same(
    on_files: Callable[[dict[str, Any]], Any], on_machines: Callable[[dict[str, Any]], Any]
) -> None:
    """The same SHA-256 of each file (law 5)."""
    machines, files = await on_machines(FILE_OF_EACH_TYPE), await on_files(FILE_OF_EACH_TYPE)

    assert machines.files == files.files
    assert len({type_ for _, type_, _, _ in files.files}) < len(files.files), "a type has several files"
    assert all(sha256 for _, _, _, sha256 in files.files)
