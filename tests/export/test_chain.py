"""The chain law through the whole application: exports chained by what clients are shown lose nothing, double nothing (law 3).

Each store lives through creates, updates, deletes and re-creates, transactions of equal instants, and a clock that is stepped
forth and back; resources move from patient to patient, and patients join a group and leave it; types are first written at any
time. Exports run in every dialect, of everything and of the group, by `_since` and `_until`, with writers between their steps.
The client knows nothing but manifests and files. The long mode is
`FHIR_BULK_CHAIN=10000 pytest tests/export/test_chain.py -k chained`.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from house import BASE, ISSUER, HandClock, HandRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from postgres_resources import EmptyStores

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.dialects import DIALECTS, SOARIAN, STANDARD, STU2, Dialect
from fhir_bulk_middleware.instant import Instant, Precision, parse, render
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore
Key = tuple[str, str]

EXAMPLES = int(os.environ.get("FHIR_BULK_CHAIN", "60"))
EXAMPLES_IN_POSTGRES = int(os.environ.get("FHIR_BULK_POSTGRES_CHAIN", "8"))
TYPES = ("Observation", "Patient", "Condition")
GROUP = ("Group", "g")
SMALL = Settings(
    public_base_url=BASE,
    page_bytes=1024,
    slice_bytes=1024,
    part_bytes=1024,
    poll_burst=10_000,
    kick_offs_per_minute=1_000_000,
    older_data_of_new_members=True,
)
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - many small databases, none of which must last
CHAINABLE = sorted(name for name, dialect in DIALECTS.items() if dialect.manifest.deleted)
COHORTS = sorted(name for name in CHAINABLE if Level.GROUP in DIALECTS[name].kick_off)
KEYS = st.tuples(st.sampled_from(TYPES), st.sampled_from("012")) | st.just(GROUP)
CHANGES = st.tuples(st.lists(KEYS, min_size=1, max_size=4).map(tuple), st.booleans(), st.integers(0, 7))
"""Some resources, written or deleted; what is written is written in one transaction. The number says whose it is: of one patient,
and for the group, which patients are its members."""

Change = tuple[tuple[Key, ...], bool, int]


class Trusting:
    """Believes every token, for signatures would take most of the time here."""

    async def verify(self, token: str) -> Principal:
        return Principal(owner=Owner(ISSUER, token), scopes=("system/*.rs",), expires_at=Instant(2**62))


@dataclass
class World:
    """A store, what happened to it by its own account, and the application on it."""

    store: Store
    clock: HandClock
    log: list[tuple[Instant, Key, str | None]] = field(default_factory=list)
    serial: int = 0
    owners: dict[str, frozenset[str]] = field(default_factory=dict)
    """The patients whose a version is, by its text."""
    mounts: dict[str, tuple[httpx2.AsyncClient, HandRunner, BulkData]] = field(default_factory=dict)

    async def mount(self, dialect: Dialect) -> tuple[httpx2.AsyncClient, HandRunner]:
        """The application as a dialect speaks it; made when it is first needed."""
        if dialect.name not in self.mounts:
            runner = HandRunner()
            bulk = BulkData(
                resources=self.store,
                verifier=Trusting(),
                jobs=MemoryJobStore(),
                outputs=MemoryOutputStore(),
                runner=runner,
                settings=SMALL,
                dialect=dialect,
                clock=self.clock,
                deletes=None,
            )
            await bulk.engine.start()
            client = httpx2.AsyncClient(transport=httpx2.ASGITransport(bulk.app), base_url="https://ehr.example/")
            self.mounts[dialect.name] = client, runner, bulk
        client, runner, _ = self.mounts[dialect.name]
        return client, runner

    async def close(self) -> None:
        for client, _, bulk in self.mounts.values():
            await client.aclose()
            await bulk.engine.stop()
        if not isinstance(self.store, MemoryResourceStore):
            self.store.close()

    async def write(self, keys: tuple[Key, ...], whose: int) -> None:
        """One transaction: all of it has one instant."""
        lines = {}
        for type_, id_ in keys:
            self.serial += 1
            content: dict[str, Any] = {"resourceType": type_, "id": id_, "language": str(self.serial)}
            patients = {f"Patient/{id_}"} if type_ == "Patient" else {f"Patient/{whose % 3}"}
            if (type_, id_) == GROUP:
                patients = {f"Patient/{number}" for number in range(3) if whose >> number & 1}
                content["member"] = [{"entity": {"reference": patient}} for patient in sorted(patients)]
            elif type_ != "Patient":
                content["subject"] = {"reference": min(patients)}
            self.owners[str(self.serial)] = frozenset(patients)
            lines[type_, id_] = str(self.serial), json.dumps(content).encode() + b"\n"
        self.store.load([line for _, line in lines.values()])
        for (type_, id_), (text, _) in lines.items():
            stored = await self.store.read(type_, id_)
            assert stored is not None
            self.log.append((stored.last_updated, (type_, id_), text))

    async def delete(self, keys: tuple[Key, ...]) -> None:
        for key in keys:
            if key != GROUP and await self.store.delete(*key) is not None:
                stored = await self.store.read(*key)
                assert stored is not None
                self.log.append((stored.last_updated, key, None))

    async def change(self, keys: tuple[Key, ...], write: bool, whose: int) -> None:
        await (self.write(keys, whose) if write else self.delete(keys))

    def members(self, instant: Instant) -> frozenset[str]:
        """Who was in the group at an instant."""
        _, text = self.newest(instant).get(GROUP, (None, None))
        return frozenset() if text is None else self.owners[text]

    def whose_since(self, key: Key, since: Instant, cut: Instant) -> frozenset[str]:
        """Whose a resource was at any time since an instant, that instant included."""
        history = sorted(entry for entry in self.log if entry[1] == key and entry[0] <= cut)
        ends = [at for at, _, _ in history[1:]] + [Instant(2**62)]
        lived = [text for (_, _, text), end in zip(history, ends, strict=True) if text is not None and end > since]
        return frozenset[str]().union(*(self.owners[text] for text in lived))

    def newest(self, cut: Instant) -> dict[Key, tuple[Instant, str | None]]:
        """The newest version of each resource as of a cut."""
        return {key: (at, text) for at, key, text in sorted(self.log, key=lambda entry: entry[0]) if at <= cut}


@dataclass
class Chain:
    """A client that takes one export after another, in one dialect."""

    world: World
    dialect: Dialect
    since: str | None = None
    mirror: dict[Key, str] = field(default_factory=dict)
    exports: int = 0
    members: frozenset[str] = frozenset()
    """Who is in the group when the export is planned."""

    @property
    def level(self) -> Level:
        """What is exported: as much as the dialect can."""
        return next(level for level in Level if level in self.dialect.kick_off)

    @property
    def takes_until(self) -> bool:
        """Whether an export can end before its cut, which is asked of chains that have begun."""
        return "_until" in self.dialect.parameters and self.since is not None and self.level is not Level.GROUP

    async def export(self, until: str | None, between: list[Change]) -> None:
        """Export, with changes between its steps, and apply it."""
        client, runner = await self.world.mount(self.dialect)
        headers = {
            "Authorization": "Bearer alice",
            "Prefer": "respond-async",
            "Accept": "application/fhir+json",
        }
        given = {"_since": self.since, "_until": until}
        sent = {name: value for name, value in given.items() if value is not None}
        level = self.level
        path = {Level.SYSTEM: "/$export", Level.PATIENT: "/Patient/$export", Level.GROUP: "/Group/g/$export"}[level]
        method = self.dialect.kick_off[level][0]
        query = "&".join(f"{name}={quote(value)}" for name, value in sent.items())
        types = "&".join(f"_type={type_}" for type_ in (*TYPES, "Group"))  # to plan all others would take most of the time
        answer = await client.request(method, f"{path}?{types}&{query}" if query else f"{path}?{types}", headers=headers)
        assert answer.status_code == 202, answer.text
        location = _path(answer.headers["Content-Location"])
        for place, change in enumerate(between):
            await self.world.change(*change)
            if not place:
                self.members = self.world.members(Instant(2**62))
            await runner.step()
        if not between:
            self.members = self.world.members(Instant(2**62))
        await runner.finish()
        manifest = (await client.get(location, headers=headers)).json()
        output = await self._output(client, headers, manifest)
        gone = await self._deleted(client, headers, manifest)
        self.judge(manifest["transactionTime"], until, output, gone)

    async def _output(self, client: httpx2.AsyncClient, headers: dict[str, str], manifest: dict[str, Any]) -> dict[Key, str]:
        output: dict[Key, str] = {}
        for item in manifest["output"]:
            for content in map(json.loads, (await client.get(_path(item["url"]), headers=headers)).text.splitlines()):
                key = (content["resourceType"], content["id"])
                assert key not in output, "a resource is in an export once"
                output[key] = content["language"]
        return output

    async def _deleted(self, client: httpx2.AsyncClient, headers: dict[str, str], manifest: dict[str, Any]) -> set[Key]:
        gone: list[Key] = []
        for item in manifest.get("deleted", []):
            for bundle in map(json.loads, (await client.get(_path(item["url"]), headers=headers)).text.splitlines()):
                gone += [tuple(entry["request"]["url"].split("/")) for entry in bundle["entry"]]
        assert len(gone) == len(set(gone)), "a deletion is in an export once"
        return set(gone)

    def judge(self, shown: str, until: str | None, output: dict[Key, str], gone: set[Key]) -> None:
        """What the client got, by what the store's own account says it should have got."""
        self.exports += 1
        cut = parse(shown)
        since = None if self.since is None else parse(self.since)
        bound = cut if until is None else min(cut, parse(until))
        newest = self.world.newest(cut)
        if self.level is Level.PATIENT:  # in no patient's compartment as long as it has no members
            newest.pop(GROUP, None)
            output.pop(GROUP, None)
        within = {key: text for key, (at, text) in newest.items() if (since is None or at > since) and at <= bound}
        lives = {key: text for key, text in within.items() if text is not None}
        assert output == lives, "the output is the net change that lives"
        assert output.keys().isdisjoint(gone), "no resource is in both lists"
        if since is not None:
            assert gone == {key for key, text in within.items() if text is None}, "the deletions are the net change that does not"
        self.mirror.update(output)
        for key in gone:
            self.mirror.pop(key, None)
        if bound == cut:
            held = {key: text for key, (_, text) in newest.items() if text is not None}
            assert self.mirror == held, "applying each export in turn gives the store at the cut"
        self.since = until if until is not None and parse(until) < cut else shown


