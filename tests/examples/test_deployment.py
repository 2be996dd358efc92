"""The deployment of the examples, tried on loopback: its commands with its environment, as processes on a real PostgreSQL.

Both files are parsed, and each command in them is run. Images, volumes and balancers are not there. Object storage is the S3
server of the compose file where that is installed (`.ci/objects`), else a folder.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import object_servers
import psycopg
import pytest
import yaml
from loopback import NO_TLS
from psycopg.conninfo import make_conninfo
from waiting import PATIENCE

from fhir_bulk_middleware.testing.resource_values import observation, patient
from fhir_bulk_middleware.testing.token_mint import TokenMint

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLES / "deployment" / "compose.yaml").read_text())
CLUSTER: list[dict[str, Any]] = list(yaml.safe_load_all((EXAMPLES / "deployment" / "kubernetes.yaml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PEOPLE = 40

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
pytest_plugins = ["postgres_fixtures"]


def of_kind(kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [each for each in CLUSTER if each["kind"] == kind and name in {None, each["metadata"]["name"]}]
    return found


def container(kind: str, name: str) -> dict[str, Any]:
    (found,) = of_kind(kind, name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


class Place:
    """What is not in the files: the database, the folder of objects, ports, secrets and the data.

    Attributes:
        dsn: the DSN of the database.
        objects: the folder of objects.
    """

    def __init__(self, folder: Path, dsn: str, stack: ExitStack) -> None:
        self.dsn = dsn
        self._folder, self._stack, self._numbers = folder, stack, count()
        settings = SERVICES["server"]["environment"]
        mint = TokenMint(settings["ISSUER"], settings["AUDIENCE"])
        (folder / "jwks.json").write_text(json.dumps(mint.jwks))
        (folder / "jwks.json").chmod(0o600)
        self.objects, self._storage = folder / "objects", dict[str, str]()
        self._store()
        self.token = mint.token("me", "system/*.rs")
        self.servers: list[tuple[int, subprocess.Popen[bytes]]] = []
        self._turn = count()

    def environment(self, service: str, port: int = 0) -> dict[str, str]:
        """The environment of a service, with the place's own in place of what only containers have."""
        theirs = {name: _filled(value) for name, value in SERVICES[service]["environment"].items()}
        ours = {
            "DATABASE_URL": self.dsn,
            **self._storage,
            "JWKS": str(self._folder / "jwks.json"),
            "UVICORN_HOST": "127.0.0.1",
            "UVICORN_PORT": str(port),
        }
        assert set(ours) - set(theirs) <= {"UVICORN_HOST", "UVICORN_PORT"}
        quick = {
            "FHIR_BULK_SLICE_BYTES": "2048",
            "FHIR_BULK_FIRST_POLL_WAIT": "0",
            "FHIR_BULK_POLLS_PER_SECOND": "1000",
            "FHIR_BULK_POLL_BURST": "1000",
            "FHIR_BULK_SETTLE": "0",
            "FHIR_BULK_KICK_OFFS_PER_MINUTE": "10000",
        }
        path = os.pathsep.join([str(EXAMPLES), *(entry or str(Path.cwd()) for entry in sys.path)])
        return {**os.environ, "PYTHONPATH": path, **theirs, **ours, **quick}

    def _store(self) -> None:
        """Start the S3 server of the files if it is installed (`.ci/objects`); else a folder takes its place."""
        program, data = object_servers.INSTALLED / "bin" / "versitygw", self._folder / "data"
        if not program.exists():
            self.objects.mkdir()
            self._storage = {"EXPORTS_URL": self.objects.as_uri(), "EXPORTS_CONFIG": "{}"}
            return
        service, port = SERVICES["objects"], _free_port()
        here = [str(part).replace("/data", str(data)).replace(":7070", f"127.0.0.1:{port}") for part in service["command"]]
        subprocess.run([part.replace("/data", str(data)) for part in SERVICES["bucket"]["entrypoint"]], check=True)
        log = self._stack.enter_context((self._folder / "objects.log").open("wb"))
        keys = {name: _filled(value) for name, value in service["environment"].items()}
        process = subprocess.Popen([program, *here], env={**os.environ, **keys}, stdout=log, stderr=log)
        self._stack.callback(process.wait, 60)
        self._stack.callback(process.terminate)
        given = SERVICES["server"]["environment"]
        self.objects = data / "buckets" / given["EXPORTS_URL"].removeprefix("s3://")
        config = given["EXPORTS_CONFIG"].replace("objects:7070", f"127.0.0.1:{port}")
        self._storage = {"EXPORTS_URL": given["EXPORTS_URL"], "EXPORTS_CONFIG": config}

    def run(self, command: Sequence[str], service: str, port: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a command as in a container of the service, to its end."""
        line, environment = [_program(command[0]), *command[1:]], self.environment(service, port)
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def start(self, service: str, port: int = 0) -> "subprocess.Popen[bytes]":
        """Start the command of a service."""
        command = SERVICES[service]["command"]
        log = self._stack.enter_context((self._folder / f"{service}-{next(self._numbers)}.log").open("wb"))
        line, environment = [_program(command[0]), *command[1:]], self.environment(service, port)
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, cwd=self._folder)
        self._stack.callback(process.wait, 60)
        self._stack.callback(process.terminate)
        return process

    def serve(self, port: int | None = None) -> None:
        """Start a server and wait until its health check passes."""
        port = _free_port() if port is None else port
        process = self.start("server", port)
        self.servers.append((port, process))
        test = [part.replace("$$", "$") for part in SERVICES["server"]["healthcheck"]["test"]]
        assert test[0] == "CMD"
        deadline = time.monotonic() + PATIENCE
        while self.run(test[1:], "server", port).returncode:
            assert process.poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self._folder.glob("*.log")))

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """A request to one server after the other, as a balancer sends it; a server that refuses connections is passed over."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            port, _ = self.servers[next(self._turn) % len(self.servers)]
            try:
                return httpx2.request(
                    method,
                    f"http://127.0.0.1:{port}{path}",
                    headers={"Authorization": f"Bearer {self.token}", "Connection": "close", **(headers or {})},
                    timeout=60,
                    verify=NO_TLS,
                )
            except (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError):
                time.sleep(0.01)
        raise AssertionError(f"no server takes connections\n{self.logs()}")

    def kick_off(self) -> str:
        headers = {"Prefer": "respond-async", "Idempotency-Key": secrets.token_hex(8)}
        while (answer := self.ask("GET", "/fhir/$export", headers)).status_code == 429:
            time.sleep(0.05)  # other exports of the same owner are under way
        assert answer.status_code == 202, answer.text
        return urlsplit(answer.headers["Content-Location"]).path

    def manifest(self, location: str) -> dict[str, Any]:
        """The manifest of an export, once it is complete."""
        deadline = time.monotonic() + PATIENCE
        while (answer := self.ask("GET", location)).status_code == 202:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def exported(self, location: str) -> list[str]:
        """The ids of all lines of an export."""
        found = []
        for file in self.manifest(location)["output"]:
            answer = self.ask("GET", urlsplit(file["url"]).path)
            assert answer.status_code == 200, answer.text
            found += [f"{line['resourceType']}/{line['id']}" for line in map(json.loads, answer.text.splitlines())]
        return sorted(found)


ALL = sorted([*(f"Patient/p{number}" for number in range(PEOPLE)), *(f"Observation/o{number}" for number in range(PEOPLE))])


def _filled(value: str) -> str:
    """A value of the compose file with the secrets that stand in the environment."""
    given = {"POSTGRES_PASSWORD": "p", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s", "PUBLIC_BASE_URL": "https://ehr.example/fhir"}
    return re.sub(r"\$\{(\w+):\?\}", lambda found: given[found[1]], value)


def _program(name: str) -> str:
    return sys.executable if name == "python" else str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path, postgres: str) -> Iterator[Place]:
    """A place whose tables were made by the migration of the files, with some people in them."""
    name = f"clinic_{secrets.token_hex(6)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            with ExitStack() as stack:
                made = Place(tmp_path, make_conninfo(postgres, dbname=name), stack)
                for _ in range(2):
                    migrated = made.run(SERVICES["migrate"]["command"], "migrate")
                    assert migrated.returncode == 0, migrated.stderr
                assert "ProcrastinateRunner" in migrated.stdout
                from documents.storage import DocumentStorage

                storage = DocumentStorage(made.dsn)
                storage.write(*(patient(f"p{number}") for number in range(PEOPLE)))
                storage.write(*(observation(f"o{number}", f"p{number}") for number in range(PEOPLE)))
                storage.close()
                yield made
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


# --- The form of the files ---


def test_each_service_of_the_compose_file_has_what_it_refers_to() -> None:
    assert {"database", "objects", "bucket", "migrate", "server", "worker"} == set(SERVICES)
    for name, service in SERVICES.items():
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= set(COMPOSE["volumes"])
    build = SERVICES["server"]["build"]
    context = (EXAMPLES / "deployment" / build["context"]).resolve()
    copied = re.findall(r"^COPY (\S+)", (context / build["dockerfile"]).read_text(), re.MULTILINE)
    assert copied
    assert all((context / name).is_dir() for name in copied)


def test_the_cluster_runs_what_the_compose_file_runs() -> None:
    """So that what is tried here by the commands of one file is tried for both."""
    kinds = {"migrate": "Job", "server": "Deployment", "worker": "Deployment"}
    configured = of_kind("ConfigMap")["data"]
    for service, kind in kinds.items():
        name = f"clinic-{service}"
        box = container(kind, name)
        assert box["command"] == SERVICES[service]["command"]
        assert box["envFrom"] == [{"configMapRef": {"name": of_kind("ConfigMap")["metadata"]["name"]}}]
        secret = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in box["env"]}
        needed = set(SERVICES[service]["environment"]) - {"EXPORTS_CLIENT"}
        assert needed <= {*configured, *secret}
        assert not any(re.search("KEY|PASSWORD|DATABASE", name) for name in configured), "secrets are not in the ConfigMap"
        spec = of_kind(kind, name)["spec"]["template"]["spec"]
        assert {mount["name"] for mount in box["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert configured["JWKS"].startswith(box["volumeMounts"][0]["mountPath"])


def test_selectors_select_pods_that_exist_and_graces_are_long_enough() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in CLUSTER if "template" in each.get("spec", {})]
    selected = [each["spec"]["selector"] for each in CLUSTER if "selector" in each.get("spec", {})]
    for selector in selected:
        wanted = selector.get("matchLabels", selector)
        assert sum(wanted.items() <= each.items() for each in labels) == 1
    server, worker = (of_kind("Deployment", f"clinic-{name}")["spec"]["template"]["spec"] for name in ("server", "worker"))
    box = container("Deployment", "clinic-server")
    drain = int(box["command"][box["command"].index("--timeout-graceful-shutdown") + 1])
    waits = int(box["lifecycle"]["preStop"]["exec"]["command"][1])
    assert server["terminationGracePeriodSeconds"] > drain + waits
    assert worker["terminationGracePeriodSeconds"] > 20 + 10, "the drain of ProcrastinateRunner, and its leave"
    for service in ("server", "worker"):
        assert int(SERVICES[service]["stop_grace_period"].removesuffix("s")) > 30
    scaled = of_kind("ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == of_kind("Deployment", "clinic-worker")["metadata"]["name"]
    assert "replicas" not in of_kind("Deployment", "clinic-worker")["spec"], "the autoscaler says how many"


# --- The processes ---


def test_the_deployment_exports_and_tells_its_probes_and_its_autoscaler_how_it_is(place: Place) -> None:
    place.serve()
    location = place.kick_off()
    (trigger,) = of_kind("ScaledObject")["spec"]["triggers"]
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        while connection.execute(trigger["metadata"]["query"].encode()).fetchone() != (1,):  # one job to plan, and no worker yet
            assert time.monotonic() < deadline, place.logs()
    worker = place.start("worker")
    assert place.exported(location) == ALL
    box = container("Deployment", "clinic-server")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert box[probe]["httpGet"]["port"] in {port["name"] for port in box["ports"]}
        _until(lambda path=box[probe]["httpGet"]["path"]: place.ask("GET", path).json()["status"] == "pass")
    worker.terminate()
    assert worker.wait(40) == 0


def test_a_rolling_restart_under_load_loses_nothing(place: Place) -> None:
    """Each server and worker is restarted while exports run: each answer is a good one, and each export whole."""
    for _ in range(2):
        place.serve()
    workers = [place.start("worker") for _ in range(2)]
    over, faults, whole = threading.Event(), list[BaseException](), list[int]()

    def load() -> None:
        try:
            while not over.is_set():
                found = place.exported(place.kick_off())
                assert found == ALL
                whole.append(len(found))
        except BaseException as fault:  # noqa: BLE001 - shown by the test
            faults.append(fault)

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        for number in range(2):
            before = len(whole)
            _until(lambda before=before: faults or len(whole) > before)
            port, process = place.servers[0]
            process.terminate()
            assert process.wait(60) in {0, -signal.SIGTERM}
            place.servers.pop(0)
            place.serve(port)
            workers[number].terminate()
            assert workers[number].wait(60) == 0
            workers.append(place.start("worker"))
        before = len(whole)
        _until(lambda: faults or len(whole) > before)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert faults == [], place.logs()
    assert len(whole) >= 3


@pytest.mark.parametrize("without_jobs", [False, True], ids=["with_jobs", "without_jobs"])
def test_after_the_restore_of_an_older_database_no_cancelled_job_comes_back(
    place: Place, postgres: str, *, without_jobs: bool
) -> None:
    """Law 36: both ways of the page: a backup without jobs, and one whose jobs are all cancelled before servers start."""
    place.serve()
    worker = place.start("worker")
    done = place.kick_off()
    assert place.exported(done) == ALL
    worker.terminate()
    assert worker.wait(60) == 0
    begun = place.kick_off()
    (name,) = re.findall(r"dbname='?(\w+)", place.dsn)
    _stop(place)
    backup = f"{name}_backup"
    _copy(postgres, name, backup)

    place.serve()
    assert place.ask("DELETE", begun).status_code == 202
    if not without_jobs:
        assert place.ask("DELETE", done).status_code == 202
    _stop(place)
    _drop(postgres, name)
    _copy(postgres, backup, name)
    _drop(postgres, backup)

    page = (EXAMPLES / "deployment" / "README.md").read_text()
    if without_jobs:
        patterns = re.findall(r"--exclude-table-data='([\w.*]+)'", page)
        with psycopg.connect(place.dsn, autocommit=True) as connection:
            meant = [_tables(connection, pattern) for pattern in patterns]
            assert all(meant)
            connection.execute(f"TRUNCATE {', '.join(name for names in meant for name in names)}".encode())
    else:
        (command,) = re.findall(r"^    (fhir-bulk jobs cancel-all .*)$", page, re.MULTILINE)
        cancelled = place.run(command.split(), "server")
        assert cancelled.stdout == "2 jobs cancelled\n", cancelled.stderr
    place.serve()
    place.start("worker")
    for location in (done, begun):
        assert place.ask("GET", location).status_code == 404
    _until(lambda: not list(place.objects.glob(f"*{done.rpartition('/')[2]}*")))
    assert place.exported(place.kick_off()) == ALL


def _copy(postgres: str, name: str, to: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        leaving = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(leaving, (name,))  # those of processes that have just ended
        connection.execute(f"CREATE DATABASE {to} TEMPLATE {name}".encode())


def _drop(postgres: str, name: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _tables(connection: "psycopg.Connection[Any]", pattern: str) -> list[str]:
    """The tables that a pattern of pg_dump means."""
    schema, _, table = pattern.partition(".")
    like = (schema, table.replace("_", r"\_").replace("*", "%"))
    named = "SELECT format('%%I.%%I', schemaname, tablename) FROM pg_tables WHERE schemaname = %s AND tablename LIKE %s"
    return [name for (name,) in connection.execute(named, like).fetchall()]


def _stop(place: Place) -> None:
    while place.servers:
        _, process = place.servers.pop()
        process.terminate()
        process.wait(60)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
