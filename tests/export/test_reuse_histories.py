"""Exports that link what did not change, in random histories: each has the files that it would have written (laws 5 and 7).

Two owners export a store through the whole application, again and again and in several shapes. In between, and between the steps
of an export, resources are written and deleted, earlier jobs are cancelled, expire and are swept, workers die after they linked
and before they recorded it, the clock goes forth and back, the store forgets, gets another base URL, and is restored from a
backup. The long mode is `FHIR_BULK_REUSE=10000 pytest tests/export/test_reuse_histories.py`.
"""

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from house import BASE, ISSUER, HandClock, HandRunner, job_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.job import Part
from fhir_bulk_middleware.contract.output_store import Link
from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Query, Window
from fhir_bulk_middleware.instant import Instant, after, parse
from fhir_bulk_middleware.jobs.retention import Retention
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.sqlite import resource_bases, resource_reading, resource_writing
from fhir_bulk_middleware.stores.sqlite.jobs import SQLiteJobStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

EXAMPLES = int(os.environ.get("FHIR_BULK_REUSE", "40"))
TYPES = ("Condition", "Observation", "Patient", "Organization")
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - many small databases, none of which must last
FEW_BITS = 1
SHAPES = (
    "/$export?_type=Condition,Observation,Patient,Organization",
    "/$export?_type=Observation,Patient",
    "/$export?_type=Condition,Observation&_elements=language",
    "/$export?_type=Observation&_typeFilter=Observation%3Fstatus%3Dfinal",
    "/Patient/$export?_type=Condition,Observation,Patient",
)
SMALL = {
    "public_base_url": BASE,
    "page_bytes": 1024,
    "slice_bytes": 1024,
    "part_bytes": 1024,
    "smallest_part_bytes": 100,
    "poll_burst": 10_000,
    "polls_per_second": 10_000,
    "kick_offs_per_minute": 1_000_000,
    "first_poll_wait": 0,
    "context": False,
    "worker_processes": 2,
    "deletion_retention": 9 * 86_400,
}
KEYS = st.tuples(st.sampled_from(TYPES), st.integers(0, 5).map(str))
CHANGES = st.tuples(st.lists(KEYS, min_size=1, max_size=4, unique=True), st.booleans(), st.integers(0, 300))
"""Some resources, written or deleted; what is written is written in one transaction, each with so many more characters."""

Change = tuple[list[tuple[str, str]], bool, int]


class Killed(BaseException):
    """The worker was killed."""


class Deadly(FileOutputStore):
    """An output store whose worker can die when it has linked, or whose source can go just before."""

    die = False
    discard_before: str | None = None
    links = 0

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        if self.discard_before is not None:
            await self.discard(self.discard_before)
            self.discard_before = None
        made = await super().link(links)
        type(self).links += len(made)
        if self.die and made:
            self.die = False
            raise Killed
        return made


class Trusting:
    """Believes every token."""

    async def verify(self, token: str) -> Principal:
        return Principal(owner=Owner(ISSUER, token), scopes=("system/*.rs",), expires_at=Instant(2**62))


@dataclass
class Done:
    """A completed export that was not cancelled yet."""

    owner: str
    location: str
    manifest: dict[str, Any]
    digests: dict[str, str]
    """The hash of each file that was fetched, by URL."""


