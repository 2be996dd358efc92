"""Kill a worker in the middle of a long remove-all: it is resumed, and each resource is told exactly once (law 26).

`FHIR_BULK_REMOVE_ALL=50000 pytest tests/delete/test_crash.py` is the long mode.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from house import ISSUER, job_of
from waiting import PATIENCE

from fhir_bulk_middleware import Owner
from fhir_bulk_middleware.contract.recipes import as_json
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytestmark = pytest.mark.anyio

FULL = "system/*.cruds"
JOB = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}
MANY = int(os.environ.get("FHIR_BULK_REMOVE_ALL", "10000"))

WORKER = """
import anyio, json, sys
from fhir_bulk_middleware.contract.recipes import from_json, make

async def work():
    work = make(from_json(json.loads(sys.argv[1])))
    while await work.step("victim"):
        pass

anyio.run(work)
"""


async def killed_half_way(recipe: str, jobs: SQLiteJobStore, job_id: str, mount: str) -> int:
    """Start a worker and kill it once it is well under way; how many resources it had counted."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER, recipe])  # noqa: ASYNC220 - it must be killed, not awaited
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            job = await jobs.find(job_id, mount, Owner(ISSUER, "alice"))
            assert job is not None
            if job.done > MANY // 5:
                os.kill(worker.pid, signal.SIGKILL)
                break
            assert worker.poll() is None, "the worker ended before it was killed"
    finally:
        worker.kill()
        worker.wait()
    job = await jobs.find(job_id, mount, Owner(ISSUER, "alice"))
    assert job is not None
    return job.done


async def test_a_killed_remove_all_is_resumed_and_told_exactly(tmp_path: Path, make_house: Any) -> None:
    resources, jobs = SQLiteResourceStore(tmp_path / "resources.db"), SQLiteJobStore(tmp_path / "jobs.db")
    line = b'{"resourceType":"Observation","id":"o%d","status":"%s","code":{"text":"x"}}'
    resources.load((line % (number, b"final") for number in range(MANY)), batch=MANY)
    resources.load(line % (number, b"amended") for number in range(MANY, MANY + 10))
    parts = {"resources": resources, "jobs": jobs, "outputs": FileOutputStore(tmp_path / "files"), "clock": system_clock}
    async with make_house(parts=parts, removal_batch=500, lease_seconds=6) as house:
        accepted = await house.ask("DELETE", "/Observation?status=final", scope=FULL, headers=JOB)
        assert accepted.status_code == 202, accepted.text
        location = accepted.headers["Content-Location"]
        assert house.runner.work is not None
        recipe = house.runner.work.recipe()
        assert recipe is not None

        counted = await killed_half_way(json.dumps(as_json(recipe)), jobs, job_of(location), house.bulk.mount)
        removed_by_then = MANY + 10 - await living(resources)
        await house.runner.work.abandoned("victim")
        await house.runner.finish()

        assert MANY // 5 < counted < MANY
        assert counted <= removed_by_then <= counted + 500, "at most one batch was removed and not yet counted"
        assert await living(resources) == 10
        bundle = (await house.ask("GET", location, scope=FULL)).json()
        told = Counter(entry["fullUrl"].rsplit("/", 1)[1] for entry in bundle["entry"])
        assert told == Counter(f"o{number}" for number in range(MANY)), "each is told once"
        assert {entry["response"]["status"] for entry in bundle["entry"]} == {"204"}
        assert not any("outcome" in entry["response"] for entry in bundle["entry"]), "each was removed by this job"

        manifest = await house.export("/$export?_type=Observation&_since=2000-01-01T00:00:00Z")
        gone = Counter(
            json.loads(bundle)["entry"][0]["request"]["url"] for bundle in (await house.lines(manifest, "deleted"))["Bundle"]
        )
        assert gone == Counter(f"Observation/o{number}" for number in range(MANY)), "each is in `deleted` once"
        assert len((await house.lines(manifest))["Observation"]) == 10
    resources.close()
    jobs.close()


async def living(store: SQLiteResourceStore) -> int:
    return len((await store.search("Observation", ids=None, count=2 * MANY, after=None)).resources)
