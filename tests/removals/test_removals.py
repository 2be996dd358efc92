"""A long remove-all that is cancelled, killed or overdue: the audit has all that is gone, and an answer is final (laws 36, 37).

`python tests/removals/removal_rounds.py` plays many more rounds, of 10,000 resources each.
"""

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from house import House
from mortal import Mortal
from removal_rounds import ROUNDS, Round, begun, workers
from waiting import PATIENCE

from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

DELETES_AND_DIES = """
import sys, anyio
from pathlib import Path
from fhir_bulk_middleware import Owner
from fhir_bulk_middleware.delete.outbox_draining import as_note
from fhir_bulk_middleware.contract.events import Deleted, RemovalKind
from mortal import Mortal

owner = Owner("i", "s")
event = Deleted(at=1, mount="m", owner=owner, removal=RemovalKind.BY_ID, type="Observation", references=(), record_id="r")
anyio.run(Mortal(Path(sys.argv[1])).recording(as_note(event)).remove, "Observation", "o7", None, "")
"""


@pytest.mark.parametrize("kind", ROUNDS)
async def test_audit_and_tombstones_agree_and_nothing_is_removed_after_the_answer(
    kind: str, tmp_path: Path, mint: TokenMint
) -> None:
    await ROUNDS[kind](tmp_path, mint, 1_000, random.Random(7))  # noqa: S311 - order, not secrecy


async def test_a_removal_whose_server_was_killed_before_it_told_is_told_by_the_next_sweep(
    tmp_path: Path, mint: TokenMint
) -> None:
    """A single delete: the process dies between the commit and the event."""
    async with begun(tmp_path, mint, 10) as scene:
        (tmp_path / "kill").write_text("1")
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        died = subprocess.run(  # noqa: ASYNC221 - it ends at once
            [sys.executable, "-c", DELETES_AND_DIES, str(tmp_path / "resources.db")],
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        assert died.returncode < 0, "it was killed"
        assert scene.gone() == {"Observation/o7": 1}
        assert not scene.told()
        await scene.house.bulk.retention.sweep()
        scene.balanced(1)


async def test_a_server_tells_at_its_start_what_another_left(tmp_path: Path, mint: TokenMint) -> None:
    async with begun(tmp_path, mint, 300) as scene:
        (tmp_path / "kill").write_text("2")
        with workers(scene, 1) as (victim,):
            victim.wait()
        assert (scene.gone().total(), scene.told().total()) == (200, 100)
        async with another_server(scene) as server, server.bulk.running():
            with anyio.fail_after(PATIENCE):
                while scene.told() != scene.gone():  # noqa: ASYNC110 - it is told in a file
                    await anyio.sleep(0.01)
        scene.balanced(200)


@asynccontextmanager
async def another_server(scene: Round) -> AsyncIterator[House]:
    """A second server on the same files."""
    resources, jobs = Mortal(scene.folder / "resources.db"), SQLiteJobStore(scene.folder / "jobs.db")
    audit = AuditFile(scene.folder / "audit.jsonl")
    parts: dict[str, Any] = {
        "resources": resources,
        "jobs": jobs,
        "outputs": FileOutputStore(scene.folder / "files"),
        "clock": system_clock,
    }
    yield House(scene.house.mint, scene.house.dialect, scene.house.settings, observers=[audit], **parts)
    resources.close()
    jobs.close()