@dataclass
class World:
    """A store, jobs and files on it, and clients of two owners."""

    folder: Path
    kind: str
    reuse: str
    clock: HandClock = field(default_factory=HandClock)
    serial: int = 0
    bases: tuple[str, ...] = (BASE,)
    done: list[Done] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    """The owner of each job that had files."""
    linked: int = 0
    parts: int = 0

    def __post_init__(self) -> None:
        sqlite = self.kind == "sqlite"
        self.jobs: Any = SQLiteJobStore(self.folder / "jobs.db", blocking=True) if sqlite else MemoryJobStore()
        self.outputs = Deadly(self.folder / "exports", blocking=True)
        self.settings = Settings.model_validate({**SMALL, "reuse": self.reuse})
        self.resources: Any = None
        self.open()

    def open(self) -> None:
        """Open the store anew, and an application on it."""
        if self.kind == "memory":
            self.resources = self.resources or MemoryResourceStore(clock=self.clock, base_urls=self.bases)
        else:
            self.resources = SQLiteResourceStore(self.folder / "store.db", clock=self.clock, base_urls=self.bases)
        self.runner = HandRunner()
        self.bulk = BulkData(
            resources=self.resources,
            verifier=Trusting(),
            jobs=self.jobs,
            outputs=self.outputs,
            runner=self.runner,
            settings=self.settings,
            clock=self.clock,
            deletes=None,
            mount="fhir",
            adapter="clinic",
        )
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.bulk.app), base_url="https://ehr.example/")

    async def begin(self) -> None:
        await self.bulk.engine.start()

    async def close(self) -> None:
        await self.http.aclose()
        await self.bulk.engine.stop()
        if self.kind == "sqlite":
            self.resources.close()

    async def change(self, keys: list[tuple[str, str]], write: bool, size: int) -> None:
        if not write:
            for key in keys:
                await self.resources.delete(*key)
            return
        lines = []
        for type_, id_ in keys:
            self.serial += 1
            content: dict[str, Any] = {
                "resourceType": type_,
                "id": id_,
                "language": str(self.serial),
                "implicitRules": "x" * size,
            }
            if type_ in {"Condition", "Observation"} and size % 3:
                base = "https://former.example/fhir/" if size % 5 == 0 else ""
                content["subject"] = {"reference": f"{base}Patient/{size % 2}"}
            if type_ == "Observation":
                content["status"] = "final" if size % 2 else "preliminary"
            lines.append(json.dumps(content).encode() + b"\n")
        self.resources.load(lines)

    async def ask(self, method: str, url: str, owner: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {owner}", "Prefer": "respond-async", "Accept": "application/fhir+json"}
        parts = urlsplit(url)
        path = parts.path.removeprefix("/fhir") + (f"?{parts.query}" if parts.query else "")
        return await self.http.request(method, path, headers=headers)

    async def export(self, owner: str, shape: str, between: list[Change], end: int | None, *, dies: bool, late: bool) -> None:
        """Export, with changes between the steps; perhaps an earlier job ends in between, and perhaps the worker dies."""
        answer = await self.ask("GET", shape, owner)
        assert answer.status_code == 202, answer.text
        location = answer.headers["Content-Location"]
        self.outputs.die = dies
        if late and self.done:  # its files go between the look-up and the link
            self.outputs.discard_before = job_of(self.done[-1].location)
        for change in between:
            await self.change(*change)
            await self.step()
        if end is not None and self.done and not late:
            await self.cancel(end)
        while await self.step():
            pass
        if late and self.done:
            gone = self.done.pop()
            assert (await self.ask("DELETE", gone.location, gone.owner)).status_code == 202
        self.outputs.discard_before, self.outputs.die = None, False
        polled = await self.ask("GET", location, owner)
        assert polled.status_code == 200, polled.text
        manifest = polled.json()
        parts = await self.sealed(owner, location)
        self.parts += len(parts)
        self.linked += sum(part.source is not None for part in parts)
        await self.judge(owner, shape, manifest, parts)
        self.done.append(Done(owner, location, manifest, await self.digests(owner, manifest)))

    async def step(self) -> bool:
        """One step of a worker; one that dies is found by the next worker, for its lease runs out."""
        try:
            return await self.runner.step()
        except Killed:
            self.clock.advance(self.settings.lease_seconds + 1)
            return True

    async def sealed(self, owner: str, location: str) -> tuple[Part, ...]:
        standing = await self.jobs.standing(job_of(location), self.bulk.mount, Owner(ISSUER, owner))
        assert standing is not None
        return tuple(standing.parts)

    async def judge(self, owner: str, shape: str, manifest: dict[str, Any], parts: tuple[Part, ...]) -> None:
        """The files against the store as it was at the cut, and against the rules of who shares with whom."""
        found: dict[str, list[str]] = {}
        for item in manifest["output"]:
            body = (await self.ask("GET", item["url"], owner)).content
            assert len(body) == item["extension"]["size"]
            assert hashlib.sha256(body).hexdigest() == item["extension"]["sha256"]
            assert body.count(b"\n") == item["count"]
            found.setdefault(item["type"], []).extend(body.decode().splitlines())
        cut = parse(manifest["transactionTime"])
        selection = EveryPatient() if shape.startswith("/Patient") else Everything()
        for type_ in shape.partition("_type=")[2].partition("&")[0].split(","):
            query = Query(type=type_, selection=selection, window=Window(None, cut), as_of=cut)
            lines = [line async for page in self.resources.pages(query, None) for line in page.lines.decode().splitlines()]
            if "_typeFilter" in shape:
                lines = [line for line in lines if json.loads(line).get("status") == "final"]
            got = found.pop(type_, [])
            if "_elements" in shape:
                assert all("SUBSETTED" in line and "implicitRules" not in line for line in got)
                lines, got = ([json.loads(line)["language"] for line in each] for each in (lines, got))
            assert got == lines, f"an export has what the store had at its cut: {type_}"
        assert not found
        for part in parts:
            assert self.owners.setdefault(job_of(part.key), owner) == owner
            if part.source is not None:
                assert self.reuse != "never"
                assert self.reuse == "everybody" or self.owners[job_of(part.source)] == owner, "nothing crosses owners"

    async def digests(self, owner: str, manifest: dict[str, Any]) -> dict[str, str]:
        return {
            item["url"]: hashlib.sha256((await self.ask("GET", item["url"], owner)).content).hexdigest()
            for item in manifest["output"]
        }

    async def still(self) -> None:
        """Every export that was not ended has its files, and they are what they were."""
        for each in self.done:
            assert await self.digests(each.owner, each.manifest) == each.digests

    async def cancel(self, which: int) -> None:
        gone = self.done.pop(which % len(self.done))
        assert (await self.ask("DELETE", gone.location, gone.owner)).status_code == 202
        for url in gone.digests:
            assert (await self.ask("GET", url, gone.owner)).status_code == 404

    async def sweep(self) -> None:
        adapter = self.bulk.registration.adapter
        forgetting = [self.resources]
        await Retention(self.jobs, self.outputs, self.settings, self.clock, forgetting=forgetting, adapter=adapter).sweep()

    async def expire(self) -> None:
        """All jobs reach the end of their retention, also if the clock was set back since."""
        self.clock.now = after(self.clock.now, self.settings.retention + 86_400)
        await self.sweep()
        for each in self.done:
            assert (await self.ask("GET", each.location, each.owner)).status_code == 404
        self.done.clear()

    async def reopen(self, base: str | None = None, *, restored: bool = False) -> None:
        """A new process, perhaps with a further base URL, or on a store that was restored from its backup."""
        await self.close()
        if base is not None:
            self.bases = tuple(dict.fromkeys((*self.bases, base)))
        backup = self.folder / "backup"
        if restored and backup.is_dir():
            for path in self.folder.glob("store.db*"):
                path.unlink()
            for path in backup.iterdir():
                shutil.copy(path, self.folder / path.name)
        self.open()
        await self.begin()

    async def back_up(self) -> None:
        self.resources.close()
        shutil.rmtree(self.folder / "backup", ignore_errors=True)
        (self.folder / "backup").mkdir()
        for path in self.folder.glob("store.db*"):
            shutil.copy(path, self.folder / "backup" / path.name)


class ReuseMachine(RuleBasedStateMachine):
    """Anything may happen, in any order."""

    kind: str
    lived: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory(dir=FOLDER)
        self.world: World | None = None

    @property
    def there(self) -> World:
        assert self.world is not None
        return self.world

    @initialize(reuse=st.sampled_from(["owner", "owner", "everybody", "never"]), first=st.lists(CHANGES, min_size=1, max_size=6))
    def begin(self, reuse: str, first: list[Change]) -> None:
        self.world = World(Path(self._folder.name), self.kind, reuse)
        self._loop.run(self.world.begin())
        for keys, _, size in first:
            self._loop.run(self.world.change(keys, True, size))
        self.step_the_clock(5_000)

    @rule(change=CHANGES)
    def change(self, change: Change) -> None:
        self._loop.run(self.there.change(*change))

    @rule(micros=st.sampled_from([1, 1_000, 400_000, 5_000_000, 3_600_000_000, -1, -1_000, -2_500_000, -3_600_000_000]))
    def step_the_clock(self, micros: int) -> None:
        self.there.clock.now = Instant(self.there.clock.now + micros)

    @rule(
        owner=st.sampled_from(["alice", "alice", "bob"]),
        shape=st.sampled_from([SHAPES[0], SHAPES[0], *SHAPES]),
        between=st.just([]) | st.lists(CHANGES, max_size=3),
        end=st.none() | st.integers(0, 9),
        dies=st.booleans(),
        late=st.booleans(),
    )
    def export(  # noqa: PLR0917 - hypothesis names them
        self, owner: str, shape: str, between: list[Change], end: int | None, dies: bool, late: bool
    ) -> None:
        self._loop.run(self.there.export(owner, shape, between, end, dies=dies, late=late))
        self.lived["exports"] += 1

    @rule(owner=st.sampled_from(["alice", "bob"]), times=st.integers(2, 3))
    def export_again_and_again(self, owner: str, times: int) -> None:
        for _ in range(times):
            self.export(owner, SHAPES[0], [], None, False, False)

    @precondition(lambda self: self.world is not None and self.world.done)
    @rule(which=st.integers(0, 9), sweeps=st.booleans())
    def cancel(self, which: int, sweeps: bool) -> None:
        self._loop.run(self.there.cancel(which))
        if sweeps:
            self._loop.run(self.there.sweep())
        self._loop.run(self.there.still())

    @rule()
    def sweep(self) -> None:
        self._loop.run(self.there.sweep())
        self._loop.run(self.there.still())

    @rule()
    def expire(self) -> None:
        self._loop.run(self.there.expire())

    @precondition(lambda self: self.kind == "sqlite")
    @rule()
    def back_up(self) -> None:
        self._loop.run(self.there.back_up())

    @precondition(lambda self: self.kind == "sqlite")
    @rule(restored=st.booleans(), base=st.sampled_from([None, "https://former.example/fhir"]))
    def reopen(self, restored: bool, base: str | None) -> None:
        self._loop.run(self.there.reopen(base, restored=restored))
        self.lived["restored"] += restored

    def teardown(self) -> None:
        if self.world is not None:
            world = self.world
            self.lived["histories"] += 1
            self._loop.run(world.still())
            while world.done:
                self._loop.run(world.cancel(0))
            self._loop.run(world.sweep())
            left = [path for path in (world.folder / "exports").rglob("*") if path.is_file() and path.name != ".job-store"]
            assert not left, "a file goes with the last job that has it"
            self.lived["parts"] += world.parts
            self.lived["linked"] += world.linked
            self._loop.run(world.close())
        self._loop.close()
        self._folder.cleanup()


@pytest.mark.timeout(0 if EXAMPLES > 1_000 else 1_800)
@pytest.mark.parametrize(
    "kind", ["sqlite", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("memory", "sqlite with small extents"))]
)
def test_an_export_that_links_has_the_files_that_it_would_have_written(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "sqlite with small extents":
        for module in (resource_bases, resource_reading, resource_writing):
            monkeypatch.setattr(module, "BLOCK_BITS", FEW_BITS)
    lived: Counter[str] = Counter()
    machine = type("Machine", (ReuseMachine,), {"kind": kind.partition(" ")[0], "lived": lived})
    profile = settings(max_examples=EXAMPLES, stateful_step_count=15, suppress_health_check=list(HealthCheck), print_blob=True)
    run_state_machine_as_test(machine, settings=profile)
    assert lived["histories"] >= EXAMPLES
    assert lived["linked"] > lived["histories"], "much of it was linked"
    print(f"{kind}: {dict(lived)}")  # noqa: T201 - told with `-s`, for the long mode
