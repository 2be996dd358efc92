"""Exports into an object store that fails: 500, 503, silence, cut and damaged uploads. `.ci/long` runs this."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from faulty_proxy import Fault, FaultyProxy, Plan, Request
from house import House
from object_servers import ObjectServer, fetch

from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.objects import ObjectOutputStore

pytest_plugins = ["object_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.long]

JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEY = f"{JOB}/0-0.1.ndjson"
PATIENT = {"renew_seconds": 0.01, "attempts": 60}
EXPORT = "/$export?_type=Patient,Observation"


async def write_much(house: House) -> None:
    """About 36 MB, half of it incompressible, in three files, of which two have several blocks."""
    chance = random.Random(7)  # noqa: S311 - data of a test
    for number in range(2_000):
        code = {"text": chance.randbytes(9_000).hex()}
        one = {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": "Patient/p1"}}
        await house.resources.create("Observation", one, f"o{number}")
    for number in range(3):
        await house.resources.create("Patient", {"resourceType": "Patient"}, f"p{number}")
    house.clock.advance(1)


async def write(store: ObjectOutputStore) -> None:
    async with store.create(KEY) as sink:
        await sink.write(b"x" * 2_000_000)
        await sink.seal()


async def sums(house: House, manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Type, count and SHA-256 of each file of the output, the last as the manifest says and as the lines themselves are."""
    found = []
    for item in manifest["output"]:
        answer = await house.ask("GET", item["url"])
        assert (answer.status_code, answer.text.count("\n")) == (200, item["count"])
        assert all(json.loads(line)["resourceType"] == item["type"] for line in answer.text.splitlines())
        found.append((item["type"], item["count"], item["extension"]["sha256"]))
        assert len(answer.content) == item["extension"]["size"]
    return found


async def expected(make_house: Any) -> list[tuple[str, int, str]]:
    async with make_house(parts={"outputs": MemoryOutputStore()}, **PATIENT) as house:
        await write_much(house)
        return await sums(house, await house.export(EXPORT))


@pytest.mark.parametrize("seed", range(4))
async def test_an_export_into_a_failing_store_has_the_right_bytes(
    make_house: Any, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore], seed: int
) -> None:
    """One request in three fails in one way or another; each file is whole in the end, and nothing else is left."""
    chance = random.Random(seed)  # noqa: S311 - which requests fail
    faults = [Fault.UNAVAILABLE, Fault.ERROR_AFTER, Fault.CUT_UPLOAD, Fault.CUT_ANSWER, Fault.DAMAGE]

    def plan(request: Request) -> Fault | None:
        return chance.choice(faults) if request.number > 6 and chance.random() < 1 / 3 else None

    right, proxy = await expected(make_house), FaultyProxy(s3_server.address)
    async with proxy.running():
        store = outputs_on(s3_server, port=proxy.port, patience=2)
        async with make_house(parts={"outputs": store}, **PATIENT) as house:
            await write_much(house)
            proxy.plan = plan
            manifest = await house.export(EXPORT)
            proxy.plan = lambda _: None
            assert await sums(house, manifest) == right
            assert len(proxy.faults) >= 3, "the store failed"
            await house.bulk.retention.sweep()
            await store.discard(next(iter([job async for job in store.jobs()])))
            assert [job async for job in store.jobs()] == []


