"""The chain law (law 3): exports that follow each other by `_since` give the store at each cut, whatever the clock does.

Memory and SQLite live through the same histories by the same clock, and must export the same bytes; PostgreSQL lives through
others.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest
from house import HandClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_resources import EmptyStores

from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Query, Selection, Window
from fhir_bulk_middleware.instant import Instant, Precision, parse
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

pytest_plugins = ["postgres_fixtures"]

Store = MemoryResourceStore | SQLiteResourceStore | PostgresResourceStore
Key = tuple[str, str]

HISTORIES_IN_POSTGRES = int(os.environ.get("FHIR_BULK_POSTGRES_CHAIN", "15"))

NOON = parse("2024-05-06T12:00:00.000000Z")
TYPES = ("Observation", "Patient")
SELECTIONS: tuple[Selection, ...] = (Everything(), EveryPatient(), Compartments(frozenset({"Patient/0", "Patient/2"})))


@dataclass(frozen=True)
class Put:
    """Creates, updates and re-creations in one transaction, some of them of the same resource."""

    keys: tuple[Key, ...]
    subject: int


@dataclass(frozen=True)
class Delete:
    key: Key


@dataclass(frozen=True)
class Step:
    """The machine's clock is set, forwards or back."""

    micros: int


@dataclass(frozen=True)
class Cut:
    precision: Precision


KEYS = st.tuples(st.sampled_from(TYPES), st.sampled_from("012"))
EVENTS = st.lists(
    st.builds(Put, st.lists(KEYS, min_size=1, max_size=4).map(tuple), st.integers(0, 3))
    | st.builds(Delete, KEYS)
    | st.builds(Step, st.sampled_from([1, 999, 1_000, 400_000, 1_000_000, -1, -1_000, -2_500_000]))
    | st.builds(Cut, st.sampled_from(Precision)),
    min_size=1,
    max_size=14,
)


@dataclass
class History:
    """What happened to a store, and when by its own account."""

    store: Store
    log: list[tuple[Instant, Key, str | None]] = field(default_factory=list)
    mirror: dict[Key, str] = field(default_factory=dict)
    cuts: list[Instant] = field(default_factory=list)
    exports: list[tuple[Query, list[bytes], list[str]]] = field(default_factory=list)
    subjects: dict[str, int] = field(default_factory=dict)

    async def happen(self, change: Put | Delete | Step | Cut, serial: int) -> None:
        match change:
            case Put():
                await self.put(change, serial)
            case Delete(key):
                await self.delete(key)
            case Cut(precision):
                await self.cut(precision)

    async def put(self, change: Put, serial: int) -> None:
        lines = {}
        for number, (type_, id_) in enumerate(change.keys):
            text = f"{serial}.{number}"
            content = {"resourceType": type_, "id": id_, "language": text, "subject": {"reference": f"Patient/{change.subject}"}}
            lines[type_, id_] = text, json.dumps(content).encode()
            self.subjects[text] = change.subject
        before = self.latest
        self.store.load([line for _, line in lines.values()] if serial % 2 else self.doubled(lines))
        for (type_, id_), (text, _) in lines.items():
            stored = await self.store.read(type_, id_)
            assert stored is not None
            assert stored.last_updated > before, "a write is later than every other and than every cut"
            self.log.append((stored.last_updated, (type_, id_), text))
        assert len({at for at, _, _ in self.log[-len(lines) :]}) == 1, "a transaction has one instant"

    @staticmethod
    def doubled(lines: dict[Key, tuple[str, bytes]]) -> Iterator[bytes]:
        """Each resource twice in one transaction: the first of the two versions never held."""
        for text, line in lines.values():
            yield line.replace(f'"{text}"'.encode(), b'"never"')
            yield line

    async def delete(self, key: Key) -> None:
        before = self.latest
        if await self.store.delete(*key) is not None:
            stored = await self.store.read(*key)
            assert stored is not None
            assert stored.deleted
            assert stored.last_updated > before, "a write is later than every other and than every cut"
            self.log.append((stored.last_updated, key, None))

    async def cut(self, precision: Precision) -> None:
        """Export what has changed since the last cut, and apply it."""
        since = self.cuts[-1] if self.cuts else None
        cut = await self.store.cut(precision)
        assert cut % precision.value == 0
        assert since is None or precision is not Precision.MICROSECONDS or cut >= since
        self.cuts.append(max(cut, since or cut))
        output: dict[Key, str] = {}
        gone: list[Key] = []
        for type_ in TYPES:
            query = Query(type=type_, selection=Everything(), window=Window(since), as_of=cut, page_bytes=300)
            lines, references = await self.export(query)
            for content in map(json.loads, lines):
                assert (type_, content["id"]) not in output, "a resource is in an export once"
                output[type_, content["id"]] = content["language"]
            gone += [(type_, reference.partition("/")[2]) for reference in references]
        assert len(gone) == len(set(gone))
        assert output.keys().isdisjoint(gone), "deletions and output are disjoint"

        held, changed = self.held(cut), {key for at, key, _ in self.log if (since or 0) < at <= cut}
        assert output == {key: text for key, text in held.items() if key in changed}, "the output is the net change that lives"
        assert set(gone) == changed - held.keys(), "the deletions are the net change that does not"
        self.mirror.update(output)
        for key in gone:
            self.mirror.pop(key, None)
        assert self.mirror == self.held(self.cuts[-1]), "applying each export in turn gives the store at its cut"

    async def export(self, query: Query) -> tuple[list[bytes], list[str]]:
        lines = await self.lines(query)
        references = [reference async for page in self.store.deletions(query, None) for reference in page.references]
        sliced = [await self.lines(replace(query, range=found.range)) for found in await self.store.slices(query, 500)]
        assert [line for part in sliced for line in part] == lines, "slices hold each resource once"
        self.exports.append((query, lines, references))
        return lines, references

    async def lines(self, query: Query) -> list[bytes]:
        return [line async for page in self.store.pages(query, None) for line in page.lines.splitlines()]

    async def again(self) -> None:
        """Every export that ever was gives the same bytes again (law 5)."""
        for query, lines, references in self.exports:
            assert await self.lines(query) == lines
            assert [reference async for page in self.store.deletions(query, None) for reference in page.references] == references

    def died(self, type_: str, selection: Selection, since: Instant | None) -> set[str]:
        """What was alive at an instant or later, lay in a selection then or later, and is dead at the last cut (law 34)."""
        found = set()
        for key in {key for _, key, _ in self.log if key[0] == type_}:
            history = sorted((at, text) for at, of, text in self.log if of == key and at <= self.cuts[-1])
            if not history or history[-1][1] is not None or history[-1][0] <= (since or 0):
                continue
            ends = [at for at, _ in history[1:]]
            lived = [text for (_, text), end in zip(history, ends, strict=False) if text is not None and end > (since or 0)]
            whose = {f"Patient/{key[1] if type_ == 'Patient' else self.subjects[text]}" for text in lived}
            match selection:
                case Compartments(references):
                    selected = not whose.isdisjoint(references)
                case _:
                    selected = True
            found |= {key[1]} if selected else set()
        return found

    def held(self, cut: Instant) -> dict[Key, str]:
        newest = {key: text for at, key, text in self.log if at <= cut}
        return {key: text for key, text in newest.items() if text is not None}

    @property
    def latest(self) -> Instant:
        return max([Instant(0), *self.cuts, *(at for at, _, _ in self.log)])


