"""Chains of exports of a group with context, judged by a naive account of what belongs (laws 34, 40, 41).

Resources name each other, move between patients and to nobody, are deleted and created again; patients join and leave. A client
mirrors the group by `_since`. The account of the test knows the whole history; it finds the cohort and its context by walking all
resources. The long mode is `FHIR_BULK_COHORTS=10000 pytest tests/export/test_cohort_histories.py`.
"""

import asyncio
import json
import os
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
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from postgres_resources import EmptyStores

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore
Key = tuple[str, str]
References = dict[str, list[str]]

EXAMPLES = int(os.environ.get("FHIR_BULK_COHORTS", "25"))
EXAMPLES_IN_POSTGRES = int(os.environ.get("FHIR_BULK_POSTGRES_COHORTS", "8"))
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - many small databases, none of which must last
SMALL = Settings(
    public_base_url=BASE,
    page_bytes=1024,
    slice_bytes=1024,
    part_bytes=1024,
    poll_burst=10_000,
    kick_offs_per_minute=1_000_000,
    older_data_of_new_members=True,
)
GROUP = ("Group", "g")
LINKS: dict[str, dict[str, tuple[str, ...]]] = {
    "Patient": {"link.other": ("Patient",), "generalPractitioner": ("Practitioner", "Organization")},
    "Observation": {
        "subject": ("Patient", "Location"),
        "performer": ("Practitioner", "Organization"),
        "encounter": ("Encounter",),
    },
    "Encounter": {"subject": ("Patient",), "serviceProvider": ("Organization",), "location.location": ("Location",)},
    "Device": {"patient": ("Patient",), "owner": ("Organization",)},
    "List": {"subject": ("Patient", "Location"), "entry.item": ("Patient", "Observation", "Practitioner")},
    "Provenance": {"target": ("Observation", "Encounter", "Practitioner"), "agent.who": ("Practitioner", "Organization")},
    "Practitioner": {},
    "Organization": {"partOf": ("Organization",)},
    "Location": {"managingOrganization": ("Organization",)},
}
"""What each type may name, by the element."""
OWNING = {
    "Patient": {"link.other"},
    "Observation": {"subject"},
    "Encounter": {"subject"},
    "Device": {"patient"},
    "List": {"subject"},
}
"""The elements by which a resource lies in the compartment of a patient."""
LISTS = {"link.other", "generalPractitioner", "performer", "location.location", "entry.item", "target", "agent.who"}
IDS = {"Patient": "012", "Observation": "01", "Encounter": "01", "Practitioner": "01", "Organization": "01"}
KEYS = [(type_, id_) for type_ in LINKS for id_ in IDS.get(type_, "0")]


def naming(type_: str) -> st.SearchStrategy[References]:
    """What a resource of a type names by each element, and mostly names something."""
    elements: dict[str, st.SearchStrategy[list[str]]] = {}
    for element, targets in LINKS[type_].items():
        known = [f"{target}/{each}" for target in targets for each in IDS.get(target, "0")]
        some = st.lists(st.sampled_from(known), min_size=1, max_size=2 if element in LISTS else 1, unique=True)
        elements[element] = some | some | some | st.just([])
    return st.fixed_dictionaries(elements).map(lambda named: {element: some for element, some in named.items() if some})


CONTENTS = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), naming(key[0])))
"""A resource, and what it names."""


class Trusting:
    """Believes every token, for signatures would take most of the time here."""

    async def verify(self, token: str) -> Principal:
        return Principal(owner=Owner(ISSUER, token), scopes=("system/*.rs",), expires_at=Instant(2**62))


def resource(key: Key, named: References, serial: int) -> dict[str, Any]:
    """A resource that names what it should; its language tells the version."""
    content: dict[str, Any] = {"resourceType": key[0], "id": key[1], "language": str(serial)}
    for element, references in named.items():
        outer, _, inner = element.partition(".")
        values: list[Any] = [{"reference": reference} for reference in references]
        if inner:
            values = [{inner: value} for value in values]
        content[outer] = values if element in LISTS or element == "member.entity" else values[0]
    return content


@dataclass(frozen=True)
class Version:
    """A version of a resource; None for what it names if it is a deletion."""

    at: Instant
    serial: int
    named: References | None

    @property
    def references(self) -> set[str]:
        return {reference for references in (self.named or {}).values() for reference in references}


