"""Rounds of a long remove-all that is cancelled, killed, or overtaken by its deadline; with real processes and real files.

After each: what the audit file says was deleted is what the store says was deleted, and nothing was removed after the answer.

`python tests/removals/removal_rounds.py --rounds 20 --size 10000` plays many; it says how many resources were gone by the answer.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

sys.path += [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "support")]

from house import AUDIENCE, BASE, ISSUER, House, job_of
from mortal import Mortal

from fhir_bulk_middleware import Owner
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.contract.recipes import as_json
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.observers.audit_file import AuditFile
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.testing.token_mint import TokenMint

FULL = "system/*.cruds"
JOB = {"x-conditional-delete": "remove-all", "Prefer": "respond-async"}
WORKERS = 2
BATCH = 100
PATIENCE = 120.0

WORKER = """
import anyio, json, sys
from fhir_bulk_middleware.contract.recipes import from_json, make

async def work():
    work = make(from_json(json.loads(sys.argv[1])))
    while await work.step(sys.argv[2]):
        pass

anyio.run(work)
"""


@dataclass
class Round:
    """One remove-all and its surroundings."""

    house: House
    resources: Mortal
    jobs: SQLiteJobStore
    folder: Path
    location: str
    size: int

    def gone(self) -> Counter[str]:
        """What the store says was deleted."""
        rows = self.resources._database.reader.execute("SELECT id FROM resource WHERE deleted = 1").fetchall()
        return Counter(f"Observation/{id_}" for (id_,) in rows)

    def told(self) -> Counter[str]:
        """What the audit file says was deleted; a record that is told twice counts once."""
        path = self.folder / "audit.jsonl"
        found = [_deleted(line) for line in path.read_text().splitlines()] if path.exists() else []
        records = {record["record_id"]: record["references"] for record in found if record is not None}
        return Counter(reference for references in records.values() for reference in references)

    async def job(self) -> Job:
        job = await self.jobs.find(job_of(self.location), self.house.bulk.mount, Owner(ISSUER, "alice"))
        assert job is not None
        return job

    def balanced(self, answered: int | None = None) -> None:
        """Audit equals tombstones; and both are what the answer said."""
        gone = self.gone()
        assert self.told() == gone, f"{gone.total()} are gone, the audit tells of {self.told().total()}"
        assert answered is None or gone.total() == answered, f"{gone.total()} are gone, the answer said {answered}"


def _deleted(line: str) -> dict[str, list[str]] | None:
    record = json.loads(line)
    content = record.get("event") if isinstance(record.get("event"), dict) else record
    return content if content.get("event") == "deleted" else None


@asynccontextmanager
async def begun(folder: Path, mint: TokenMint, size: int) -> AsyncIterator[Round]:
    """A server, and a remove-all of as many resources that it has accepted."""
    resources = Mortal(folder / "resources.db")
    line = b'{"resourceType":"Observation","id":"o%d","status":"final","code":{"text":"x"}}'
    resources.load((line % number for number in range(size)), batch=size)
    jobs = SQLiteJobStore(folder / "jobs.db")
    house = House(
        mint,
        STANDARD,
        Settings(public_base_url=BASE, removal_batch=BATCH, removals_at_most_async=size, lease_seconds=2, renew_seconds=0.5),
        resources=resources,
        jobs=jobs,
        outputs=FileOutputStore(folder / "files"),
        clock=system_clock,
        observers=[AuditFile(folder / "audit.jsonl")],
    )
    async with house.bulk.running(), house.http:
        accepted = await house.ask("DELETE", "/Observation?status=final", scope=FULL, headers=JOB)
        assert accepted.status_code == 202, accepted.text
        yield Round(house, resources, jobs, folder, accepted.headers["Content-Location"], size)
    resources.close()
    jobs.close()


@contextmanager
def workers(scene: Round, count: int = WORKERS) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes at work; they end when there is no more of it."""
    assert scene.house.runner.work is not None
    recipe = scene.house.runner.work.recipe()
    assert recipe is not None
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    several = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(as_json(recipe)), f"w{number}"], env={**os.environ, "PYTHONPATH": here}
        )
        for number in range(count)
    ]
    try:
        yield several
    finally:
        for worker in several:
            worker.kill()
            worker.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - it is another process's doing
            await anyio.sleep(0.005)


