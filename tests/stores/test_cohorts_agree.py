"""Memory, SQLite and PostgreSQL answer about cohorts and context what a naive reading of the history gives.

Random histories: resources are created, changed, moved between patients and to none, deleted and created again; then every
window between two cuts is asked for (laws 34, 40).
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from house import HandClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.query import (
    Compartments,
    Deletions,
    EveryPatient,
    Everything,
    NoPatient,
    Page,
    ProvenanceTarget,
    Query,
    Selection,
    Window,
)
from fhir_bulk_middleware.instant import Instant, Precision, after
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore
Key = tuple[str, str]

HISTORIES_IN_POSTGRES = int(os.environ.get("FHIR_BULK_POSTGRES_COHORTS", "6"))
BASE = "https://ehr.example/fhir"
TYPES = ("Encounter", "Observation", "Organization")
SELECTIONS: tuple[Selection, ...] = (
    Everything(),
    EveryPatient(),
    NoPatient(),
    Compartments(frozenset({"Patient/0", "Patient/2"})),
    Compartments(frozenset({"Practitioner/0"})),
    Compartments(frozenset()),
)
NAMEABLE = ("Organization/0", "Organization/1", "Location/0", "Observation/0", "Practitioner/0")
SPELLINGS = ("{}", f"{BASE}/{{}}", "{}/_history/1", "https://other.example/{}", "{}?name=x")


@dataclass(frozen=True)
class Put:
    """A version of a resource, of these subjects, which names these resources."""

    key: Key
    subjects: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Delete:
    key: Key


@dataclass(frozen=True)
class Cut:
    pass


KEYS = st.tuples(st.sampled_from(TYPES), st.sampled_from("01"))
SUBJECTS = st.sampled_from(
    [("Patient/0",), ("Patient/1",), ("Patient/2", "Patient/1"), ("Location/0",), ("Patient/1", "Practitioner/0")]
)
NAMES = st.lists(st.builds(str.format, st.sampled_from(SPELLINGS), st.sampled_from(NAMEABLE)), max_size=2).map(tuple)
PROVENANCE = st.builds(
    Put,
    st.tuples(st.just("Provenance"), st.sampled_from("012")),
    st.just(()),
    st.lists(st.builds("/".join, KEYS), min_size=1, max_size=2).map(tuple),
)
CHANGES = st.builds(Put, KEYS, SUBJECTS, NAMES) | PROVENANCE | st.builds(Delete, KEYS) | st.builds(Cut)


def resource(change: Put) -> dict[str, Any]:
    type_, id_ = change.key
    content: dict[str, Any] = {"resourceType": type_, "id": id_}
    if type_ == "Provenance":
        return content | {"target": [{"reference": name} for name in change.names]}
    first, *others = change.subjects
    content["subject"] = {"reference": first}
    if type_ == "Observation":
        content["performer"] = [{"reference": other} for other in others]
    named = [{"url": "urn:x", "valueReference": {"reference": name}} for name in change.names]
    return content | {"contained": [{"resourceType": "Basic", "id": "b", "extension": named}]}


@dataclass
class Model:
    """What was written, version by version, and what follows from it by the words of the protocols."""

    versions: list[tuple[Instant, Key, Put | None]] = field(default_factory=list)

    def at(self, key: Key, instant: Instant) -> tuple[Instant, Put | None]:
        found = [(at, put) for at, of, put in self.versions if of == key and at <= instant]
        return found[-1] if found else (Instant(0), None)

    def of(self, type_: str) -> list[Key]:
        return sorted({key for _, key, _ in self.versions if key[0] == type_})

    def lies(self, put: Put | None, selection: Selection) -> bool:
        if put is None:
            return False
        if put.key[0] == "Organization":
            owners: set[str] = set()
        else:
            subjects = put.subjects if put.key[0] == "Observation" else put.subjects[:1]
            owners = {subject for subject in subjects if subject.startswith(("Patient", "Practitioner"))}
        patients = {owner for owner in owners if owner.startswith("Patient/")}
        match selection:
            case Compartments(references):
                return not owners.isdisjoint(references)
            case EveryPatient():
                return bool(patients)
            case NoPatient():
                return not patients
            case Everything():
                return True

    def pages(self, query: Query, as_of: Instant) -> set[str]:
        found = {key: self.at(key, as_of) for key in self.of(query.type)}
        since, until = query.window.since or 0, query.window.until or as_of
        return {key[1] for key, (at, put) in found.items() if since < at <= until and self.lies(put, query.selection)}

    def left(self, query: Query, since: Instant, as_of: Instant) -> set[str]:
        found = set()
        for key in self.of(query.type):
            at, now = self.at(key, as_of)
            _, then = self.at(key, since)
            if since < at and self.lies(then, query.selection) and now is not None and not self.lies(now, query.selection):
                found.add("/".join(key))
        return found

    def deletions(self, query: Query, since: Instant, as_of: Instant) -> set[str]:
        found = set()
        for key in self.of(query.type):
            at, now = self.at(key, as_of)
            lived = [self.at(key, since)[1], *(put for then, of, put in self.versions if of == key and since < then < at)]
            if now is None and since < at and any(self.lies(put, query.selection) for put in lived):
                found.add("/".join(key))
        return found

    def naming(self, queries: Sequence[Query], reference: str, as_of: Instant) -> set[str]:
        spelled = {reference, f"{BASE}/{reference}", f"{reference}/_history/1"}
        found = set()
        for query in queries:
            for key in self.of(query.type):
                put = self.at(key, as_of)[1]
                named = set() if put is None else {*put.names, put.subjects[0]}
                if put is not None and put.key[0] == "Observation":
                    named |= {*put.subjects}
                if self.lies(put, query.selection) and named & spelled:
                    found.add("/".join(key))
        return found

    def entered(self, query: Query, since: Instant, as_of: Instant) -> set[str]:
        changed = self.pages(query, as_of)
        return {id_ for id_ in changed if not self.lies(self.at((query.type, id_), since)[1], query.selection)}

    def provenance(self, targets: set[str], as_of: Instant, *, latest: bool) -> set[str]:
        found = {key: self.at(key, as_of) for key in self.of("Provenance")}
        about = {
            key[1]: (at, targets.intersection(put.names)) for key, (at, put) in found.items() if put and targets & set(put.names)
        }
        newest = {
            target: max(at for at, named in about.values() if target in named) for _, few in about.values() for target in few
        }
        return {id_ for id_, (at, named) in about.items() if not latest or any(newest[target] == at for target in named)}


async def ids(pages: AsyncIterator[Page]) -> list[str]:
    lines = [line async for page in pages for line in page.lines.splitlines()]
    found = [f"{content['resourceType']}/{content['id']}" for content in map(json.loads, lines)]
    assert len(found) == len(set(found)), "no resource comes twice"
    return found


async def told(pages: AsyncIterator[Deletions]) -> list[str]:
    found = [reference async for page in pages for reference in page.references]
    assert len(found) == len(set(found)), "no reference comes twice"
    return found


async def names(store: Store, queries: Sequence[Query], reference: str) -> set[str]:
    """What names a reference: an adapter may also give lines that do not."""
    found: list[str] = []
    async for page in store.naming(queries, reference):
        contents = [json.loads(line) for line in page.lines.splitlines()]
        assert len({content["resourceType"] for content in contents}) == 1, "the lines of a page are of one type"
        found += [f"{content['resourceType']}/{content['id']}" for content in contents]
    assert len(found) == len(set(found)), "no resource comes twice"
    return set(found)


def query(type_: str, selection: Selection, since: Instant | None, as_of: Instant) -> Query:
    return Query(type=type_, selection=selection, window=Window(since), as_of=as_of, page_bytes=300)


async def agree(model: Model, store: Store, since: Instant, as_of: Instant) -> None:
    """Each answer is that of the model."""
    for selection in SELECTIONS:
        for type_ in TYPES:
            asked = query(type_, selection, since, as_of)
            found = await ids(store.pages(asked, None))
            assert set(found) == {f"{type_}/{id_}" for id_ in model.pages(asked, as_of)}
            assert set(await told(store.left(asked, None))) == model.left(asked, since, as_of)
            assert set(await told(store.deletions(asked, None))) == model.deletions(asked, since, as_of)
            if isinstance(selection, Everything | NoPatient):
                whole = query(type_, selection, None, since)
                expected = [f"{type_}/{id_}" for id_ in sorted(model.pages(whole, since))]
                assert await ids(store.named(whole, ["0", "1", "2"])) == expected
            targets = {f"{type_}/{id_}" for id_ in model.entered(asked, since, as_of)}
            older = Query(type="Provenance", selection=selection, window=Window(), as_of=as_of, page_bytes=1)
            for latest in (False, True):
                pages = store.provenance(older, [ProvenanceTarget(asked, entered=True)], None, latest=latest)
                found = await ids(pages)
                assert set(found) == {f"Provenance/{id_}" for id_ in model.provenance(targets, as_of, latest=latest)}
        for reference in NAMEABLE:
            for instant in (since, as_of):
                queries = [query(type_, selection, None, instant) for type_ in TYPES]
                assert await names(store, queries, reference) == model.naming(queries, reference, instant)


async def live(changes: Sequence[Put | Delete | Cut], store: Store, clock: HandClock) -> None:
    model, cuts = Model(), [await store.cut(Precision.MICROSECONDS)]
    for change in [*changes, Cut()]:
        clock.now = after(clock.now, 0.001)
        match change:
            case Put(key):
                written = (await store.update(*key, resource(change))).last_updated
                model.versions.append((written, key, change))
            case Delete(key):
                if await store.delete(*key):
                    model.versions.append((clock.now, key, None))
            case Cut():
                cuts.append(await store.cut(Precision.MICROSECONDS))
    for since, as_of in combinations(cuts, 2):
        await agree(model, store, since, as_of)
    if not isinstance(store, MemoryResourceStore):
        store.close()


HISTORIES = st.lists(CHANGES, min_size=1, max_size=12)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES)
def test_both_stores_say_what_their_history_says(changes: list[Put | Delete | Cut]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = HandClock()
        asyncio.run(live(changes, MemoryResourceStore(clock=clock, base_urls=[BASE]), clock))
        sqlite = SQLiteResourceStore(Path(folder, "resources.db"), clock=clock, base_urls=[BASE])
        asyncio.run(live(changes, sqlite, clock))


@settings(max_examples=HISTORIES_IN_POSTGRES, deadline=None, suppress_health_check=[*HealthCheck])
@given(changes=HISTORIES)
def test_postgresql_says_what_its_history_says(empty_postgres: EmptyStores, changes: list[Put | Delete | Cut]) -> None:
    clock = HandClock()
    asyncio.run(live(changes, empty_postgres.store(clock, base_urls=[BASE], blocking=True), clock))
