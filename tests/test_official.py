"""All that we and the demo host emit is valid by HL7's own definitions, in each dialect and each release."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import official
import pytest
from house import BASE, KICK_OFF, House, populate
from jsonschema import Draft202012Validator, FormatChecker

from fhir_bulk_middleware import AIDBOX, FHIR_R4, FHIR_R6_DRAFT, BulkData
from fhir_bulk_middleware.contract.job import Ignored
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.dialects import DIALECTS, STANDARD, Dialect
from fhir_bulk_middleware.discovery import schemas
from fhir_bulk_middleware.export.organising import header
from fhir_bulk_middleware.export.reports import ignored_line, unreadable_line
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.jose import JoseTokenVerifier
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.smart.configuration import SmartConfiguration
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
EVERY_VERSION = pytest.mark.parametrize("version", FhirVersion, ids=lambda version: version.name)
BACKEND = SmartConfiguration(token_endpoint="https://auth.example/token")
WITH_USERS = BACKEND.model_copy(update={"authorization_endpoint": "https://auth.example/authorize"})
FULL = "system/*.cruds"


# --- What a mount says about itself ---------------------------------------------------------------------------------------


def host_statement(version: FhirVersion) -> dict[str, Any]:
    """The least that a host can say."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "implementation": {"description": "a host"},
        "fhirVersion": version.value,
        "format": ["json"],
    }


def mount(dialect: Dialect, version: FhirVersion, mint: TokenMint, **settings: Any) -> BulkData:
    return BulkData(
        resources=MemoryResourceStore(),
        verifier=JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience),
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        dialect=dialect,
        fhir_version=version,
        settings=Settings(**settings),
    )


@EVERY_DIALECT
@EVERY_VERSION
def test_a_hosts_capability_statement_is_valid_with_ours_in_it(mint: TokenMint, dialect: Dialect, version: FhirVersion) -> None:
    parameters = [{"name": "of-our-own", "type": "token"}]
    rest = {"mode": "server", "resource": [{"type": "Patient", "searchParam": parameters}, {"type": "Account"}]}
    bulk = mount(dialect, version, mint, smart=WITH_USERS, group_scope=True)
    official.check(bulk.capability.amend({**host_statement(version), "rest": [rest]}), version)


@pytest.mark.parametrize("smart", [None, BACKEND], ids=["no token", "backend"])
@EVERY_VERSION
def test_so_is_that_of_a_host_that_says_next_to_nothing(
    mint: TokenMint, version: FhirVersion, smart: SmartConfiguration | None
) -> None:
    bulk = mount(STANDARD, version, mint, smart=smart)
    official.check(bulk.capability.amend(host_statement(version)), version)


@EVERY_DIALECT
@EVERY_VERSION
async def test_each_operation_definition_is_valid(mint: TokenMint, dialect: Dialect, version: FhirVersion) -> None:
    bulk = mount(dialect, version, mint, public_base_url=BASE)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url=BASE) as http:
        found = [path for path in bulk.openapi()["paths"] if path.startswith("/OperationDefinition/")]
        assert len(found) == len(dialect.kick_off)
        for path in found:
            official.check((await http.get(path)).json(), version)


# --- The demo host --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def demo_host(folder: Path, mint: TokenMint, dialect: Dialect) -> AsyncIterator[httpx2.AsyncClient]:
    store = SQLiteResourceStore(folder / "store.db")
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    app = fhir_host(store, verifier)
    bulk = BulkData(
        resources=store,
        verifier=verifier,
        jobs=MemoryJobStore(),
        outputs=MemoryOutputStore(),
        dialect=dialect,
        settings=Settings(smart=BACKEND),
    )
    bulk.install(app)
    headers = {"Authorization": f"Bearer {mint.token('somebody', FULL)}", "Content-Type": "application/fhir+json"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr/fhir", headers=headers) as http:
        yield http
    store.close()


@EVERY_DIALECT
async def test_the_demo_host_is_valid_with_and_without_us(tmp_path: Path, mint: TokenMint, dialect: Dialect) -> None:
    async with demo_host(tmp_path, mint, dialect) as http:
        statement = (await http.get("/metadata")).json()
        official.check(statement, FhirVersion.R4)
        await http.put("/Patient/a", json={"resourceType": "Patient", "id": "a"})
        for path in ("/Patient", "/Patient?_id=b", "/Patient?_count=1"):
            official.check((await http.get(path)).json(), FhirVersion.R4)
        for method, path in [("GET", "/Patient/b"), ("PATCH", "/Patient/a"), ("GET", "/Nope/a"), ("GET", "/Patient?x=y")]:
            answer = await http.request(method, path)
            assert answer.status_code >= 400
            official.check(answer.json())
    bare = fhir_host(MemoryResourceStore(), None)  # type: ignore[arg-type] # nothing of them is asked for
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(bare), base_url="http://ehr/fhir") as http:
        official.check((await http.get("/metadata")).json(), FhirVersion.R4)


