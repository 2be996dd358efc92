"""Spans, as somebody who reads traces meets them: kick-off, plan, slices and deletes, linked, and without a patient's data."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import AUDIENCE, ISSUER, KICK_OFF, House, job_of, people, populate
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from traced import TracedStore
from waiting import until

from fhir_bulk_middleware import BulkData, FileOutputStore, JoseTokenVerifier, Settings
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import JobState
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

SECRET = "Mrs-Very-Secret"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where all spans of this process end; the provider is global, and goes after the test."""
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    trace.set_tracer_provider(provider)
    return found


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == f"fhir_bulk.{name}"]


@pytest.mark.parametrize("durable", [False, True])
async def test_plan_and_slices_are_linked_to_their_kick_off(
    make_house: Any, exporter: InMemorySpanExporter, tmp_path: Path, *, durable: bool
) -> None:
    """The kick-off is a child of the host's own span, and each piece of work is a trace of its own."""
    parts = {"jobs": SQLiteJobStore(tmp_path / "jobs.db")} if durable else {}
    async with make_house(parts=parts) as house:
        await populate(house)
        with trace.get_tracer("host").start_as_current_span("host's request") as hosts:
            location = await house.kick_off("/$export?_type=Patient,Observation")
        await house.runner.finish()
        assert (await house.ask("GET", location)).status_code == 200

    (kick_off,), (plan,), slices = (named(exporter, name) for name in ("kick_off", "plan", "slice"))
    assert kick_off.parent == hosts.get_span_context()
    assert {str((span.attributes or {})["fhir_bulk.type"]) for span in slices} >= {"Patient", "Observation"}
    for span in (plan, *slices):
        assert [link.context.span_id for link in span.links] == [kick_off.context.span_id]
        assert [link.context.trace_id for link in span.links] == [kick_off.context.trace_id]
        assert span.parent is None
        assert span.context.trace_id != kick_off.context.trace_id
        assert (span.attributes or {})["fhir_bulk.job"] == job_of(location)


async def test_a_worker_process_links_to_the_kick_off_of_its_server(
    tmp_path: Path, mint: TokenMint, exporter: InMemorySpanExporter
) -> None:
    store, written = TracedStore(str(tmp_path / "store.db"), str(tmp_path / "spans")), tmp_path / "spans"
    for resource in people():
        await store.create(resource["resourceType"], resource, resource["id"])
    bulk = BulkData(
        resources=store,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=SQLiteJobStore(tmp_path / "jobs.db"),
        outputs=FileOutputStore(tmp_path / "exports"),
        settings=Settings(worker_processes=1),
    )
    headers = {"Authorization": f"Bearer {mint.token('alice', 'system/*.rs')}", **KICK_OFF}
    transport = httpx2.ASGITransport(bulk.app)
    async with bulk.running(), httpx2.AsyncClient(transport=transport, base_url="https://ehr.example", headers=headers) as http:
        location = (await http.get("/$export?_type=Patient")).headers["Content-Location"]

        async def over() -> bool:
            return (await http.get(location)).status_code == 200

        await until(over)
    (kick_off,) = named(exporter, "kick_off")
    spans = [json.loads(line) for line in written.read_text().splitlines()]
    assert {span["name"] for span in spans} == {"fhir_bulk.plan", "fhir_bulk.slice"}
    for span in spans:
        assert [link["context"]["trace_id"] for link in span["links"]] == [f"0x{kick_off.context.trace_id:032x}"]
        assert [link["context"]["span_id"] for link in span["links"]] == [f"0x{kick_off.context.span_id:016x}"]


async def test_the_traceparent_is_shown_to_nobody_and_goes_when_the_job_ends(
    make_house: Any, exporter: InMemorySpanExporter
) -> None:
    """Law 38."""

    async def kept(house: House, location: str) -> str | None:
        job = await house.jobs.find(job_of(location), house.bulk.mount, Owner(ISSUER, "alice"))
        assert job is not None
        return job.request.traceparent

    async with make_house() as house:
        await populate(house)
        for state in (JobState.FAILED, JobState.CANCELLED, JobState.COMPLETED):
            location = await house.kick_off()
            secret = await kept(house, location)
            assert secret is not None
            (*_, kick_off) = named(exporter, "kick_off")
            assert f"{kick_off.context.trace_id:032x}-{kick_off.context.span_id:016x}" in secret
            await house.turn(location, state)
            answers = [await house.ask("GET", path) for path in (location, "/$export-status")]
            for answer in answers:
                assert f"{kick_off.context.trace_id:032x}" not in answer.text + str(answer.headers)
            assert (await kept(house, location) is None) == (state is not JobState.COMPLETED)


async def test_a_repeated_kick_off_finds_its_job_whatever_span_it_comes_in(house: House, exporter: InMemorySpanExporter) -> None:
    """Law 12."""
    del exporter
    headers = {**KICK_OFF, "Idempotency-Key": "once"}
    first, again = [await house.ask("GET", "/$export", headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["Content-Location"] == again.headers["Content-Location"]


class Indiscreet(MemoryResourceStore):
    """Tells a patient's name in its exceptions."""

    async def pages(self, query: Any, after: str | None) -> Any:
        if query.type == "Patient":
            raise RuntimeError(f"cannot read {SECRET}")
        async for page in super().pages(query, after):
            yield page


def everything(spans: Sequence[ReadableSpan]) -> str:
    return "".join(span.to_json() for span in spans)


async def test_no_span_tells_of_a_patient_a_criterion_or_a_url(make_house: Any, exporter: InMemorySpanExporter) -> None:
    async with make_house(store=Indiscreet, attempts=1, lease_seconds=0.003, renew_seconds=0.001) as house:
        await populate(house)
        location = await house.kick_off(f"/$export?_typeFilter=Patient%3Fname%3D{SECRET}&_type=Patient")
        await house.runner.finish()
        assert (await house.ask("GET", location)).status_code == 500
        rights = {"scope": "system/*.cruds"}
        assert (await house.ask("DELETE", f"/Patient/{SECRET}", **rights)).status_code in {204, 404}
        assert (await house.ask("DELETE", f"/Observation?code={SECRET}", **rights)).status_code < 500
        assert (await house.ask("DELETE", f"/Patient/{SECRET}", scope="system/*.r")).status_code == 403

    spans = exporter.get_finished_spans()
    assert {span.name for span in spans} == {f"fhir_bulk.{name}" for name in ("kick_off", "plan", "slice", "delete")}
    text = everything(spans)
    assert SECRET not in text
    assert "http" not in json.dumps([dict(span.attributes or {}) for span in spans])
    failed = [span for span in spans if not span.status.is_ok and span.status.description]
    assert {span.status.description for span in failed} == {"RuntimeError"}
    refused = [span for span in named(exporter, "delete") if "fhir_bulk.refused" in (span.attributes or {})]
    assert [(span.attributes or {})["fhir_bulk.refused"] for span in refused] == ["scope_missing"]


async def test_without_a_recorder_nothing_is_kept(house: House) -> None:
    location = await house.kick_off()
    job = await house.jobs.find(job_of(location), house.bulk.mount, Owner(ISSUER, "alice"))
    assert job is not None
    assert job.request.traceparent is None


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from fhir_bulk_middleware import tracing
assert tracing.traceparent() is None
assert tracing.span("a", {}) is tracing.span("b", {}, linked="c"), "one empty context for all"
with tracing.span("a", {}):
    pass
"""


def test_without_the_api_a_span_is_nothing() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)