async def test_a_store_that_is_away_for_good_fails_the_job_clearly(
    make_house: Any, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        store = outputs_on(s3_server, port=proxy.port, patience=0.1)
        async with make_house(parts={"outputs": store}, renew_seconds=0.01, attempts=3) as house:
            await write_much(house)
            proxy.plan = lambda request: Fault.UNAVAILABLE if request.method != "GET" else None
            location = await house.kick_off(EXPORT)
            await house.runner.finish()
            answer = await house.ask("GET", location)
            assert (answer.status_code, "could not be finished" in answer.text) == (500, True)


async def test_a_download_survives_answers_that_are_cut(
    make_house: Any, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running(), make_house(parts={"outputs": outputs_on(s3_server, port=proxy.port)}, **PATIENT) as house:
        await write_much(house)
        manifest = await house.export(EXPORT)
        right = await sums(house, manifest)
        cuts = iter([Fault.CUT_ANSWER, None, Fault.CUT_ANSWER, Fault.UNAVAILABLE])
        proxy.plan = lambda request: next(cuts, None) if request.method == "GET" else None
        assert await sums(house, manifest) == right
        assert len(proxy.faults) == 3


async def test_a_file_that_the_store_cannot_give_now_is_busy(
    make_house: Any, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        store = outputs_on(s3_server, port=proxy.port, patience=0.2)
        async with make_house(parts={"outputs": store}, **PATIENT) as house:
            await write_much(house)
            item = (await house.export(EXPORT))["output"][0]
            proxy.plan = lambda _: Fault.UNAVAILABLE
            answer = await house.ask("GET", item["url"])
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
            proxy.plan = lambda _: None
            assert (await house.ask("GET", item["url"])).status_code == 200


@pytest.mark.parametrize("name", ["s3_server", "azure_server"])
async def test_a_part_that_was_damaged_on_its_way_is_never_sealed(
    request: pytest.FixtureRequest, outputs_on: Callable[..., ObjectOutputStore], name: str
) -> None:
    """S3 refuses it by its checksum; from Azure it is read back."""
    server: ObjectServer = request.getfixturevalue(name)
    proxy = FaultyProxy(server.address)
    async with proxy.running():
        store = outputs_on(server, port=proxy.port, patience=0.5)
        proxy.plan = lambda seen: Fault.DAMAGE if seen.size > 1_000_000 else None
        with pytest.raises((OSError, Refused)):
            await write(store)
        assert proxy.faults
        proxy.plan = lambda _: None
        with pytest.raises(FileNotFoundError):
            await anext(store.read(KEY, 0, 1))
        await store.discard(JOB)
        assert [job async for job in store.jobs()] == []


@pytest.mark.parametrize(
    ("config", "header", "value"),
    [
        ({"server_side_encryption": "aws:kms", "sse_kms_key_id": "arn"}, "x-amz-server-side-encryption-aws-kms-key-id", "arn"),
        ({}, "x-amz-checksum-sha256", "voiJ07iJPBHSkLjc9oIWTDJqkOaZj2vdsl2aOgLa9mY="),
        ({"checksum_algorithm": None}, "x-amz-checksum-sha256", None),
    ],
)
async def test_the_options_of_encryption_and_checksums_reach_the_store(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore], config: dict[str, Any], header: str, value: str | None
) -> None:
    """With the first request of a part, whose answer does not matter here."""
    seen: list[Request] = []
    proxy = FaultyProxy(s3_server.address)

    def plan(request: Request) -> Fault:
        seen.append(request)
        return Fault.UNAVAILABLE

    async with proxy.running():
        proxy.plan = plan
        with pytest.raises(Refused):
            await write(outputs_on(s3_server, port=proxy.port, config=config, patience=0.1))
    assert (seen[0].method, seen[0].headers.get(header)) == ("PUT", value)


async def test_a_part_of_less_than_a_block_is_one_request(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    """Most gzipped parts are that small; those that are not have a note beside them for as long as they are written."""
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        seen: list[str] = []
        proxy.plan = lambda request: seen.append(request.method)
        store = outputs_on(s3_server, port=proxy.port)
        await write(store)
        assert seen == ["PUT"]
        assert b"".join([chunk async for chunk in store.read(KEY, 0, 3_000_000)]) == b"x" * 2_000_000
        await store.discard(JOB)


async def test_a_silent_store_is_asked_again(s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]) -> None:
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        store = outputs_on(s3_server, port=proxy.port, client_options={"read_timeout": "300ms"}, patience=30)
        silent = iter([True] * 2)
        proxy.plan = lambda _: Fault.SILENCE if next(silent, False) else None
        assert await store.bind("a" * 32)
        assert [fault for fault, _ in proxy.faults] == [Fault.SILENCE] * 2


def hiding(times: int) -> Plan:
    """So many reads find nothing."""
    left = iter(range(times))
    return lambda request: Fault.HIDDEN if request.method == "GET" and next(left, None) is not None else None


async def test_a_store_that_refuses_a_second_binding_before_it_shows_the_first_is_asked_again(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    """Law 32: an S3 server that keeps ETags beside its objects refuses by the ETag, which it writes first."""
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        first, second = outputs_on(s3_server, port=proxy.port), outputs_on(s3_server, port=proxy.port)
        assert await first.bind("a" * 32)
        for name, bound in (("a" * 32, True), ("b" * 32, False)):
            proxy.plan = hiding(3)
            assert await second.bind(name) is bound
        assert [fault for fault, _ in proxy.faults] == [Fault.HIDDEN] * 6

        proxy.plan = hiding(100)
        with pytest.raises(Refused) as refused:
            await second.bind("a" * 32)
        assert (refused.value.reason, bool(refused.value.retry_after)) == (Reason.BUSY, True)


async def test_a_cancel_ends_the_signed_urls_of_its_job(
    make_house: Any, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    """DL-08, FR-05: what the manifest names works without a token until the cancel is answered."""
    async with make_house(parts={"outputs": outputs_on(s3_server)}, signed_url_seconds=300) as house:
        await write_much(house)
        location = await house.kick_off(EXPORT)
        await house.runner.finish()
        manifest = (await house.ask("GET", location)).json()
        urls = [item["url"] for item in manifest["output"]]
        assert manifest["requiresAccessToken"] is False
        assert {fetch(url)[0] for url in urls} == {200}
        assert (await house.ask("DELETE", location)).status_code == 202
        assert {fetch(url)[0] for url in urls} == {404}


async def test_what_another_sweep_has_removed_is_no_failure(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    """Some stores carry out nothing of a deletion of several objects then, so the others are still to be removed."""
    proxy = FaultyProxy(s3_server.address)
    async with proxy.running():
        store = outputs_on(s3_server, port=proxy.port)
        for key in (KEY, KEY.replace("0-0", "1-0")):
            async with store.create(key) as sink:
                await sink.write(b"x\n")
                await sink.seal()
        answers = iter([Fault.ALREADY_GONE])
        proxy.plan = lambda request: next(answers, None) if "?delete" in request.target else None
        await store.discard(JOB)
        assert next(answers, None) is None
        assert [job async for job in store.jobs()] == []
