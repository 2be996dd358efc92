"""Exports of a PostgreSQL whose writers commit in any order tell each net change once: in the next export, or in one after it.

The writers hold transactions open across exports, roll them back, roll back to savepoints, prepare them, and set the clock.
The cuts go ahead at once (patience 0), so that every slow writer is late. So it is for a host's own tables (`examples/documents`)
and for `PostgresResourceStore`.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from typing import Any

import psycopg
import pytest
from documents.storage import DocumentStorage
from documents.writing import SCHEMA, delete, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_fixture import database, set_clock
from postgres_fixture import server as postgres
from postgres_resources import EmptyStores, empty_stores, writing_on

from fhir_bulk_middleware.contract.query import Everything, Query, Window
from fhir_bulk_middleware.contract.storage import SupportsChangedTypes
from fhir_bulk_middleware.fhir.compartments import CompartmentMembership
from fhir_bulk_middleware.fhir.search.parameter_index import ParameterIndex
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.stores.drafts import draft
from fhir_bulk_middleware.stores.naming_index import NamingIndex
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore

Connection = psycopg.Connection[tuple[Any, ...]]
Key = tuple[str, str]

WRITERS = 4
PREPARED = 40
"""So many transactions at most are prepared at a time; the server takes 50."""
SIDE_BY_SIDE = 8
HISTORIES = int(os.environ.get("FHIR_BULK_COMMITS", "160"))
AT_ONCE = 16
SECONDS = float(os.environ.get("FHIR_BULK_COMMITS_SECONDS", "3"))


class Documents:
    """The host's own tables."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._compartments = CompartmentMembership(FhirVersion.R4)

    def storage(self, patience: float) -> DocumentStorage:
        return DocumentStorage(self.dsn, patience=patience)

    def write(self, connection: Connection, resources: Sequence[str]) -> None:
        write(connection, resources, self._compartments)

    def delete(self, connection: Connection, key: Key) -> bool:
        return delete(connection, *key)

    def clean(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM compartment; DELETE FROM version; DELETE FROM bulk_cut")


class Store:
    """The store, written to in transactions of the test."""

    def __init__(self, stores: EmptyStores) -> None:
        self.dsn = f"{stores.dsn}{'&' if '?' in stores.dsn else '?'}options=-csearch_path%3D{stores.schema}"
        self._stores = stores
        self._store = self._reading = stores.store()
        self._store._types.assured_here({"Observation", "Patient"})
        self._drafting = CompartmentMembership(FhirVersion.R4), NamingIndex(FhirVersion.R4, ()), ParameterIndex(FhirVersion.R4)

    def storage(self, patience: float) -> PostgresResourceStore:
        self._reading = self._stores.another(wait_for_writers=patience, blocking=True)
        return self._reading

    def write(self, connection: Connection, resources: Sequence[str]) -> None:
        drafts = [draft(resource, *self._drafting) for resource in resources]
        writing = writing_on(connection, self._store)
        writing.expect([(new.canonical.type, new.canonical.id) for new in drafts])
        for new in drafts:
            writing.put(new)
        writing.finish()

    def delete(self, connection: Connection, key: Key) -> bool:
        writing = writing_on(connection, self._store)
        writing.expect([key], texts=True)
        removed = writing.delete(*key)
        writing.finish()
        return removed is not None

    def clean(self) -> None:
        self._stores.empty()
        self._reading._database.forget_cuts()  # cuts at whole seconds may have the instants of those before


Place = Documents | Store


@pytest.fixture(scope="module", params=["documents", "store"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the resources are kept."""
    with postgres() as server:
        if request.param == "documents":
            with database(server, SCHEMA) as own:
                yield Documents(own)
        else:
            with empty_stores(server) as stores:
                yield Store(stores)


# --- Scripts: what several connections do, step by step ---


@dataclass(frozen=True)
class Write:
    writer: int
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Delete:
    writer: int
    key: Key


@dataclass(frozen=True)
class Undo:
    """A write that is rolled back to a savepoint."""

    writer: int
    key: Key


@dataclass(frozen=True)
class End:
    writer: int
    how: str


@dataclass(frozen=True)
class Clock:
    """Sets the database's clock, in microseconds from the machine's."""

    offset: int


@dataclass(frozen=True)
class Export:
    precision: Precision


Step = Write | Delete | Undo | End | Clock | Export


def steps_of(history: int) -> st.SearchStrategy[list[Step]]:
    """Steps of a history's own writers, with its own resources."""
    who = st.integers(WRITERS * history, WRITERS * (history + 1) - 1)
    key = st.sampled_from([(type_, f"{id_}{history}") for type_ in ("Observation", "Patient") for id_ in "abc"])
    return st.lists(
        st.builds(Write, who, st.lists(key, min_size=1, max_size=2, unique=True).map(tuple))
        | st.builds(Delete, who, key)
        | st.builds(Undo, who, key)
        | st.builds(End, who, st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION"])),
        max_size=4,
    )


OWN = [steps_of(history) for history in range(SIDE_BY_SIDE)]
SHARED = st.lists(
    st.builds(Clock, st.sampled_from([0, -2_500_000, 1_500_000]))
    | st.builds(Export, st.sampled_from([Precision.MICROSECONDS, Precision.MICROSECONDS, Precision.SECONDS])),
    min_size=1,
    max_size=8,
)


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Histories side by side. They share the clock and the exports, which cost more than all that comes between them."""
    steps: list[Step | None] = []
    for step in [*draw(SHARED), None]:
        between = [draw(own) for own in OWN]
        steps += [each for turn in zip_longest(*between) for each in turn] + [step]
    return [step for step in steps if step is not None]


@dataclass
class Open:
    """A transaction that is open or prepared.

    `changes` is what its commit makes of the resources: version and text, None if deleted. `locks` is what others
    would wait for.
    """

    changes: dict[Key, tuple[int, str | None]] = field(default_factory=dict)
    locks: set[Key] = field(default_factory=set)
    prepared: str = ""


@dataclass
class Client:
    """Mirrors the storage by exports that chain."""

    storage: DocumentStorage | PostgresResourceStore
    precision: Precision
    since: Instant | None = None
    knows: dict[Key, tuple[int, str | None]] = field(default_factory=dict)
    """What was committed when the last export began."""
    has: dict[Key, str] = field(default_factory=dict)
    told: set[tuple[str, str, str]] = field(default_factory=set)
    queries: list[tuple[Query, list[bytes], list[str]]] = field(default_factory=list)

    async def export(self, committed: dict[Key, tuple[int, str | None]] | None) -> None:
        """Apply the next export; `committed`, if it is known, says exactly what has to be in it."""
        cut = await self.storage.cut(self.precision)
        assert cut % self.precision.value == 0
        output, gone = await self.read(self.since, cut, keep=True)
        assert output.keys().isdisjoint(gone)
        if committed is not None:
            changed = {key for key, change in committed.items() if self.knows.get(key) != change}
            live = {key: text for key in changed if (text := committed[key][1]) is not None}
            assert output == live, "the output is the net change that lives: nothing lost, nothing doubled"
            assert gone == {key for key in changed if key not in live}, "and deleted is the one that does not"
            self.knows = dict(committed)
        self.has.update(output)
        for key in gone:
            self.has.pop(key, None)
        whole, _ = await self.read(None, cut)
        assert self.has == whole, "applying each export in turn gives the storage at its cut"
        self.since = cut

    async def read(self, since: Instant | None, cut: Instant, *, keep: bool = False) -> tuple[dict[Key, str], set[Key]]:
        output: dict[Key, str] = {}
        gone: set[Key] = set()
        for type_ in ("Observation", "Patient"):
            query = Query(type=type_, selection=Everything(), window=Window(since, cut), as_of=cut, page_bytes=400)
            lines, references = await self.rows(query)
            for content in map(json.loads, lines):
                assert (type_, content["id"]) not in output, "a resource is in an export once"
                output[type_, content["id"]] = content["language"]
                if keep:
                    version = (type_, content["id"], content["meta"]["versionId"])
                    assert version not in self.told, "a version is in one export of a chain"
                    self.told.add(version)
            gone |= {(type_, reference.partition("/")[2]) for reference in references}
            assert len(references) == len(set(references))
            if (lines or references) and isinstance(self.storage, SupportsChangedTypes):
                window, rights = query.window, query.rights
                named = await self.storage.changed_types(frozenset({type_}), window, as_of=cut, rights=rights)
                assert named == {type_}, "a type of which the window holds something is named"
            if keep:
                self.queries.append((query, lines, references))
        return output, gone

    async def rows(self, query: Query) -> tuple[list[bytes], list[str]]:
        lines = [line for page in [p async for p in self.storage.pages(query, None)] for line in page.lines.splitlines()]
        return lines, [each for page in [p async for p in self.storage.deletions(query, None)] for each in page.references]

    async def again(self) -> None:
        """Every export that ever was gives the same bytes again (law 5)."""
        for query, lines, references in self.queries:
            assert await self.rows(query) == (lines, references)


class Script:
    """Plays steps on connections; leaves out those that would wait for another transaction."""

    def __init__(self, place: Place, storage: DocumentStorage | PostgresResourceStore, connections: list[Connection]) -> None:
        self.place = place
        self.connections = connections
        self.open: dict[int, Open] = {}
        self.prepared: list[Open] = []
        self.committed: dict[Key, tuple[int, str | None]] = {}
        self.clients = {precision: Client(storage, precision) for precision in (Precision.MICROSECONDS, Precision.SECONDS)}
        self.serial = 0

    async def play(self, steps: list[Step]) -> None:
        self.set_clock(0)
        self.place.clean()
        try:
            for step in steps:
                await self.take(step)
            for how in ("COMMIT PREPARED", "COMMIT"):
                self.end_all(how)
                await self.take(Export(Precision.MICROSECONDS))
            self.set_clock(10_000_000)
            last = self.clients[Precision.SECONDS]
            await last.export(None)
            assert last.has == {key: text for key, (_, text) in self.committed.items() if text is not None}
            for client in self.clients.values():
                await client.again()
        finally:
            self.end_all("ROLLBACK PREPARED")
            self.end_all("ROLLBACK")

    async def take(self, step: Step) -> None:
        match step:
            case Write(writer, keys) if self.free(writer, keys):
                self.write(writer, keys)
            case Undo(writer, key) if self.free(writer, (key,)):
                self.undo(writer, key)
            case Delete(writer, key) if self.free(writer, (key,)):
                self.delete(writer, key)
            case End(writer, how) if writer in self.open and (how != "PREPARE TRANSACTION" or len(self.prepared) < PREPARED):
                self.end(writer, how)
            case Clock(offset):
                self.set_clock(offset)
            case Export(precision):
                exact = precision is Precision.MICROSECONDS
                await self.clients[precision].export(self.committed if exact else None)
            case _:
                pass

    def free(self, writer: int, keys: tuple[Key, ...]) -> bool:
        others = [each for number, each in self.open.items() if number != writer] + self.prepared
        return not any(key in each.locks for each in others for key in keys)

    def begun(self, writer: int, *keys: Key) -> tuple[Connection, Open]:
        if writer not in self.open:
            self.open[writer] = Open()
            self.connections[writer].execute("BEGIN")
        self.open[writer].locks.update(keys)
        return self.connections[writer], self.open[writer]

    def write(self, writer: int, keys: tuple[Key, ...]) -> None:
        connection, transaction = self.begun(writer, *keys)
        resources = []
        for key in keys:
            self.serial += 1
            number, _ = transaction.changes.get(key) or self.committed.get(key) or (0, None)
            transaction.changes[key] = (number + 1, f"{self.serial}")
            resources.append(self.resource(key))
        self.place.write(connection, resources)

    def undo(self, writer: int, key: Key) -> None:
        connection, _ = self.begun(writer, key)
        connection.execute("SAVEPOINT undone")
        self.place.write(connection, [self.resource(key)])
        connection.execute("ROLLBACK TO SAVEPOINT undone")

    def delete(self, writer: int, key: Key) -> None:
        connection, transaction = self.begun(writer, key)
        number, text = transaction.changes.get(key) or self.committed.get(key) or (0, None)
        assert self.place.delete(connection, key) is (text is not None)
        if text is not None:
            transaction.changes[key] = (number + 1, None)

    def resource(self, key: Key) -> str:
        content = {"resourceType": key[0], "id": key[1], "language": f"{self.serial}"}
        return json.dumps(content | ({} if key[0] == "Patient" else {"subject": {"reference": f"Patient/a{key[1][1:]}"}}))

    def end(self, writer: int, how: str) -> None:
        transaction = self.open.pop(writer)
        if how == "PREPARE TRANSACTION":
            transaction.prepared = f"t{secrets.token_hex(8)}"
            self.connections[writer].execute(f"{how} '{transaction.prepared}'".encode())
            self.prepared.append(transaction)
            return
        self.connections[writer].execute(how.encode())
        if how == "COMMIT":
            self.committed |= transaction.changes

    def end_all(self, how: str) -> None:
        if how.endswith("PREPARED"):
            with psycopg.connect(self.place.dsn, autocommit=True) as connection:
                for transaction in self.prepared:
                    connection.execute(f"{how} '{transaction.prepared}'".encode())
                    if how.startswith("COMMIT"):
                        self.committed |= transaction.changes
            self.prepared = []
            return
        for writer in list(self.open):
            self.end(writer, how)

    def set_clock(self, offset: int) -> None:
        with psycopg.connect(self.place.dsn, autocommit=True) as connection:
            set_clock(connection, offset)


@pytest.fixture(scope="module")
def play(place: Place) -> Iterator[Callable[[list[Step]], None]]:
    storage = place.storage(0)
    with ExitStack() as stack, asyncio.Runner() as runner:
        writers = range(WRITERS * SIDE_BY_SIDE)
        connections = [stack.enter_context(psycopg.connect(place.dsn, autocommit=True)) for _ in writers]
        for connection in connections:
            connection.execute("SET lock_timeout = '100s'")
        yield lambda steps: runner.run(Script(place, storage, connections).play(steps))
    storage.close()


A, B = ("Patient", "a"), ("Patient", "b")


EXPORT = Export(Precision.MICROSECONDS)


@pytest.mark.parametrize("how", ["COMMIT", "PREPARE TRANSACTION", "ROLLBACK"])
def test_a_write_before_a_cut_whose_commit_comes_after_it_is_in_a_later_export(
    play: Callable[[list[Step]], None], how: str
) -> None:
    play(
        [Write(0, (A,)), Write(1, (B,)), End(1, "COMMIT"), EXPORT, Write(1, (B,)), End(0, how), End(1, "COMMIT"), EXPORT, EXPORT]
    )


def test_a_late_commit_is_in_the_next_export_though_the_clock_was_set_back(play: Callable[[list[Step]], None]) -> None:
    """Law 45, where no stamp is later than the last cut."""
    play([Write(0, (A,)), EXPORT, Clock(-2_500_000), End(0, "COMMIT"), EXPORT])


@settings(max_examples=HISTORIES // SIDE_BY_SIDE, suppress_health_check=[*HealthCheck])
@given(steps=histories())
def test_exports_tell_each_net_change_once_in_whatever_order_writers_commit(
    play: Callable[[list[Step]], None], steps: list[Step]
) -> None:
    """Laws 3, 5 and 45."""
    play(steps)


# --- Writers at the same time ---


@dataclass
class Busy:
    """A writer in a thread, on a connection and for resources of its own, beside exports that it does not wait for."""

    place: Place
    number: int
    until: float
    committed: dict[Key, str | None] = field(default_factory=dict)
    commits: int = 0

    def run(self) -> None:
        random = Random(self.number)  # noqa: S311 - repeatable, not secret
        with psycopg.connect(self.place.dsn, autocommit=True) as connection:
            while time.monotonic() < self.until:
                self.transact(connection, random)

    def transact(self, connection: Connection, random: Random) -> None:
        changes: dict[Key, str | None] = {}
        connection.execute("BEGIN")
        for _ in range(random.randint(1, 3)):
            key = (random.choice(("Observation", "Patient")), f"w{self.number}-{random.randrange(6)}")
            if random.random() < 0.3:
                self.place.delete(connection, key)
                changes[key] = None
            else:
                text = f"{self.number}.{self.commits}.{random.randrange(10**6)}"
                content = {"resourceType": key[0], "id": key[1], "language": text}
                self.place.write(connection, [json.dumps(content)])
                changes[key] = text
            if random.random() < 0.2:
                connection.execute("SELECT pg_sleep(%s)", (random.random() / 3,))  # the database stalls, not the test
        how = random.random()
        if how < 0.15:
            connection.execute("ROLLBACK")
            return
        if how < 0.4:
            name = f"b{secrets.token_hex(8)}"
            connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
            connection.execute("SELECT pg_sleep(%s)", (random.random() / 5,))
            connection.execute(f"COMMIT PREPARED '{name}'".encode())
        else:
            connection.execute("COMMIT")
        self.commits += 1
        self.committed |= changes


@pytest.mark.parametrize("patience", [0, pytest.param(0.05, marks=pytest.mark.long)])
def test_many_writers_at_once_lose_and_double_nothing(place: Place, patience: float) -> None:
    """Law 3. Each export, applied to the one before, gives the storage at its cut; the last one gives all that was committed."""
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        set_clock(connection, 0)
    place.clean()
    storage = place.storage(patience)
    ends = time.monotonic() + SECONDS
    writers = [Busy(place, number, ends) for number in range(AT_ONCE)]
    client = Client(storage, Precision.MICROSECONDS)
    with ThreadPoolExecutor(AT_ONCE) as pool, asyncio.Runner() as runner:
        running = [pool.submit(writer.run) for writer in writers]
        while not all(each.done() for each in running):
            runner.run(client.export(None))
            del client.queries[:-20]
        for each in running:
            each.result()
        runner.run(client.export(None))
        assert client.has == {key: text for writer in writers for key, text in writer.committed.items() if text is not None}
        assert sum(writer.commits for writer in writers) > AT_ONCE
        runner.run(client.again())
    storage.close()