@dataclass
class Account:
    """What happened, by the store's instants; and what belongs to an export, found by walking everything."""

    history: dict[Key, list[Version]] = field(default_factory=dict)

    def at(self, instant: Instant) -> dict[Key, Version]:
        """All resources that live at an instant."""
        newest = {key: [each for each in versions if each.at <= instant][-1:] for key, versions in self.history.items()}
        return {key: version for key, (version,) in ((k, v) for k, v in newest.items() if v) if version.named is not None}

    def members(self, instant: Instant) -> frozenset[str]:
        group = self.at(instant).get(GROUP)
        return frozenset() if group is None else frozenset(group.references)

    @staticmethod
    def owners(key: Key, version: Version) -> set[str]:
        own = {f"Patient/{key[1]}"} if key[0] == "Patient" else set()
        if key == GROUP:
            return version.references
        named = version.named or {}
        return own | {
            reference
            for element in OWNING.get(key[0], ())
            for reference in named.get(element, ())
            if reference.startswith("Patient/")
        }

    def selected(self, instant: Instant, members: frozenset[str]) -> set[Key]:
        """What lies in the compartments of the members."""
        return {key for key, version in self.at(instant).items() if self.owners(key, version) & members}

    def cohort(self, instant: Instant, members: frozenset[str]) -> dict[Key, Version]:
        """What a full export holds because it is the members'."""
        living, found = self.at(instant), {}
        selected = self.selected(instant, members)
        for key in selected:
            version, name = living[key], f"{key[0]}/{key[1]}"
            if key[0] == "Patient" and name not in members:
                continue
            if key[0] == "List" and not self.shared(version, members):
                continue
            found[key] = version
        names = {f"{type_}/{id_}" for type_, id_ in selected}
        provenance = ((key, version) for key, version in living.items() if key[0] == "Provenance")
        found |= {key: version for key, version in provenance if names & set((version.named or {}).get("target", ()))}
        return found

    @staticmethod
    def shared(version: Version, members: frozenset[str]) -> bool:
        """Whether a List is about a member and names no patient who is not."""
        patients = {reference for reference in version.references if reference.startswith("Patient/")}
        return (version.named or {}).get("subject", [""])[0] in members and patients <= members

    def context(self, instant: Instant, members: frozenset[str], named: set[str]) -> dict[Key, Version]:
        """What references lead to, without leaving what may be context."""
        living, found, waiting = self.at(instant), dict[Key, Version](), sorted(named)
        while waiting:
            type_, _, id_ = waiting.pop().partition("/")
            key = type_, id_
            version = living.get(key)
            if version is None or key in found or type_ in {"Patient", "Provenance", "Group", "List"}:
                continue
            patients = {reference for reference in version.references if reference.startswith("Patient/")}
            if self.owners(key, version) or not patients <= members:
                continue
            found[key] = version
            waiting += sorted(version.references)
        return found

    def whole(self, instant: Instant, members: frozenset[str]) -> dict[Key, Version]:
        """What a full export holds."""
        cohort = self.cohort(instant, members)
        named = {reference for version in cohort.values() for reference in version.references}
        return {**self.context(instant, members, named), **cohort}

    def lay_in_since(self, key: Key, since: Instant, cut: Instant, members: frozenset[str]) -> bool:
        """Whether a resource lay in a member's compartment at any time since an instant."""
        versions = [each for each in self.history[key] if each.at <= cut]
        ends = [each.at for each in versions[1:]] + [Instant(2**62)]
        return any(
            version.named is not None and end > since and end > version.at and self.owners(key, version) & members
            for version, end in zip(versions, ends, strict=True)
        )