@dataclass
class Cohort(Chain):
    """A client that mirrors a group. What lives and has left the group, or its members, is not told to it (law 34)."""

    @property
    def level(self) -> Level:
        return Level.GROUP

    def judge(self, shown: str, until: str | None, output: dict[Key, str], gone: set[Key]) -> None:
        assert until is None
        self.exports += 1
        cut = parse(shown)
        since = Instant(0) if self.since is None else parse(self.since)
        world = self.world
        members = self.members | world.members(cut)
        joined = frozenset[str]() if self.since is None else members - world.members(since)
        newest = world.newest(cut)
        held = {key: (at, text) for key, (at, text) in newest.items() if text is not None}
        of_members = {key: text for key, (_, text) in held.items() if world.owners[text] & members}
        wanted = {key: text for key, text in of_members.items() if held[key][0] > since or world.owners[text] & joined}
        assert output == wanted, "what changed since is in the output if it is a member's, and all that joiners have"
        if self.since is not None:
            dead = {key for key, (at, text) in newest.items() if text is None and at > since}
            whose = {key for key in dead if world.whose_since(key, since, cut) & members}
            assert gone == whose, "deletions are told to each whose the resource was since"
        self.mirror.update(output)
        for key in gone:
            self.mirror.pop(key, None)
        assert {key: self.mirror.get(key) for key in of_members} == of_members, "the mirror has all that members have"
        self.since = shown


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path.removeprefix("/fhir") + (f"?{parts.query}" if parts.query else "")


