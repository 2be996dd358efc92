"""The OpenAPI document is true: a fuzzer that knows nothing else finds no answer that the document does not have."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from exporting import polled
from house import AUDIENCE, ISSUER, KICK_OFF, job_of, people
from loopback import free_socket, served
from mounts import SMART, mount
from waiting import PATIENCE

from fhir_bulk_middleware import AIDBOX, BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, SUBJECT_BOUND, Dialect
from fhir_bulk_middleware.http.routes import level_of
from fhir_bulk_middleware.smart.configuration import SmartConfiguration
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint
from fhir_bulk_middleware.workers.runner import LoopRunner

_EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "3"))
"""How many cases the fuzzer makes up for each operation, besides those that it derives; 300 are some thousands for a dialect."""

_SECONDS = 200 * _EXAMPLES

_LONGEST = 0.5
"""Seconds for which a request may hold the loop here; it takes 20 ms at most. But its CPU time has what the machine does in an
interrupt meanwhile, which was 90 ms once, and minutes of requests meet that sooner than a test of seconds does.
"""

_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "negative_data_rejection",
)
OWN = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/both/$export"}


@pytest.fixture
def bulk(mint: TokenMint, dialect: Dialect) -> Iterator[tuple[BulkData, str]]:
    """A mount on a real server, with people in it and few limits."""
    resources = MemoryResourceStore()
    for resource in people():
        anyio.run(resources.create, resource["resourceType"], resource, resource["id"])
    listener = free_socket()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    made = BulkData(
        resources=resources,
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        runner=LoopRunner(),
        settings=Settings(
            public_base_url=base,
            jobs_per_owner=100_000,
            kick_offs_per_minute=1_000_000,
            refusals_per_minute=1_000_000,
            polls_per_second=1e6,
            smart=SmartConfiguration(**SMART),
            health=True,
        ),
        dialect=dialect,
        deletes=AIDBOX,
    )
    with served(made.app, listener, longest=_LONGEST):
        yield made, base


def finished(base: str, token: str, dialect: Dialect) -> dict[str, str]:
    """A job that has run, and one of its files: what the document's placeholders may stand for."""
    level = next(level for level in Level if level in dialect.kick_off)
    headers = {**KICK_OFF, "Authorization": f"Bearer {token}"}
    with httpx2.Client(headers=headers, timeout=PATIENCE) as http:
        accepted = http.request(dialect.kick_off[level][0], base + OWN[level])
        assert accepted.status_code == 202, accepted.text
        location = accepted.headers["Content-Location"]
        poll = polled(http.get, location)
        assert poll.status_code == 200, poll.text
    output = poll.json()["output"]
    file = output[0]["url"].rpartition("/")[2] if output else "bulk.00000000000000000000000000000000.0-0"
    return {"job": job_of(location), "_jobId": job_of(location), "file": file, "page": "1", "group": "both"}


def with_examples(document: dict[str, Any], examples: dict[str, str]) -> dict[str, Any]:
    """The document, with something for each placeholder that is there."""
    for operations in document["paths"].values():
        for method, operation in operations.items():
            for parameter in operation["parameters"]:
                if parameter["name"] in examples and method != "delete":
                    parameter["example"] = examples[parameter["name"]]
    return document


@pytest.mark.timeout(_SECONDS + 30)
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed; the extra dev brings it")
@pytest.mark.long
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_no_answer_is_outside_the_document(bulk: tuple[BulkData, str], mint: TokenMint, dialect: Dialect, tmp_path: Path) -> None:
    made, base = bulk
    token = mint.token("alice", "system/*.rs", expires_in=3600)
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(with_examples(made.openapi(), finished(base, token, dialect))))

    ran = fuzz(document, base, token, heads=dialect is STANDARD)

    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    assert "No issues found" in ran.stdout


@pytest.mark.timeout(_SECONDS + 30)
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed; the extra dev brings it")
@pytest.mark.long
@pytest.mark.parametrize("dialect", [SUBJECT_BOUND], ids=["subject-bound"])
def test_a_document_that_lacks_an_answer_is_found_out(
    bulk: tuple[BulkData, str], mint: TokenMint, dialect: Dialect, tmp_path: Path
) -> None:
    made, base = bulk
    token = mint.token("alice", "system/*.rs", expires_in=3600)
    lacking = made.openapi()
    del lacking["paths"]["/$export-file/{file}"]["get"]["responses"]["404"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(with_examples(lacking, finished(base, token, dialect))))

    ran = fuzz(document, base, token, heads=False)

    assert ran.returncode == 1
    assert "ndocumented" in ran.stdout, ran.stdout


def fuzz(document: Path, base: str, token: str, *, heads: bool) -> subprocess.CompletedProcess[str]:
    """Try the server by the document, as many ways as a fuzzer finds in some seconds."""
    command = [sys.executable, "-W", "error", "-m", "schemathesis.cli", "run", str(document), "--url", base]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(_CHECKS), "--max-examples", str(_EXAMPLES)]
    command += ["--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-shrink", "--suppress-health-check", "all"]
    # A range of the gzipped form is no gzip file; the fuzzer's client would decode it, fail, and end the tests of the route.
    command += ["--header", "Accept-Encoding: identity"]
    command += ["--warnings", "off", *([] if heads else ["--exclude-method", "HEAD"])]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        cwd=document.parent,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "130"},
    )


@pytest.mark.skipif(
    find_spec("openapi_spec_validator") is None, reason="openapi-spec-validator is not installed; the extra dev brings it"
)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_document_is_one_of_version_3_1(dialect: Dialect) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(mount(dialect, smart=SMART).openapi()).validate()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_document_has_each_route_of_the_table_and_no_other(dialect: Dialect) -> None:
    made = mount(dialect, smart=SMART)
    document = made.openapi()

    shown = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    there = {(row.method, row.path.partition("?")[0]) for row in made.table}
    heads = {("HEAD", path) for method, path in there if method == "GET" and level_of(path) is None}
    assert shown == there | heads
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


def test_required_headers_are_those_of_the_dialect() -> None:
    for dialect in DIALECTS.values():
        for path, operations in mount(dialect).openapi()["paths"].items():
            for operation in operations.values():
                required = {one["name"] for one in operation["parameters"] if one["in"] == "header" and one["required"]}
                wanted = {"Prefer"} & {header.value for header in dialect.required_headers}
                assert required == (wanted if "$export" in path and "status" not in path and "file" not in path else set()), path


def test_only_what_says_how_to_get_in_is_without_a_token() -> None:
    document = mount(smart=SMART).openapi()

    open_ = {path for path, operations in document["paths"].items() for one in operations.values() if one.get("security") == []}
    assert document["security"] == [{"bearer": []}]
    assert open_ == {
        "/.well-known/smart-configuration",
        "/OperationDefinition/bulk.export",
        "/OperationDefinition/bulk.patient-export",
        "/OperationDefinition/bulk.group-export",
    }