@dataclass
class Mirror:
    """A client that mirrors the group by one export after another."""

    store: Store
    clock: HandClock
    account: Account = field(default_factory=Account)
    serial: int = 0
    since: str | None = None
    held: dict[Key, int] = field(default_factory=dict)
    exports: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """How often exports had what is rare, so that a run shows what it has tried."""

    async def start(self) -> None:
        self.runner = HandRunner()
        self.bulk = BulkData(
            resources=self.store,
            verifier=Trusting(),
            jobs=MemoryJobStore(),
            outputs=MemoryOutputStore(),
            runner=self.runner,
            settings=SMALL,
            clock=self.clock,
            deletes=None,
        )
        await self.bulk.engine.start()
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.bulk.app), base_url="https://ehr.example/")

    async def close(self) -> None:
        await self.client.aclose()
        await self.bulk.engine.stop()
        if not isinstance(self.store, MemoryResourceStore):
            self.store.close()

    async def put(self, key: Key, named: References) -> None:
        self.serial += 1
        stored = await self.store.update(*key, resource(key, named, self.serial))
        self.account.history.setdefault(key, []).append(Version(stored.last_updated, self.serial, named))

    async def delete(self, key: Key) -> None:
        if await self.store.delete(*key) is not None:
            stored = await self.store.read(*key)
            assert stored is not None
            self.account.history[key].append(Version(stored.last_updated, 0, None))

    async def export(self) -> None:
        headers = {"Authorization": "Bearer alice", "Prefer": "respond-async", "Accept": "application/fhir+json"}
        types = "&".join(f"_type={type_}" for type_ in (*LINKS, "Group"))
        since = "" if self.since is None else f"&_since={quote(self.since)}"
        answer = await self.client.get(f"/Group/g/$export?{types}{since}", headers=headers)
        assert answer.status_code == 202, answer.text
        await self.runner.finish()
        manifest = (await self.client.get(_path(answer.headers["Content-Location"]), headers=headers)).json()
        output: dict[Key, int] = {}
        for content in await self.lines(headers, manifest["output"]):
            key = content["resourceType"], content["id"]
            assert key not in output, f"{key} is in an export once"
            output[key] = int(content["language"])
        gone = await self.dropped(headers, manifest["deleted"] if self.since else [])
        left = await self.dropped(headers, manifest["extension"]["left"] if self.since else [])
        self.judge(manifest["transactionTime"], output, gone, left)
        self.exports += 1

    async def lines(self, headers: dict[str, str], files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [(await self.client.get(_path(item["url"]), headers=headers)).text.splitlines() for item in files]
        return [json.loads(line) for lines in found for line in lines]

    async def dropped(self, headers: dict[str, str], files: list[dict[str, Any]]) -> set[Key]:
        bundles = await self.lines(headers, files)
        urls = [entry["request"]["url"] for bundle in bundles for entry in bundle["entry"]]
        assert len(urls) == len(set(urls)), "what is dropped is told once"
        return {(url.partition("/")[0], url.partition("/")[2]) for url in urls}

    def judge(self, shown: str, output: dict[Key, int], gone: set[Key], left: set[Key]) -> None:
        account, cut = self.account, parse(shown)
        since = None if self.since is None else parse(self.since)
        members = account.members(cut) | account.members(Instant(2**62))
        whole = account.whole(cut, members)
        assert output == {key: whole[key].serial for key in self.expected(cut, since, members)}, "what comes is what is new"
        assert not output.keys() & (gone | left), "nothing comes and is dropped at once"
        assert not gone & left
        living = account.at(cut)
        if since is not None:
            before = account.whole(since, members)
            ended = {key for key, versions in account.history.items() if key not in living and versions[-1].at > since}
            dead = {key for key in ended if key in before or account.lay_in_since(key, since, cut, members)}
            must = {key for key in dead if key in before}
            may = {key for key in dead if key[0] != "Patient" or f"Patient/{key[1]}" in members}
            assert must <= gone <= may, "deletions are told to those who had the resource"
            lost = {key for key in before.keys() - whole.keys() if key in living}
            untold = {key for key in lost if living[key].at <= since and key[0] != "Provenance"}
            assert not any(account.owners(key, living[key]) for key in untold), "context that nobody names any more is not told"
            moved = lost - untold
            unnamed = account.context(cut, members, {f"{type_}/{id_}" for type_, id_ in moved}).keys()
            assert moved - unnamed - {GROUP} <= left <= moved, "what lives and has left is told to those who had it"
            cohort, former = account.cohort(cut, members), account.cohort(since, members)
            self.seen["moved away"] += bool(left & former.keys())
            self.seen["former context of a stranger"] += bool(left - former.keys())
            self.seen["deleted context"] += bool(gone - former.keys() & before.keys())
            self.seen["late Provenance"] += any(
                key[0] == "Provenance" and cohort[key].at <= since for key in output.keys() & cohort
            )
            context = output.keys() - cohort.keys()
            self.seen["context"] += bool(context)
            self.seen["old context, newly named"] += any(whole[key].at <= since for key in context)
            named = {reference for key in output.keys() & cohort.keys() for reference in whole[key].references}
            self.seen["changed context of unchanged lines"] += bool(context - account.context(cut, members, named).keys())
        self.held.update(output)
        for key in gone | left:
            self.held.pop(key, None)
        assert {key: self.held.get(key) for key in whole} == {key: version.serial for key, version in whole.items()}, (
            "the mirror has all that a full export has, at its version"
        )
        self.since = shown

    def expected(self, cut: Instant, since: Instant | None, members: frozenset[str]) -> set[Key]:
        """What an export since an instant holds."""
        account = self.account
        whole, cohort = account.whole(cut, members), account.cohort(cut, members)
        if since is None:
            return set(whole)
        joined = members - account.members(since)
        selected, before = account.selected(cut, members), account.selected(since, members - joined)
        entered = {key for key in selected - before if account.at(cut)[key].at > since}
        found = set()
        for key, version in cohort.items():
            targets = {_key(reference) for reference in (version.named or {}).get("target", ())}
            late = key[0] == "Provenance" and (targets & entered or any(self._owned(target, cut) & joined for target in targets))
            older = bool(account.owners(key, version) & joined) and key[0] != "Provenance"
            if key[0] == "List":
                older = not account.shared(version, members - joined)
            if version.at > since or older or late:
                found.add(key)
        named = {reference for key in found for reference in whole[key].references}
        named |= {f"{key[0]}/{key[1]}" for key in whole.keys() - cohort.keys() if whole[key].at > since}
        return found | account.context(cut, members, named).keys()

    def _owned(self, key: Key, cut: Instant) -> set[str]:
        version = self.account.at(cut).get(key)
        return set() if version is None else self.account.owners(key, version)


def _key(reference: str) -> Key:
    type_, _, id_ = reference.partition("/")
    return type_, id_


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path.removeprefix("/fhir") + (f"?{parts.query}" if parts.query else "")


class CohortMachine(RuleBasedStateMachine):
    """Anything may happen, in any order."""

    make: Callable[[Path, HandClock], Store]
    lived: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.lived["histories"] += 1
        self._loop = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory(dir=FOLDER)
        clock = HandClock()
        self.mirror = Mirror(type(self).make(Path(self._folder.name), clock), clock)
        self._loop.run(self.mirror.start())

    @initialize(whose=st.integers(1, 6), world=st.fixed_dictionaries({key: naming(key[0]) for key in KEYS}))
    def begin(self, whose: int, world: dict[Key, References]) -> None:
        for key, named in world.items():
            self._loop.run(self.mirror.put(key, named))
        self.join(whose)
        self.export()

    @rule(whose=st.integers(0, 7))
    def join(self, whose: int) -> None:
        members = [f"Patient/{number}" for number in range(3) if whose >> number & 1]
        self.mirror.clock.advance(1)
        self._loop.run(self.mirror.put(GROUP, {"member.entity": members}))

    @rule(some=st.lists(CONTENTS, min_size=1, max_size=4))
    def write(self, some: list[tuple[Key, References]]) -> None:
        for key, named in some:
            self.mirror.clock.advance(0.01)
            self._loop.run(self.mirror.put(key, named))

    @rule(
        key=st.sampled_from(["0", "1"]).map(lambda id_: ("Encounter", id_)),
        owners=st.permutations(["", *(f"Patient/{n}" for n in "012")]),
    )
    def move(self, key: Key, owners: list[str]) -> None:
        """From one patient, or from nobody, to another; the client sees both."""
        for owner in owners[:2]:
            self._loop.run(self.mirror.put(key, {"subject": [owner]} if owner else {}))
            self.export()

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=2))
    def delete(self, keys: list[Key]) -> None:
        for key in keys:
            self.mirror.clock.advance(0.01)
            self._loop.run(self.mirror.delete(key))

    @rule()
    def export(self) -> None:
        self.mirror.clock.advance(1)
        self._loop.run(self.mirror.export())

    def teardown(self) -> None:
        try:
            if self.mirror.exports:  # an example that is given up while its world is drawn has nothing to export
                self.export()
                self.export()
        finally:
            self.lived["exports"] += self.mirror.exports
            self.lived.update(self.mirror.seen)
            self._loop.run(self.mirror.close())
            self._loop.close()
            self._folder.cleanup()


