"""What one caller may cost the others: pace, bodies, caches, a full disk, and how long anything of it is kept (law 38)."""

import asyncio
import errno
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hosts import HardHost
from house import AUDIENCE, BASE, ISSUER, KICK_OFF, HandClock, HandRunner, House, job_of, populate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fhir_bulk_middleware import BulkData, JoseTokenVerifier, Settings
from fhir_bulk_middleware.caps import PATH_REMEMBERED, TOKENS_BYTES
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.delete.policy import AIDBOX
from fhir_bulk_middleware.demo.host import fhir_host
from fhir_bulk_middleware.instant import after
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jose.signing import SigningKey
from fhir_bulk_middleware.jose.verified import VerifiedTokens
from fhir_bulk_middleware.mount import SelectiveMount
from fhir_bulk_middleware.smart.replay import MemoryReplayLog
from fhir_bulk_middleware.smart.server import AuthorizationServer
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite.deletions import SQLiteDeletionLog
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = pytest.mark.anyio
PARAMETERS = {**KICK_OFF, "Content-Type": "application/fhir+json"}
LENIENT = {**KICK_OFF, "Prefer": "respond-async, handling=lenient"}


# --- Pace --------------------------------------------------------------------------------------------------------------


async def test_kick_offs_of_one_owner_are_counted_by_the_minute(make_house: Any) -> None:
    async with make_house(kick_offs_per_minute=2, jobs_per_owner=9) as house:
        told = [await house.ask("GET", "/$export", headers=KICK_OFF) for _ in range(3)]
        others = await house.ask("GET", "/$export", headers=KICK_OFF, subject="bob")

        assert [answer.status_code for answer in told] == [202, 202, 429]
        assert told[2].json()["issue"][0]["code"] == "throttled"
        assert told[2].headers["Retry-After"] == "30"
        assert others.status_code == 202

        house.clock.advance(30)
        assert (await house.ask("GET", "/$export", headers=KICK_OFF)).status_code == 202


async def test_who_is_refused_too_often_waits_with_everything_and_others_do_not(make_house: Any) -> None:
    async with make_house(refusals_per_minute=3) as house:
        location = await house.kick_off()
        for _ in range(3):
            assert (await house.ask("GET", "/$export?_since=never", headers=KICK_OFF)).status_code == 400

        waiting = await house.ask("GET", location)
        assert waiting.status_code == 429
        assert waiting.headers["Retry-After"] == "20"
        assert "3 requests" in waiting.json()["issue"][0]["details"]["text"]
        assert (await house.ask("GET", "/$export?_since=never", headers=KICK_OFF, subject="bob")).status_code == 400

        house.clock.advance(20)
        assert (await house.ask("GET", location)).status_code == 202


async def test_requests_of_one_owner_at_once_have_a_cap_and_a_download_counts_to_its_last_byte(make_house: Any) -> None:
    async with make_house(requests_per_owner=2) as house:
        await populate(house)
        manifest = await house.export()
        read = anyio.Event()
        stalled = anyio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and not read.is_set():
                stalled.set()
                await read.wait()

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def download() -> None:
            headers = [(b"host", b"ehr.example"), (b"authorization", f"Bearer {house.token()}".encode())]
            path = manifest["output"][0]["url"].removeprefix(BASE)
            scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers, "scheme": "https"}
            await house.bulk.app(scope, receive, send)

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                stalled = anyio.Event()
                tasks.start_soon(download)
                await stalled.wait()
            third = await house.ask("GET", "/$export", headers=KICK_OFF)
            others = await house.ask("GET", "/$export", headers=KICK_OFF, subject="bob")
            read.set()

        assert third.status_code == 429
        assert "At most 2 requests" in third.json()["issue"][0]["details"]["text"]
        assert others.status_code == 202
        assert (await house.ask("GET", "/$export", headers=KICK_OFF)).status_code == 202


# --- Bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("POST", "/$export"), ("DELETE", "/Patient/p1"), ("DELETE", "/Patient?_id=p1")])
async def test_a_body_that_does_not_arrive_is_not_waited_for_for_ever(make_house: Any, method: str, path: str) -> None:
    async with make_house(body_seconds=0.05) as house:
        await populate(house)

        answer = await asyncio.wait_for(stalled_request(house, method, path), 60)

        assert answer[0] == 408
        assert b"within 0.05 seconds" in answer[1]
        assert (await house.ask("GET", "/$export", headers=KICK_OFF)).status_code == 202


