"""Metrics and AuditEvents, and events of worker processes and of the command line's server."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from exporting import polled
from fhir.resources.auditevent import AuditEvent as R5AuditEvent
from fhir.resources.R4B.auditevent import AuditEvent as R4AuditEvent
from house import AUDIENCE, ISSUER, KICK_OFF, people
from listening import Writer, keeps_audit
from waiting import PATIENCE

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli import main
from fhir_bulk_middleware.cli.server_process import server_process
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.contract import events
from fhir_bulk_middleware.contract.access import Caller, Owner
from fhir_bulk_middleware.contract.events import (
    AuditGap,
    Cancelled,
    Completed,
    Deleted,
    DeleteIntended,
    Event,
    Expired,
    Failed,
    FileServed,
    KickedOff,
    NothingDeleted,
    RefusalsSummed,
    RemovalKind,
    RequestRefused,
    Started,
    UrlsSigned,
)
from fhir_bulk_middleware.contract.job import JobKind
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.fhir.canonical import canonical
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.observers.audit_events import audit_event
from fhir_bulk_middleware.observers.audit_file import Verified, verify
from fhir_bulk_middleware.observers.metrics import Metrics
from fhir_bulk_middleware.outcomes import DeleteOutcome, Operation, Reason
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import ProcessRunner

ALICE = Owner(ISSUER, "alice")
AT = Instant(1_700_000_000_000_000)
CALLER = Caller(client_id="nightly", address="2001:db8::7", request_id="0123456789abcdef")
JOB: dict[str, Any] = {"at": AT, "mount": "m", "owner": ALICE, "job_id": "j"}
ASKED: dict[str, Any] = {"at": AT, "mount": "m", "owner": ALICE, "caller": CALLER}
REMOVAL: dict[str, Any] = {**ASKED, "removal": RemovalKind.BY_CRITERIA, "type": "Patient", "criteria": ("Patient?name=0a1b",)}
SUM: dict[str, Any] = {"at": AT, "mount": "m", "owner": None, "count": 3, "first": AT, "last": AT}
EVENTS: list[Event] = [
    KickedOff(
        **ASKED,
        job_id="j",
        kind=JobKind.EXPORT,
        level=Level.GROUP,
        types=("Patient",),
        group="g",
        patients=("0a1b", "Patient/1"),
        criteria=("Observation?code=0a1b",),
    ),
    Started(**JOB, cut=AT, slices=1, estimate=2),
    Completed(**JOB, resources=3, seconds=7),
    Failed(**JOB, reason=Reason.FAULT, cause="OSError"),
    Cancelled(**JOB, caller=CALLER),
    Cancelled(**JOB, operator="root"),
    Expired(**JOB),
    FileServed(**ASKED, job_id="j", file_id="f", type="Patient", size=7),
    UrlsSigned(**ASKED, job_id="j", file_ids=("f", "g"), types=("Patient",), until=AT),
    RequestRefused(at=AT, mount="m", owner=None, operation=Operation.FILE, reason=Reason.JOB_EXPIRED),
    RequestRefused(**ASKED, operation=Operation.FILE, reason=Reason.JOB_EXPIRED),
    RefusalsSummed(**{**SUM, "owner": ALICE}, reasons={"file: job-expired": 3}, addresses={"192.0.2.1": 3}),
    AuditGap(**SUM, missed={"file-served": 3}),
    DeleteIntended(**REMOVAL, references=("Patient/1",)),
    NothingDeleted(**REMOVAL, outcome=DeleteOutcome.NO_MATCH),
    Deleted(**REMOVAL, references=("Patient/1",)),
]


@asynccontextmanager
async def in_processes(folder: Path, mint: TokenMint, *observers: Any) -> AsyncIterator[httpx2.AsyncClient]:
    resources = keeps_audit_again(folder / "store.db")
    for resource in people():
        await resources.create(resource["resourceType"], resource, resource["id"])
    settings = Settings(worker_processes=1)
    jobs = SQLiteJobStore(folder / "jobs.db")
    bulk = BulkData(
        resources=resources,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=jobs,
        outputs=FileOutputStore(folder / "exports"),
        runner=ProcessRunner(folder, settings),
        settings=settings,
        observers=observers,
    )
    headers = {"Authorization": f"Bearer {mint.token('alice', 'system/*.rs')}", **KICK_OFF}
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="https://ehr.example", headers=headers)
    async with bulk.running(), client:
        yield client
    jobs.close()
    resources.close()


def keeps_audit_again(path: Path) -> Any:
    store = keeps_audit(str(path))
    store.recipe = lambda: Recipe("listening:keeps_audit", {"path": str(path)})  # type: ignore[method-assign]
    return store


async def finished(client: httpx2.AsyncClient) -> httpx2.Response:
    location = (await client.get("/$export?_type=Patient")).headers["Content-Location"]
    while (answer := await client.get(location)).status_code in {202, 429}:
        pass
    return answer


@pytest.mark.anyio
async def test_what_workers_do_reaches_observers_with_a_recipe(tmp_path: Path, mint: TokenMint) -> None:
    metrics = Metrics(tmp_path / "metrics")
    async with in_processes(tmp_path, mint, Writer(str(tmp_path / "heard")), metrics) as client:
        assert (await finished(client)).status_code == 200
    # The worker tells of the completion after a poll can see it; when the server has stopped it has.
    store = keeps_audit_again(tmp_path / "store.db")
    kept = await store.search("AuditEvent", ids=None, count=99, after=None)
    store.close()
    audited = [json.loads(stored.json) for stored in kept.resources]

    heard = [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]
    heard = [event for event in heard if event.get("reason") != "polled-too-often"]
    assert [event["event"] for event in heard] == ["kicked-off", "started", "part-sealed", "completed"]
    assert heard[2]["worker"].split("-")[-2] != str(os.getpid()), "the worker told it, in its own process"
    body, media_type = metrics.text()
    assert media_type.startswith("text/plain")
    said = body.decode().splitlines()
    assert 'fhir_bulk_jobs_total{event="completed",mount="standard"} 1.0' in said
    assert 'fhir_bulk_jobs_total{event="kicked-off",mount="standard"} 1.0' in said
    assert 'fhir_bulk_written_resources_total{mount="standard",type="Patient"} 3.0' in said
    assert 'fhir_bulk_export_seconds_count{mount="standard"} 1.0' in said
    assert "alice" not in body.decode()
    assert sorted(event["subtype"][0]["code"] for event in audited) == ["completed", "kicked-off", "started"]


_COUNT = """
import asyncio, sys
from fhir_bulk_middleware.contract.events import RequestRefused
from fhir_bulk_middleware.observers.metrics import Metrics
from fhir_bulk_middleware.outcomes import Operation, Reason
metrics = Metrics(sys.argv[1])
for _ in range(50):
    asyncio.run(metrics.observe(RequestRefused(at=0, mount="m", owner=None, operation=Operation.FILE, reason=Reason.BUSY)))