# --- Outcomes -------------------------------------------------------------------------------------------------------------


@EVERY_DIALECT
def test_each_reason_is_told_by_a_valid_outcome(dialect: Dialect) -> None:
    replies = Replies(dialect)
    for reason in Reason:
        for operation in Operation:
            for detail, part in [
                ("", None),
                ("It was wrong.", "http.x"),
                ("a\x00\x1b[2J\r\nb\x85\ud800", "http.\x00\n"),
                (" ", ""),
            ]:
                refused = Refused(reason, detail, part=part or None, retry_after=1, allow=("GET",), size=1)
                official.check_body(bytes(replies.refusal(operation, refused).body))
    form = dialect.report_form()
    for reason, _ in form.codes:
        official.check(json.loads(ignored_line(form, Ignored(reason, "foo\x1b: it was ignored.", "http.foo\x07"))))
    official.check(json.loads(unreadable_line(form, "Patient/1\x1b")))
    if dialect.cancelled_answer is not None:
        official.check(json.loads(bytes(replies.told(dialect.cancelled_answer, "Gone.").body)))


def test_the_judge_finds_what_is_not_valid() -> None:
    """A judge that accepts everything would prove nothing."""
    good: dict[str, Any] = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}
    official.check(good)
    bad: list[Mapping[str, Any]] = [
        {**good, "issue": []},
        {**good, "issue": [{"severity": "error", "code": "invalid", "expression": []}]},
        {**good, "issue": [{"severity": "bad", "code": "invalid"}]},
        {**good, "issue": [{"severity": "error", "code": "no-such-code"}]},
        {**good, "issue": [{"severity": "error", "code": "invalid", "details": {"text": ""}}]},
        {**good, "issue": [{"severity": "error", "code": "invalid", "diagnostics": "\x1b"}]},
        {**good, "issue": [{"severity": "error", "code": "invalid", "other": 1}]},
        {"resourceType": "Bundle", "type": "batch-response", "entry": [{"fullUrl": "http://a/b/c"}]},
        {"resourceType": "Bundle", "type": "nonsense"},
        {**host_statement(FhirVersion.R4), "rest": [{"mode": "server", "operation": []}]},
        host_statement(FhirVersion.R4),
    ]
    for resource in bad:
        with pytest.raises(AssertionError):
            official.check(resource)


# --- Exports and deletes --------------------------------------------------------------------------------------------------


def judged(dialect: Dialect, manifest: Mapping[str, Any]) -> None:
    """Judge a manifest by the schema that the mount publishes for it, and that by the IG's list of required keys."""
    schema = schemas.manifest(dialect)
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(manifest)
    assert {"transactionTime", "requiresAccessToken", "output", dialect.manifest.errors} <= set(schema["required"])
    for file in [*manifest["output"], *manifest.get("deleted", ()), *manifest[dialect.manifest.errors]]:
        if dialect.manifest.extension_array:
            for extension in file["extension"]:
                assert extension["url"].startswith("urn:")


async def manifests(house: House, level: Level, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    """All pages of an export's manifest."""
    path = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/both/$export"}[level]
    headers = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}
    if "GET" in house.dialect.kick_off[level]:
        accepted = await house.ask("GET", path, params=dict(parameters), headers=headers)
    else:
        sent = [{"name": name, "valueString": value} for name, value in parameters.items()]
        accepted = await house.ask("POST", path, json={"resourceType": "Parameters", "parameter": sent}, headers=headers)
    assert accepted.status_code == 202, accepted.text
    await house.runner.finish()
    url, found = accepted.headers["Content-Location"], []
    while url:
        found.append((await house.ask("GET", url)).json())
        url = next((link["url"] for link in found[-1].get("link", ())), "")
    return found


OPTIONS: dict[str, dict[str, str]] = {
    "plain": {},
    "nothing": {"_type": "Device"},
    "changes": {"_since": "2026-03-01T11:59:59Z", "foo": "bar"},
    "organised": {"organizeOutputBy": "Patient", "foo": "bar"},
    "pages": {"allowPartialManifests": "true"},
}