class ChainMachine(RuleBasedStateMachine):
    """Anything may happen, in any order."""

    make: Callable[[Path, HandClock], Store]
    lived: Counter[str]
    """How many histories there were, and how many exports in them."""

    def __init__(self) -> None:
        super().__init__()
        self.lived["histories"] += 1
        self._loop = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory(dir=FOLDER)
        self.clock = HandClock()
        self.world = World(type(self).make(Path(self._folder.name), self.clock), self.clock)
        self.chains: list[Chain] = []

    @initialize(
        names=st.lists(st.sampled_from(CHAINABLE), min_size=1, max_size=2, unique=True),
        cohort=st.sampled_from(COHORTS),
        whose=st.integers(0, 7),
    )
    def clients(self, names: list[str], cohort: str, whose: int) -> None:
        self._loop.run(self.world.write((GROUP,), whose))
        self.chains = [*(Chain(self.world, DIALECTS[name]) for name in names), Cohort(self.world, DIALECTS[cohort])]

    @rule(change=CHANGES)
    def change(self, change: Change) -> None:
        self._loop.run(self.world.change(*change))

    @rule(
        key=st.tuples(st.sampled_from(["Observation", "Condition"]), st.sampled_from("012")),
        whose=st.permutations(range(3)),
        deleted=st.booleans(),
    )
    def move(self, key: Key, whose: list[int], deleted: bool) -> None:
        """From one patient to another; and perhaps it is deleted there (law 34)."""
        for patient in whose[:2]:
            self._loop.run(self.world.write((key,), patient))
        if deleted:
            self._loop.run(self.world.delete((key,)))

    @rule(micros=st.sampled_from([1, 999, 1_000, 400_000, 1_000_000, 3_600_000_000, -1, -1_000, -2_500_000, -3_600_000_000]))
    def step_the_clock(self, micros: int) -> None:
        self.clock.now = Instant(self.clock.now + micros)

    @precondition(lambda self: self.chains)
    @rule(which=st.integers(0, 2), between=st.lists(CHANGES, max_size=3))
    def export(self, which: int, between: list[Change]) -> None:
        self._loop.run(self.chains[which % len(self.chains)].export(None, between))

    @precondition(lambda self: any(chain.takes_until for chain in self.chains))
    @rule(which=st.integers(0, 1), ahead=st.sampled_from([1, 1_000, 400_000, 5_000_000]), between=st.lists(CHANGES, max_size=2))
    def export_until(self, which: int, ahead: int, between: list[Change]) -> None:
        able = [chain for chain in self.chains if chain.takes_until]
        chain = able[which % len(able)]
        assert chain.since is not None
        until = render(Instant(parse(chain.since) + ahead), Precision.MICROSECONDS)
        self._loop.run(chain.export(until, between))

    def teardown(self) -> None:
        for chain in self.chains:
            self._loop.run(chain.export(None, []))
            self.lived["exports"] += chain.exports
        self._loop.run(self.world.close())
        self._loop.close()
        self._folder.cleanup()


