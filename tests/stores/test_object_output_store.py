"""The output store in object storage, on the stores that need no server: memory and a folder. `tests/objects` has the others."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.contract.recipes import make
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.objects import ObjectOutputStore
from fhir_bulk_middleware.testing.output_store import OutputStoreSuite

JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEY = f"{JOB}/0-0.1.ndjson"
NOWHERE = {"endpoint": "http://127.0.0.1:1", "access_key_id": "k", "region": "us-east-1"}


class TestObjectOutputStoreInMemory(OutputStoreSuite):
    @pytest.fixture
    def store(self) -> OutputStore:
        return ObjectOutputStore("memory:///")


class TestObjectOutputStoreInAFolder(OutputStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> OutputStore:
        return ObjectOutputStore(f"file://{tmp_path}/exports")


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"secret_access_key": "s"}},
        {"config": {"aws_session_token": "s"}},
        {"config": {"azure_storage_account_key": "s"}},
        {"config": {"sse_customer_key_base64": "s"}},
        {"config": {"google_service_account_key": "{}"}},
        {"client_options": {"default_headers": {"Authorization": "Bearer s"}}},
    ],
)
def test_a_secret_among_the_options_is_refused_because_they_become_json(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="environment"):
        ObjectOutputStore("s3://exports", **options)


def test_names_of_keys_and_files_with_secrets_are_no_secrets(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "access_key_id": "k",
        "sse_kms_key_id": "arn",
        "sse_bucket_key_enabled": True,
        "service_account_path": str(tmp_path),
    }
    assert json.dumps(dict(ObjectOutputStore("s3://exports", config=config).recipe().arguments))


@pytest.mark.parametrize(
    "url", ["https://key:secret@host/bucket", "s3://bucket/?token=1", "ftp://host/folder", "https://ehr.example/x"]
)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"the URL of an object store has no user|write s3://"):
        ObjectOutputStore(url)


def test_the_memory_of_one_process_is_not_for_workers() -> None:
    with pytest.raises(ValueError, match="use MemoryOutputStore"):
        ObjectOutputStore("memory:///").recipe()


def test_a_folder_cannot_sign_urls_and_a_bucket_can_unless_its_clients_keep_the_key() -> None:
    assert not ObjectOutputStore("file:///exports").signs()
    assert ObjectOutputStore("s3://exports").signs()
    assert not ObjectOutputStore("s3://exports", config={"server_side_encryption": "sse-c"}).signs()


@pytest.mark.anyio
async def test_a_worker_process_opens_the_same_place(tmp_path: Path) -> None:
    store = ObjectOutputStore(f"file://{tmp_path}/exports")
    async with store.create(KEY) as sink:
        await sink.write(b"line\n")
        await sink.seal()

    script = (
        "import json, sys, anyio\n"
        "from fhir_bulk_middleware.contract.recipes import from_json, make\n"
        "store = make(from_json(json.loads(sys.argv[1])))\n"
        f"async def read():\n    print(b''.join([chunk async for chunk in store.read({KEY!r}, 0, 99)]).decode(), end='')\n"
        "anyio.run(read)"
    )
    recipe = {"factory": store.recipe().factory, "arguments": dict(store.recipe().arguments)}
    read = await anyio.run_process([sys.executable, "-c", script, json.dumps(recipe)], stderr=None)
    assert read.stdout == b"line\n"


@pytest.mark.anyio
async def test_a_store_that_cannot_be_reached_is_busy_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = ObjectOutputStore("s3://exports", config=NOWHERE, client_options={"allow_http": True}, patience=0.2)

    async def read() -> None:
        async for _ in store.read(KEY, 0, 1):
            pass

    async def write() -> None:
        async with store.create(KEY) as sink:
            await sink.seal()

    async def list_jobs() -> None:
        async for _ in store.jobs():
            pass

    for act in (read, write, list_jobs, lambda: store.discard(JOB), lambda: store.bind("a" * 32)):
        with pytest.raises(Refused) as refused:
            await act()
        assert (refused.value.reason, bool(refused.value.retry_after)) == (Reason.BUSY, True)
        assert "127.0.0.1" not in refused.value.detail
    assert caplog.text.count("the object store cannot answer while") == 5
    assert "error sending request" in caplog.text


@pytest.mark.anyio
async def test_what_a_killed_writer_left_in_a_folder_is_listed_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    script = (
        "import sys, os, anyio\n"
        "from fhir_bulk_middleware.stores.objects import ObjectOutputStore\n"
        "async def write():\n"
        f"    async with ObjectOutputStore(sys.argv[1]).create({KEY!r}) as sink:\n"
        "        await sink.write(bytes(20_000_000))\n"
        "        os._exit(9)\n"
        "anyio.run(write)"
    )
    killed = await anyio.run_process([sys.executable, "-c", script, f"file://{folder}"], check=False)
    assert killed.returncode == 9
    assert [path for path in (folder / JOB).iterdir() if "#" in path.name]

    store = ObjectOutputStore(f"file://{folder}")
    assert [job async for job in store.jobs()] == [JOB]
    await store.discard(JOB)
    assert [job async for job in store.jobs()] == []
    assert not (folder / JOB).exists()


def test_an_object_store_that_was_used_before_a_fork_says_so_and_does_not_hang(tmp_path: Path) -> None:
    script = (
        "import os, sys, anyio\n"
        "from fhir_bulk_middleware.stores.objects import ObjectOutputStore\n"
        "store = ObjectOutputStore(sys.argv[1])\n"
        "async def bind(): return await store.bind('a' * 32)\n"
        "assert anyio.run(bind)\n"
        "if os.fork() == 0:\n"
        "    try:\n        anyio.run(bind)\n"
        "    except RuntimeError as error:\n        os.write(1, str(error).encode())\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    ran = subprocess.run([sys.executable, "-c", script, f"file://{tmp_path}"], capture_output=True, timeout=60, check=True)
    assert b"use it after the fork" in ran.stdout


def test_a_store_that_was_only_made_before_a_fork_works_after_it(tmp_path: Path) -> None:
    script = (
        "import os, sys, anyio\n"
        "from fhir_bulk_middleware.stores.objects import ObjectOutputStore\n"
        "store = ObjectOutputStore(sys.argv[1])\n"
        "async def bind(): return await store.bind('a' * 32)\n"
        "if os.fork() == 0:\n"
        "    os._exit(0 if anyio.run(bind) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    subprocess.run([sys.executable, "-c", script, f"file://{tmp_path}"], timeout=60, check=True)


def test_the_recipe_makes_an_equal_store() -> None:
    store = ObjectOutputStore("s3://exports/a", config={"region": "eu-central-1"}, read_back=True)
    again = make(store.recipe())
    assert isinstance(again, ObjectOutputStore)
    assert again.recipe() == store.recipe()