"""


def test_counts_of_several_processes_add_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    crowd = [subprocess.Popen([sys.executable, "-c", _COUNT, str(tmp_path)], env=environment) for _ in range(2)]
    assert [process.wait(PATIENCE) for process in crowd] == [0, 0]

    assert b'fhir_bulk_refusals_total{mount="m",operation="file",reason="busy"} 100.0' in Metrics(tmp_path).text()[0]


@pytest.mark.parametrize("version", FhirVersion)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_audit_event_is_a_resource_with_what_its_release_requires(event: Event, version: FhirVersion) -> None:
    resource = audit_event(event, version)

    assert canonical(json.dumps({**resource, "id": "1"}).encode()).type == "AuditEvent"
    required = {"category", "code"} if version is FhirVersion.R5 else {"type"}
    assert required | {"recorded", "agent", "source", "action"} <= resource.keys()
    assert resource["source"]["observer"]
    assert ("identifier" in resource["agent"][0]["who"]) == (event.owner is not None)
    official = R5AuditEvent if version is FhirVersion.R5 else R4AuditEvent
    assert official.model_validate(resource).model_dump(mode="json")["agent"] == resource["agent"]
    if event.caller is not None:
        said = json.dumps(resource)
        assert all(str(value) in said for value in (CALLER.client_id, CALLER.address, CALLER.request_id))


@pytest.mark.parametrize("version", FhirVersion)
def test_the_requestor_of_an_operators_cancel_is_the_operator(version: FhirVersion) -> None:
    """Law 37: the owner of the job is named, and not as who did it."""
    agents = audit_event(Cancelled(**JOB, operator="root"), version)["agent"]

    assert [(agent["who"]["identifier"]["value"], agent["requestor"]) for agent in agents] == [("root", True), ("alice", False)]


def test_every_event_that_an_adapter_is_given_is_among_those_that_were_tried() -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    left_out = {Event, events.JobEvent, events.PartSealed, events.AuditFailed}

    assert {type(event) for event in EVENTS} == kinds - left_out


def test_a_server_keeps_an_audit_file_unless_told_not_to(tmp_path: Path) -> None:
    for option, there in (("--audit", True), ("--no-audit", False)):
        state = State(tmp_path / option)
        state.load("a population of 1 patients", population(patients=1), lambda _: None)
        headers = {"authorization": f"Bearer {state.mint().token('me', 'system/*.rs')}", "prefer": "respond-async"}
        with (
            server_process(state, 0, ["--workers", "1", option]) as server,
            httpx2.Client(headers=headers, timeout=PATIENCE) as http,
        ):
            location = http.get(f"{server.url}/$export?_type=Patient").headers["content-location"]
            answer = polled(http.get, location)
            http.get(answer.json()["output"][0]["url"])
        assert state.audit.exists() == there

    state = State(tmp_path / "--audit")
    records = [json.loads(line) for line in state.audit.read_bytes().splitlines()]
    events = [record["event"] for record in records]
    assert events[:3] == ["kicked-off", "started", "part-sealed"]
    assert sorted(events[3:]) == ["completed", "file-served"], "a quick client has the file before the worker tells of the end"
    assert isinstance(verify(state.audit), Verified)
    assert main(["audit", "verify", str(state.audit)]) == 0
