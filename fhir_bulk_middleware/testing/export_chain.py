"""The suite for the chain law: applying exports that follow each other by `_since` gives the storage (law 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import anyio
import anyio.lowlevel

from fhir_bulk_middleware.contract.query import Query
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport, SupportsSnapshot
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, needs

__all__ = ["ChainSuite"]

_IDS = ("a", "b", "c", "d")
_CHANGES = 24

_Key = tuple[str, str]


@dataclass(slots=True)
class _Host:
    """Changes the storage and tracks its content."""

    writer: Writer
    random: Random
    samples: Samples
    holds: dict[_Key, str] = field(default_factory=dict)
    serial: int = 0

    async def change(self) -> None:
        """Write some resources together, or delete one."""
        random = self.random
        if self.holds and random.random() < 0.4:
            key = random.choice(sorted(self.holds))
            await self.writer.delete(*key)
            del self.holds[key]
            return
        chosen = {(random.choice(_types(self.samples)), random.choice(_IDS)) for _ in range(random.randint(1, 4))}
        written = {}
        for key in sorted(chosen):
            self.serial += 1
            written[key] = f"number {self.serial}"
        await self.writer.put(*(self._resource(key, text) for key, text in written.items()))
        self.holds |= written

    def _resource(self, key: _Key, text: str) -> str:
        type_, id_ = key
        resource = self.samples.patient(id_, text) if type_ == "Patient" else self.samples.record(id_, "Patient/a", text=text)
        assert resource is not None, "a record of one patient can be written"
        return resource


@dataclass(slots=True)
class _Client:
    """A client that mirrors the storage: applies one export after the other."""

    reader: Reader
    precision: Precision
    random: Random
    since: Instant | None = None
    has: dict[_Key, str] = field(default_factory=dict)

    async def export(self, *, whole: bool = True) -> None:
        """Apply the next export; one that is not whole ends before its cut (`_until`)."""
        cut = await self.reader.cut(self.precision)
        assert cut is not None
        until = None if whole else await self._some_instant(cut)
        for type_ in _types(self.reader.samples):
            await self._apply(type_, await self.reader.query(type_, since=self.since, until=until, as_of=cut))
        if until is None:
            assert self.has == await self._storage(cut), "applying each export in turn gives the storage at its cut"
        self.since = cut if until is None else until

    async def _apply(self, type_: str, query: Query) -> None:
        output = await self.reader.texts(query)
        gone = [reference.partition("/")[2] for reference in await self.reader.gone(query)]
        assert len(gone) == len(set(gone)), "a deletion is told once"
        assert not output.keys() & set(gone), "deletions and output are disjoint"
        late = [id_ for id_, at in (await self.reader.instants(query)).items() if self.since is not None and at <= self.since]
        assert not late, "a net change that was in an earlier export is in no later one"
        self.has.update(((type_, id_), text) for id_, text in output.items())
        for id_ in gone:
            self.has.pop((type_, id_), None)

    async def _some_instant(self, cut: Instant) -> Instant | None:
        """An instant of a write since the last export, as the edge of a window."""
        found: list[Instant] = []
        for type_ in _types(self.reader.samples):
            found += (await self.reader.instants(await self.reader.query(type_, since=self.since, as_of=cut))).values()
        return self.random.choice(sorted(found)) if found else None

    async def _storage(self, cut: Instant) -> dict[_Key, str]:
        found: dict[_Key, str] = {}
        for type_ in _types(self.reader.samples):
            texts = await self.reader.texts(await self.reader.query(type_, as_of=cut))
            found.update(((type_, id_), text) for id_, text in texts.items())
        return found


class ChainSuite(StorageSuite):
    """The promises of `SupportsSnapshot` and `SupportsDeletions` together (law 3)."""

    @pytest.mark.parametrize("history", range(12))
    async def test_exports_that_follow_each_other_give_the_storage(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, history: int
    ) -> None:
        """With resources created, updated, deleted and created again in between; the same in each run."""
        _needs(store)
        random = Random(history)  # noqa: S311 - repeatable, not secret
        host = _Host(writer, random, samples)
        shown = [precision for precision in Precision if precision.value >= samples.precision.value]
        clients = [_Client(reader, precision, random) for precision in shown]
        for _ in range(_CHANGES):
            await host.change()
            if random.random() < 0.4:
                await random.choice(clients).export(whole=random.random() < 0.7)
        for client in clients:
            await client.export()
            if client.precision is samples.precision is Precision.MICROSECONDS:
                assert client.has == host.holds, "what was written before a cut at full precision is in it"

    @pytest.mark.parametrize("precision", Precision)
    async def test_what_is_written_while_exports_begin_is_in_one_of_them(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, precision: Precision
    ) -> None:
        """With writers at the same time: what one cut does not hold is in the next."""
        _needs(store)
        random = Random(precision.value)  # noqa: S311 - as above
        host, client = _Host(writer, random, samples), _Client(reader, precision, random)
        writing = anyio.Event()

        async def write() -> None:
            for _ in range(_CHANGES):
                await host.change()
                await anyio.lowlevel.checkpoint()
            writing.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while not writing.is_set():
                await client.export()
                await anyio.lowlevel.checkpoint()
        last = _Client(reader, samples.precision, random, client.since, client.has)
        await last.export()
        if samples.precision is not Precision.MICROSECONDS:
            return  # a write in the last instant is in the next export
        assert last.has == host.holds, "what was written while a cut was taken is in this export or in the next"


def _needs(store: object) -> None:
    capabilities: Sequence[type] = (SupportsSnapshot, SupportsDeletions)
    for capability in capabilities:
        needs(store, capability)


def _types(samples: Samples) -> list[str]:
    return sorted({"Patient", samples.record_type})