STORES: dict[str, Callable[[Path, HandClock], Store]] = {
    "memory": lambda _, clock: MemoryResourceStore(clock=clock),
    "sqlite": lambda folder, clock: SQLiteResourceStore(folder / "store.db", clock=clock),
}


@pytest.mark.timeout(0 if EXAMPLES > 1_000 else 900)
@pytest.mark.parametrize("store", [pytest.param(store, marks=pytest.mark.long if store == "memory" else ()) for store in STORES])
def test_chained_exports_give_the_store_at_each_cut(store: str) -> None:
    live(store, STORES[store], EXAMPLES)


@pytest.mark.timeout(0 if EXAMPLES > 1_000 else 900)
def test_chained_exports_from_postgresql_give_the_store_at_each_cut(empty_postgres: EmptyStores) -> None:
    live("postgres", lambda _, clock: empty_postgres.store(clock, blocking=True), EXAMPLES_IN_POSTGRES)


def live(store: str, make: Callable[[Path, HandClock], Store], examples: int) -> None:
    """Live through so many histories."""
    lived: Counter[str] = Counter()
    machine = type("Machine", (ChainMachine,), {"make": staticmethod(make), "lived": lived})
    profile = settings(max_examples=examples, stateful_step_count=15, suppress_health_check=list(HealthCheck), print_blob=True)
    run_state_machine_as_test(machine, settings=profile)
    assert lived["histories"] >= examples
    assert lived["exports"] > lived["histories"]
    print(f"{store}: {dict(lived)}")  # noqa: T201 - told with `-s`, for the long mode