async def live(events: list[Put | Delete | Step | Cut], clock: HandClock, *stores: Store) -> list[History]:
    histories = [History(store) for store in stores]
    for serial, change in enumerate([*events, Cut(Precision.MICROSECONDS)]):
        if isinstance(change, Step):
            clock.now = Instant(clock.now + change.micros)
        for history in histories:
            await history.happen(change, serial)
    first, *others = histories
    assert all(first.exports == other.exports for other in others), "both stores export the same bytes"
    for selection, since in product(SELECTIONS, (None, *first.cuts)):
        for type_ in TYPES:
            query = Query(type=type_, selection=selection, window=Window(since), as_of=first.cuts[-1])
            lines, references = await first.export(query)
            for other in others:
                assert (lines, references) == await other.export(query), "both stores select the same"
            told = {reference.partition("/")[2] for reference in references}
            assert told == first.died(type_, selection, since), "a deletion is told to all whose the resource was since then"
    for history in histories:
        await history.again()
    return histories


def live_in_both(events: list[Put | Delete | Step | Cut]) -> None:
    clock = HandClock()
    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteResourceStore(Path(folder, "resources.db"), clock=clock)
        asyncio.run(live(events, clock, MemoryResourceStore(clock=clock), store))
        store.close()


@settings(max_examples=80)
@given(EVENTS)
def test_exports_in_turn_give_the_store_at_each_cut(events: list[Put | Delete | Step | Cut]) -> None:
    live_in_both(events)


@settings(max_examples=HISTORIES_IN_POSTGRES, suppress_health_check=[*HealthCheck])
@given(events=EVENTS)
def test_exports_from_postgresql_in_turn_give_the_store_at_each_cut(
    empty_postgres: EmptyStores, events: list[Put | Delete | Step | Cut]
) -> None:
    clock = HandClock()
    asyncio.run(live(events, clock, empty_postgres.store(clock, blocking=True)))


@pytest.mark.parametrize("precision", Precision)
def test_a_resource_that_was_deleted_and_came_back_lives(precision: Precision) -> None:
    key = ("Patient", "0")
    second = Step(1_000_000)
    put = Put((key,), 0)
    live_in_both(
        [put, second, Cut(precision), Delete(key), second, put, second, Cut(precision), Delete(key), put, Delete(key), second]
    )


def test_the_clock_goes_back_across_a_cut() -> None:
    key, other = ("Patient", "0"), ("Observation", "1")
    live_in_both(
        [
            Put((key, other), 0),
            Cut(Precision.MICROSECONDS),
            Step(-2_500_000),
            Put((key,), 0),
            Cut(Precision.SECONDS),
            Delete(key),
        ]
    )
