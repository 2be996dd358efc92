"""The output store on real servers of object storage, which check signatures. `.ci/long` runs this."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from object_servers import BUCKET, ObjectServer, fetch

from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.recipes import as_json
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.testing.output_store import OutputStoreSuite

pytest_plugins = ["object_fixtures"]

pytestmark = pytest.mark.long

JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEY = f"{JOB}/0-0.1.ndjson.gz"
OTHER = f"{JOB}/1-0.1.ndjson"
LONG = bytes(range(251)) * 80_000  # 20 MB: three blocks
WITHIN = 60.0


class TestOnS3(OutputStoreSuite):
    @pytest.fixture
    def store(self, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]) -> OutputStore:
        return outputs_on(s3_server)


class TestOnS3ReadBack(OutputStoreSuite):
    @pytest.fixture
    def store(self, s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]) -> OutputStore:
        return outputs_on(s3_server, read_back=True, credentials="object_servers:credentials")


class TestOnAzure(OutputStoreSuite):
    @pytest.fixture
    def store(self, azure_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]) -> OutputStore:
        return outputs_on(azure_server)


@pytest.fixture(params=["s3_server", "azure_server"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    found: ObjectServer = request.getfixturevalue(request.param)
    return found


async def put(store: ObjectOutputStore, key: str, data: bytes) -> None:
    async with store.create(key) as sink:
        for start in range(0, len(data), 100_000):
            await sink.write(data[start : start + 100_000])
        await sink.seal()


async def get(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def unfinished(server: ObjectServer) -> list[str]:
    """The multipart uploads that versitygw keeps, as its folder shows them."""
    return [str(path) for path in (server.folder / BUCKET / ".sgwtmp" / "multipart").glob("*/*") if path.is_dir()]


@pytest.mark.anyio
async def test_a_part_of_several_blocks_reads_back_whole_and_in_ranges(
    server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    store = outputs_on(server)
    await put(store, KEY, LONG)
    assert await get(store.read(KEY, 0, len(LONG))) == LONG
    for start, length in [(8 * 1024 * 1024 - 1, 2), (len(LONG) - 7, 7), (123, 9_000_000)]:
        assert await get(store.read(KEY, start, length)) == LONG[start : start + length]


@pytest.mark.anyio
async def test_a_signed_url_gives_one_object_with_the_right_headers_and_nothing_else(
    server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    """FR-01, FR-05, FR-07."""
    store = outputs_on(server)
    await put(store, KEY, LONG)
    await put(store, OTHER, b"other")
    signed, plain = await store.signed_urls([KEY, OTHER], 300)

    status, headers, body = fetch(signed)
    assert (status, body == LONG) == (200, True)
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/fhir+ndjson", "gzip")
    assert headers["Cache-Control"] == "no-store, no-transform"
    status, headers, body = fetch(plain)
    assert (status, body, "Content-Encoding" in headers) == (200, b"other", False)
    assert fetch(plain, Range="bytes=1-2")[::2] == (206, b"th")

    assert fetch(signed.partition("?")[0])[0] in {401, 403, 404}, "without the signature it is nothing"
    assert fetch(signed.replace(KEY, OTHER))[0] == 403, "the signature is of one object"
    name = "X-Amz-Signature=" if "X-Amz-Signature=" in signed else "sig="
    before, _, after = signed.partition(name)
    assert fetch(f"{before}{name}{'A' if after[0] != 'A' else 'B'}{after[1:]}")[0] == 403


@pytest.mark.anyio
async def test_a_signed_url_ends_with_its_time_and_with_its_object(
    server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    store = outputs_on(server)
    await put(store, KEY, b"x")
    (short,) = await store.signed_urls([KEY], 1)
    ends = time.monotonic() + WITHIN
    while (status := fetch(short)[0]) == 200:
        assert time.monotonic() < ends
    assert status == 403

    (long,) = await store.signed_urls([KEY], 300)
    assert fetch(long)[0] == 200
    await store.discard(JOB)
    assert fetch(long)[0] == 404


async def die_within_an_upload(store: ObjectOutputStore) -> None:
    script = (
        "import json, os, sys, anyio\n"
        "from fhir_bulk_middleware.contract.recipes import from_json, make\n"
        "async def write():\n"
        f"    async with make(from_json(json.loads(sys.argv[1]))).create({KEY!r}) as sink:\n"
        "        for _ in range(40):\n            await sink.write(bytes(1_000_000))\n"
        "        os._exit(9)\n"
        "anyio.run(write)"
    )
    killed = await anyio.run_process([sys.executable, "-c", script, json.dumps(as_json(store.recipe()))], check=False)
    assert killed.returncode == 9


@pytest.mark.anyio
@pytest.mark.parametrize("swept", [False, True], ids=["", "after a sweep that was cut short"])
async def test_the_upload_of_a_killed_worker_is_found_and_aborted(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore], swept: bool
) -> None:
    """A sweep that was killed between its two steps has removed the objects, by which the job is seen, and not the upload."""
    store = outputs_on(s3_server)
    before = set(unfinished(s3_server))
    await die_within_an_upload(store)
    assert len(set(unfinished(s3_server)) - before) == 1
    if swept:
        (note,) = (s3_server.folder / BUCKET).rglob(f"{JOB}/.begun-*")
        note.unlink()
        note.parent.rmdir()

    assert [job async for job in store.jobs()] == [JOB]
    await store.discard(JOB)
    assert set(unfinished(s3_server)) == before
    assert [job async for job in store.jobs()] == []


@pytest.mark.anyio
async def test_discarding_one_job_leaves_the_uploads_of_others(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]
) -> None:
    store = outputs_on(s3_server)
    async with store.create(KEY) as sink:
        for _ in range(20):
            await sink.write(bytes(1_000_000))
        await store.discard("7c9e6679-7425-40de-944b-e07fc1f90ae7")
        await sink.seal()
    assert await get(store.read(KEY, 0, 20_000_000)) == bytes(20_000_000)


@pytest.mark.anyio
async def test_a_bucket_that_is_not_there_and_a_wrong_key_are_told_at_start(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = {"allow_http": True}
    nowhere = ObjectOutputStore("s3://nowhere", config=dict(s3_server.config), client_options=client)
    with pytest.raises(OSError, match="s3://nowhere: there is no such bucket"):
        await nowhere.bind("a" * 32)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(PermissionError, match="refuses the credentials"):
        await outputs_on(s3_server).bind("a" * 32)


@pytest.mark.timeout(600)
def test_processes_that_used_a_store_end_cleanly(s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore]) -> None:
    """Threads of obstore that wait for the interpreter while it ends would abort one process in ten."""
    script = (
        "import json, sys, anyio\n"
        "from fhir_bulk_middleware.contract.recipes import from_json, make\n"
        "async def write():\n"
        "    async with make(from_json(json.loads(sys.argv[1]))).create(sys.argv[2]) as sink:\n"
        "        for _ in range(20):\n            await sink.write(bytes(1_000_000))\n"
        "        await sink.seal()\n"
        "anyio.run(write)"
    )

    recipe = json.dumps(as_json(outputs_on(s3_server).recipe()))

    def status(number: int) -> int:
        key = f"{JOB}/{number}-0.1.ndjson"
        return subprocess.run([sys.executable, "-c", script, recipe, key], check=False, timeout=500).returncode

    with ThreadPoolExecutor(6) as threads:
        assert Counter(threads.map(status, range(48))) == {0: 48}


@pytest.mark.timeout(600)
@pytest.mark.anyio
async def test_memory_is_bounded_whatever_the_size_of_a_part(
    s3_server: ObjectServer, outputs_on: Callable[..., ObjectOutputStore], tmp_path: Path
) -> None:
    """The largest resident size of a process that writes 400 MB is not far from that of one that writes 40 MB."""
    script = (
        "import json, resource, sys, anyio\n"
        "from fhir_bulk_middleware.contract.recipes import from_json, make\n"
        "async def write():\n"
        f"    async with make(from_json(json.loads(sys.argv[1]))).create({KEY!r}) as sink:\n"
        "        for _ in range(int(sys.argv[2])):\n            await sink.write(bytes(1_000_000))\n"
        "        await sink.seal()\n"
        "anyio.run(write)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    recipe: Any = json.dumps(as_json(outputs_on(s3_server).recipe()))
    used = [
        int((await anyio.run_process([sys.executable, "-c", script, recipe, megabytes], cwd=tmp_path)).stdout) // 1024
        for megabytes in ("40", "400")
    ]
    assert used[1] - used[0] < 60, f"{used} MiB"