@EVERY_DIALECT
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_manifests_and_what_we_put_into_files_are_valid(make_house: Any, dialect: Dialect, options: dict[str, str]) -> None:
    for level in dialect.kick_off:
        async with make_house(dialect, manifest_files=1, part_bytes=4096, page_bytes=1024, smallest_part_bytes=1) as house:
            await populate(house)
            for number in range(40):
                resource = {"resourceType": "Observation", "status": "final", "code": {"text": "x" * 200}}
                await house.resources.create("Observation", {**resource, "subject": {"reference": "Patient/p1"}}, f"n{number}")
            await house.resources.delete("Observation", "b1", None)
            house.clock.advance(1)
            pages = await manifests(house, level, options)
            for manifest in pages:
                judged(dialect, manifest)
                for kind in ("deleted", dialect.manifest.errors):
                    for file in manifest.get(kind, ()):
                        for line in (await house.ask("GET", file["url"])).text.splitlines():
                            official.check(json.loads(line))
            if "organizeOutputBy" in options and "organizeOutputBy" in dialect.parameters and level is not Level.SYSTEM:
                assert all(manifest["outputOrganizedBy"] == "Patient" for manifest in pages)
                assert any("continuesInFile" in file for manifest in pages for file in manifest["output"])
            if "allowPartialManifests" in options and "allowPartialManifests" in dialect.parameters:
                assert len(pages) > 1


def test_the_header_of_an_organised_block_is_valid() -> None:
    official.check(json.loads(header("Patient/p1")))


@pytest.mark.parametrize("policy", [AIDBOX, FHIR_R4, FHIR_R6_DRAFT], ids=lambda policy: policy.name)
async def test_what_deletes_answer_is_valid(make_house: Any, policy: Any) -> None:
    """Outcomes and Bundles: of one, of several, of a dry run and of a job that runs for long."""
    several = {"x-conditional-delete": "remove-all"}
    async with make_house(parts={"deletes": policy}) as house:
        await populate(house)
        seen: set[str] = set()
        for url, headers in [
            ("/Patient/p1?_dry-run=true", {}),
            ("/Patient?_id=p1&_dry-run=true", {}),
            ("/Observation?status=final&_dry-run=true", several),
            ("/Observation?status=amended", {}),
            ("/Observation?status=final", {}),
            ("/Observation?nonsense=final", {}),
            ("/Patient/p3", {"If-Match": 'W/"7"'}),
            ("/Patient/p3", {"Prefer": "return=OperationOutcome"}),
            ("/Observation?_id=b1,b2", several),
            ("/Patient/never", {}),
        ]:
            answer = await house.ask("DELETE", url, scope=FULL, headers=headers)
            if answer.content:
                official.check(answer.json())
                seen.add(answer.json()["resourceType"])
        assert "OperationOutcome" in seen
        if policy.remove_all_header:
            assert "Bundle" in seen
            begun = await house.ask(
                "DELETE", "/Observation?_id=b3,b4", scope=FULL, headers={**several, "Prefer": "respond-async"}
            )
            assert begun.status_code == 202
            await house.resources.update("Observation", "b3", {"resourceType": "Observation", "status": "amended", "code": {}})
            await house.runner.finish()
            result = await house.ask("GET", begun.headers["Content-Location"], scope=FULL)
            official.check(result.json())
            assert len(result.json()["entry"]) == 2
            assert any("outcome" in entry["response"] for entry in result.json()["entry"])


class Records(MemoryResourceStore):
    """A store that keeps AuditEvents, apart."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.recorded: list[bytes] = []

    async def record(self, audit_event: bytes) -> None:
        self.recorded.append(audit_event)


@EVERY_VERSION
async def test_audit_events_are_valid(mint: TokenMint, version: FhirVersion) -> None:
    """Of an export that ran, one that was cancelled and one that failed, of files, refusals and deletes."""
    house = House(mint, STANDARD, Settings(public_base_url=BASE), Records, fhir_version=version)
    async with house.bulk.running(), house.http:
        await populate(house)
        manifest = await house.export("/$export?_type=Patient")
        await house.ask("GET", manifest["output"][0]["url"])
        assert (await house.ask("DELETE", await house.kick_off())).status_code == 202
        await house.fail(await house.kick_off())
        await house.ask("GET", "/$export", scope="system/Patient.d", headers=KICK_OFF)
        for url in ("/Patient/p1", "/Observation?_id=b1,b2", "/Patient?_id=nobody"):
            await house.ask("DELETE", url, scope=FULL, headers={"x-conditional-delete": "remove-all"})
        store = house.resources
        assert isinstance(store, Records)
        assert len(store.recorded) >= 7
        for recorded in store.recorded:
            official.check(json.loads(recorded), version)