STORES: dict[str, Callable[[Path, HandClock], Store]] = {
    "memory": lambda _, clock: MemoryResourceStore(clock=clock),
    "sqlite": lambda folder, clock: SQLiteResourceStore(folder / "store.db", clock=clock),
}


@pytest.mark.timeout(0 if EXAMPLES > 1_000 else 300)
@pytest.mark.parametrize("store", [pytest.param(store, marks=pytest.mark.long if store == "memory" else ()) for store in STORES])
def test_a_mirror_of_a_group_has_what_a_full_export_has(store: str) -> None:
    live(store, STORES[store], EXAMPLES)


@pytest.mark.timeout(0 if EXAMPLES > 1_000 else 300)
def test_a_mirror_of_a_group_in_postgresql_has_what_a_full_export_has(empty_postgres: EmptyStores) -> None:
    live("postgres", lambda _, clock: empty_postgres.store(clock, blocking=True), EXAMPLES_IN_POSTGRES)


def live(store: str, make: Callable[[Path, HandClock], Store], examples: int) -> None:
    """Live through so many histories."""
    lived: Counter[str] = Counter()
    machine = type("Machine", (CohortMachine,), {"make": staticmethod(make), "lived": lived})
    profile = settings(
        max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    run_state_machine_as_test(machine, settings=profile)
    assert lived["histories"] >= examples
    assert lived["exports"] > lived["histories"]
    assert examples < 100 or not (rare := {name for name, count in lived.items() if not count}), f"never tried: {rare}"
    print(f"{store}: {dict(lived)}")  # noqa: T201 - told with `-s`, for the long mode