async def test_a_token_request_that_does_not_arrive_is_not_waited_for_for_ever() -> None:
    server = AuthorizationServer(
        "https://ehr.example/auth",
        "https://ehr.example",
        [],
        key=SigningKey("ES384"),
        replay=MemoryReplayLog(),
        body_seconds=0.05,
    )
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"ehr.example"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "path": "/token", "query_string": b"", "headers": headers, "scheme": "https"}
    await asyncio.wait_for(server.app(scope, receive, send), 60)

    assert sent[0]["status"] == 400
    assert b"within 0.05 seconds" in sent[1]["body"]


async def stalled_request(house: House, method: str, path: str) -> tuple[int, bytes]:
    """Status and body of a request of which only the beginning arrives."""
    place, _, query = path.partition("?")
    token = house.token(scope="system/*.cruds").encode()
    headers = [(b"host", b"ehr.example"), (b"authorization", b"Bearer " + token), (b"prefer", b"respond-async")]
    scope = {
        "type": "http",
        "method": method,
        "path": place,
        "query_string": query.encode(),
        "headers": headers,
        "scheme": "https",
    }
    begun = False
    sent: list[Any] = []

    async def receive() -> Any:
        nonlocal begun
        if begun:
            await anyio.sleep_forever()
        begun = True
        return {"type": "http.request", "body": b"" if method == "DELETE" else b"{", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    await house.bulk.app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_a_body_of_very_many_errors_is_refused_at_its_first(house: House) -> None:
    content = b'{"resourceType":"Parameters","parameter":[' + b"1," * 999 + b"1]}"

    answer = await house.ask("POST", "/$export", headers=PARAMETERS, content=content)

    assert answer.status_code == 400
    assert len(answer.content) < 1_000


# --- Reports and refusals ----------------------------------------------------------------------------------------------


async def test_what_is_set_aside_has_one_report_for_each_parameter_name(house: House) -> None:
    """KO-101, KO-102."""
    query = "includeAssociatedData=" + ",".join(["a"] * 500) + "&unknown=1&unknown=2&_elements=" + ",".join(["nope"] * 300)

    location = (await house.ask("GET", f"/$export?{query}", headers=LENIENT)).headers["Content-Location"]
    await house.runner.finish()
    manifest = (await house.ask("GET", location)).json()

    (lines,) = (await house.lines(manifest, "error")).values()
    told = [json.loads(line)["issue"][0]["details"]["text"] for line in lines]
    assert len(told) == 3
    assert sum("499 more of its values" in text for text in told) == 1


async def test_a_refusal_does_not_repeat_at_length_what_was_sent(house: House) -> None:
    answers = [
        await house.ask("GET", f"/$export?{'n' * 16_000}=1", headers=KICK_OFF),
        await house.ask("M" * 60_000, "/$export"),
        await house.ask(
            "POST",
            "/$export",
            headers=PARAMETERS,
            content=json.dumps({"resourceType": "Parameters", "parameter": [{"name": "n" * 900_000}]}),
        ),
    ]

    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 3_000


# --- What is remembered ------------------------------------------------------------------------------------------------


async def test_no_made_up_method_or_path_is_remembered(make_house: Any) -> None:
    async with make_house() as house:
        mount = SelectiveMount("/fhir", house.bulk.app)
        app = Starlette(routes=[mount])
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
            for number in range(50):
                assert (await http.request(f"{'M' * 60_000}{number}", "/fhir/$export")).status_code == 401
                await http.get(f"/fhir/$export-status/{'j' * 1_500}{number}")
                await http.get("/fhir/$export")

        remembered = [sum(map(len, place)) for place in mount._cache._found]
        assert remembered
        assert max(remembered) <= PATH_REMEMBERED


def test_the_tokens_that_are_remembered_have_a_size_together() -> None:
    known = VerifiedTokens()
    keys: Any = object()
    clock = HandClock()
    for number in range(1_000):
        claims = {"scope": "s" * 10_000, "number": number}
        known.add(
            number.to_bytes(32),
            Principal(owner=Owner("i", "s"), scopes=(), expires_at=after(clock(), 9_000), claims=claims),
            keys,
            clock(),
        )

    kept = [entry[0].claims for entry in known._entries.values()]
    assert sum(len(repr(claims)) for claims in kept) <= TOKENS_BYTES
    assert kept[-1]["number"] == 999


# --- The host's CapabilityStatement ------------------------------------------------------------------------------------


def statement(number: int, size: int = 0) -> bytes:
    return json.dumps({"resourceType": "CapabilityStatement", "date": f"{number}", "x": "x" * size}).encode()


def host_with(house: House, bodies: Any) -> Starlette:
    async def metadata(_: Request) -> Response:
        return Response(next(bodies), media_type="application/fhir+json")

    app = Starlette(routes=[Route("/fhir/metadata", metadata)])
    app.router.routes.insert(0, house.bulk.front(app.router.app, "/fhir", amend_metadata=True))
    return app


async def test_one_statement_is_amended_once_for_all_who_ask_at_once(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_house() as house:
        amended: list[Any] = []
        amend = house.bulk.capability.amend

        def counted(one: Any) -> Any:
            amended.append(one)
            return amend(one)

        monkeypatch.setattr(house.bulk.capability, "amend", counted)
        app = host_with(house, iter([statement(1)] * 8))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
            answers = await asyncio.gather(*(http.get("/fhir/metadata") for _ in range(8)))

        assert len(amended) == 1
        assert all(b"OperationDefinition" in answer.content for answer in answers)


async def test_statements_are_amended_one_after_the_other_off_the_loop_and_too_many_go_as_they_are(
    make_house: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_house() as house:
        loop, at_once, most = asyncio.get_running_loop(), 0, 0
        amend = house.bulk.capability.amend

        def counted(one: Any) -> Any:
            nonlocal at_once, most
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            at_once += 1
            most = max(most, at_once)
            found = amend(one)
            at_once -= 1
            return found

        monkeypatch.setattr(house.bulk.capability, "amend", counted)
        app = host_with(house, map(statement, range(40)))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
            answers = await asyncio.gather(*(http.get("/fhir/metadata") for _ in range(40)))

        assert loop.is_running()
        assert most == 1
        assert sum(b"OperationDefinition" in answer.content for answer in answers) == 16
        assert "goes out as it is" in caplog.text


async def test_a_statement_that_is_too_large_goes_out_as_it_is_and_the_log_says_so(
    make_house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_house() as house:
        body = statement(1, 4_000_000)
        app = host_with(house, iter([body]))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://ehr.example") as http:
            answer = await http.get("/fhir/metadata")

        assert answer.content == body
        assert caplog.text.count("goes out as it is") == 1


# --- A full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def state(tmp_path: Path, mint: TokenMint) -> AsyncIterator[tuple[dict[str, Any], httpx2.AsyncClient]]:
    """The demo host on real files, and its stores."""
    stores: dict[str, Any] = {
        "resources": SQLiteResourceStore(tmp_path / "store.db"),
        "jobs": SQLiteJobStore(tmp_path / "jobs.db"),
    }
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    app = fhir_host(stores["resources"], verifier)
    BulkData(**stores, verifier=verifier, outputs=MemoryOutputStore(), runner=HandRunner()).install(app)
    headers = {"authorization": f"Bearer {mint.token('somebody', 'system/*.cruds')}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://ehr/fhir", headers=headers) as http:
        patient = {"resourceType": "Patient", "id": "a"}
        await http.put("/Patient/a", json=patient, headers={"content-type": "application/fhir+json"})
        yield stores, http
    for store in stores.values():
        store.close()


async def fill(store: Any) -> None:
    """Let the file grow no further, as on a full disk."""
    await store._database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())


async def test_a_kick_off_on_a_full_disk_is_told_to_come_again(state: Any) -> None:
    stores, http = state
    await fill(stores["jobs"])

    answers = [
        await http.get("/$export?_since=2020-01-01T00:00:00Z&_elements=" + "id," * 500 + "id", headers=KICK_OFF)
        for _ in range(20)
    ]

    full = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} <= {202, 429, 503}
    assert full
    assert full[0].headers["Retry-After"] == "60"
    assert "no space left" in full[0].json()["issue"][0]["details"]["text"]


async def test_a_delete_on_a_full_disk_is_told_to_come_again_and_deletes_nothing(state: Any) -> None:
    stores, http = state
    await fill(stores["resources"])
    many = {"resourceType": "Patient", "id": "b", "name": [{"text": "x" * 100_000}]}

    written = await http.put("/Patient/b", json=many, headers={"content-type": "application/fhir+json"})

    assert written.status_code == 503
    assert (await http.get("/Patient/b")).status_code == 404


async def test_an_intent_that_finds_no_space_is_told_to_come_again(tmp_path: Path, mint: TokenMint) -> None:
    """Law 28: nothing is deleted that was not written down."""
    host, log = HardHost(), SQLiteDeletionLog(tmp_path / "log.db")
    await host.put(*(json.dumps({"resourceType": "Patient", "id": f"{number}"}, separators=(",", ":")) for number in range(200)))
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=mint.issuer, audience=mint.audience)
    jobs = SQLiteJobStore(tmp_path / "jobs.db")
    bulk = BulkData(
        resources=host, verifier=verifier, jobs=jobs, outputs=MemoryOutputStore(), runner=HandRunner(), log=log, deletes=AIDBOX
    )
    headers = {"authorization": f"Bearer {mint.token('somebody', 'system/*.cruds')}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="http://ehr", headers=headers) as http:
        await fill(log)
        answers = [await http.delete(f"/Patient/{number}") for number in range(200)]

        full = [number for number, answer in enumerate(answers) if answer.status_code == 503]
        assert full
        assert answers[full[0]].headers["Retry-After"] == "60"
        assert await host.current("Patient", str(full[0])) is not None
    await bulk.engine.stop()
    log.close()
    jobs.close()


async def test_an_adapter_that_finds_the_disk_full_is_told_as_that_and_not_as_a_fault(make_house: Any) -> None:
    class Full(MemoryResourceStore):
        async def authorise(self, principal: Principal) -> Any:  # noqa: ARG002
            raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

    async with make_house(store=Full) as house:
        answer = await house.ask("GET", "/$export", headers=KICK_OFF)

        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
        assert "secret" not in answer.text


# --- How long anything is kept -----------------------------------------------------------------------------------------

SECRET = "patient-4711-secret"


@pytest.mark.parametrize("end", ["cancelled", "expired", "failed", "failed and expired"])
async def test_nothing_that_a_client_sent_is_in_the_file_once_its_job_has_ended(
    tmp_path: Path, mint: TokenMint, end: str
) -> None:
    jobs, clock = SQLiteJobStore(tmp_path / "jobs.db"), HandClock()
    resources, outputs, runner = MemoryResourceStore(clock=clock), MemoryOutputStore(), HandRunner()
    await resources.create("Patient", {"resourceType": "Patient", "id": SECRET}, SECRET)
    verifier = JoseTokenVerifier(jwks=mint.jwks, issuer=ISSUER, audience=AUDIENCE, clock=clock)
    bulk = BulkData(resources=resources, verifier=verifier, jobs=jobs, outputs=outputs, runner=runner, clock=clock)
    retention = Retention(jobs, outputs, Settings(), clock, adapter=bulk.registration.adapter)
    scope = f"system/Patient.rs?_id={SECRET} system/Observation.rs"
    async with (
        bulk.running(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="https://ehr.example") as http,
    ):
        http.headers["Authorization"] = f"Bearer {mint.token('alice', scope, now=clock())}"
        query = f"/$export?_typeFilter=Patient%3F_id%3D{SECRET}&x{SECRET}=1&_elements=id"
        made = await http.get(query, headers={**LENIENT, "Idempotency-Key": SECRET})
        assert made.status_code == 202
        location = made.headers["Content-Location"]
        job = await jobs.find(job_of(location), bulk.mount, Owner(ISSUER, "alice"))
        assert job is not None
        if end == "cancelled":
            assert (await http.delete(location)).status_code == 202
        elif end == "expired":
            await runner.finish()
        else:
            clock.advance(Settings().deadline + 1)
        await retention.sweep()
        if end in {"expired", "failed and expired"}:
            clock.advance(Settings().retention + 1)
            await retention.sweep()
        http.headers["Authorization"] = f"Bearer {mint.token('alice', scope, now=clock())}"
        assert (await http.get(location)).status_code == (500 if end == "failed" else 404)
    jobs.close()

    with sqlite3.connect(tmp_path / "jobs.db") as database:
        rows = [*database.execute("SELECT * FROM job"), *database.execute("SELECT * FROM job_rows")]
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    granular = [row for row in rows if any(SECRET in str(value) for value in row)]
    assert len(granular) == (end == "failed")  # by whose rights its owner may hear why it failed, until it expires
    assert "x" + SECRET not in str(rows)
    if end != "failed":
        assert SECRET.encode() not in (tmp_path / "jobs.db").read_bytes()