async def ended(several: list[subprocess.Popen[bytes]]) -> None:
    async def all_ended() -> bool:
        return all(worker.poll() is not None for worker in several)

    await until(all_ended)


def tally(text: str) -> int:
    found = re.search(r"(\d+) resources were deleted, 0 were left alone\.", text)
    assert found, text
    return int(found[1])


async def cancelled(folder: Path, mint: TokenMint, size: int, chance: random.Random) -> int:
    """Cancel it while two processes remove; how many were gone by then."""
    async with begun(folder, mint, size) as scene:
        with workers(scene) as several:
            some = chance.uniform(0, 0.8) * size

            async def some_are_gone() -> bool:
                return (await scene.job()).done > some

            await until(some_are_gone)
            answer = await scene.house.ask("DELETE", scene.location, scope=FULL)
            assert answer.status_code == 202, answer.text
            removed = tally(answer.text)
            scene.balanced(removed)
            await ended(several)
        await scene.house.bulk.retention.sweep()
        scene.balanced(removed)
        again = await scene.house.ask("DELETE", scene.location, scope=FULL)
        assert (again.status_code, tally(again.text)) == (404, removed)
        return removed


async def killed(folder: Path, mint: TokenMint, size: int, chance: random.Random) -> int:
    """Kill a worker between the commit of a batch and its event, then cancel, so that nobody does the batch again."""
    async with begun(folder, mint, size) as scene:
        (folder / "kill").write_text(str(chance.randint(1, size // BATCH)))
        with workers(scene, 1) as several:
            await ended(several)
            assert several[0].returncode < 0, "the worker was killed"
        before = scene.gone()
        assert scene.told() != before, "the worker died before it told"
        answer = await scene.house.ask("DELETE", scene.location, scope=FULL)
        removed = tally(answer.text)
        scene.balanced(removed)
        await scene.house.bulk.retention.sweep()
        scene.balanced(removed)
        return removed


async def overdue(folder: Path, mint: TokenMint, size: int, chance: random.Random) -> int:
    """Let a sweep find that its deadline has passed while two processes remove, which know nothing of that deadline."""
    async with begun(folder, mint, size) as scene:
        with workers(scene) as several:
            some = chance.uniform(0, 0.8) * size

            async def some_are_gone() -> bool:
                return (await scene.job()).done > some

            await until(some_are_gone)
            settings = scene.house.settings.model_copy(update={"deadline": 0.001})
            work = scene.house.runner.work
            assert isinstance(work, JobWork)
            outputs, adapter = FileOutputStore(folder / "files"), work.adapter
            await Retention(scene.jobs, outputs, settings, effects=work.effects, adapter=adapter).sweep()
            answer = await scene.house.ask("GET", scene.location, scope=FULL)
            assert answer.status_code == 500, answer.text
            removed = tally(answer.text)
            scene.balanced(removed)
            await ended(several)
        await scene.house.bulk.retention.sweep()
        scene.balanced(removed)
        return removed


ROUNDS = {"cancel": cancelled, "kill": killed, "deadline": overdue}


def main() -> int:
    parser = argparse.ArgumentParser(prog="removal_rounds")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind")
    parser.add_argument("--size", type=int, default=10_000, help="resources in a remove-all")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    mint, chance = TokenMint(ISSUER, AUDIENCE), random.Random(given.seed)  # noqa: S311 - order, not secrecy
    wrong = 0
    for kind, play in ROUNDS.items():
        begun, removed = time.monotonic(), []
        for number in range(given.rounds):
            folder = Path(tempfile.mkdtemp(prefix="fhir-bulk-removals-"))
            try:
                removed.append(anyio.run(play, folder, mint, given.size, chance))
            except AssertionError as error:
                wrong += 1
                sys.stdout.write(f"{kind} {number}: {error}\n")
            shutil.rmtree(folder)
        sys.stdout.write(f"{kind}: {given.rounds} rounds in {time.monotonic() - begun:.0f} s, removed by then {removed}\n")
        sys.stdout.flush()
    sys.stdout.write(f"rounds in which audit, tombstones and answer disagree: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