# --- Writers in processes of their own ---

_WRITER = """
import asyncio, json, random, sys
from pathlib import Path
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

async def main(path, who):
    store, chance = SQLiteResourceStore(Path(path)), random.Random(who)
    for serial in range(150):
        id_ = f"{who}-{chance.randrange(12)}"
        if chance.random() < 0.3:
            if await store.delete("Patient", id_) is None:
                continue
            text = None
        else:
            text = f"{who}.{serial}"
            await store.update("Patient", id_, {"resourceType": "Patient", "id": id_, "language": text})
        stored = await store.read("Patient", id_)
        print(json.dumps([stored.last_updated, id_, text]), flush=True)
    store.close()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@dataclass
class Recording(Chain):
    """A client whose exports are judged later, when it is known what all the writers did."""

    taken: list[tuple[str, dict[Key, str], set[Key]]] = field(default_factory=list)

    def judge(self, shown: str, until: str | None, output: dict[Key, str], gone: set[Key]) -> None:
        assert until is None
        self.taken.append((shown, output, gone))
        self.since = shown


@pytest.mark.anyio
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dialect", [STANDARD, SOARIAN, STU2], ids=lambda dialect: dialect.name)
async def test_writers_in_other_processes_lose_nothing_between_two_exports(tmp_path: Path, dialect: Dialect) -> None:
    path = tmp_path / "store.db"
    store = SQLiteResourceStore(path)
    await store.update("Patient", "first", {"resourceType": "Patient", "id": "first", "language": "0"})
    first = await store.read("Patient", "first")
    assert first is not None
    clock = HandClock()
    world = World(store, clock, [(first.last_updated, ("Patient", "first"), "0")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    writers = [
        subprocess.Popen(  # noqa: ASYNC220 - one that does not block is not waited for either
            [sys.executable, "-c", _WRITER, str(path), str(who)], stdout=subprocess.PIPE, env=environment
        )
        for who in range(2)
    ]
    exporting = Recording(world, dialect)
    while any(writer.poll() is None for writer in writers):
        clock.now = await store.now()
        await exporting.export(None, [])
    clock.now = await store.now()
    await exporting.export(None, [])
    for writer in writers:
        assert writer.stdout is not None
        for line in writer.stdout:
            at, id_, text = json.loads(line)
            world.log.append((Instant(at), ("Patient", id_), text))
        writer.stdout.close()
        assert writer.returncode == 0
    assert len(exporting.taken) > 3
    later = Chain(world, dialect)
    for shown, output, gone in exporting.taken:
        later.judge(shown, None, output, gone)
    await world.close()
