"""The promises of `SupportsFingerprints` and `SupportsSlicesNear`, as tests."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Query, Selection
from fhir_bulk_middleware.contract.storage import SupportsExport, SupportsFingerprints, SupportsSlices, SupportsSlicesNear
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, needs, put

__all__ = ["FingerprintsSuite"]

_TARGET = 2_000
_SELECTIONS: Sequence[Selection] = (Everything(), EveryPatient())


async def _prints(store: SupportsExport, query: Query, ranges: Sequence[str]) -> list[str | None]:
    assert isinstance(store, SupportsFingerprints), "the storage has fingerprints"
    return [await store.fingerprint(replace(query, range=each)) for each in ranges]


class FingerprintsSuite(StorageSuite):
    """What a storage says of ranges that did not change."""

    async def test_what_did_not_change_has_the_same_fingerprint(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Otherwise nothing would ever be linked."""
        needs(store, SupportsFingerprints)
        await put(writer, *(samples.patient(f"p{number}") for number in range(9)))
        first, second = await reader.query("Patient"), await reader.query("Patient")
        ranges = await reader.sliced(first, 1_000_000) if isinstance(store, SupportsSlices) else [""]
        found = await _prints(store, first, ranges)
        assert None not in found, "what was not changed after the cut has a fingerprint"
        assert await _prints(store, second, ranges) == found, "what did not change has the same fingerprint as of a later cut"

    @pytest.mark.parametrize("how", ["updated", "deleted", "written again", "moved", "added"])
    async def test_what_changed_has_another_fingerprint(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, how: str
    ) -> None:
        """And what was changed after a cut has none, or that of the cut, as of it."""
        needs(store, SupportsFingerprints)
        type_ = samples.record_type
        await put(writer, *(samples.patient(id_) for id_ in "12"), *(samples.record(f"o{n}", "Patient/1") for n in range(9)))
        before = await reader.query(type_)
        (first,) = await _prints(store, before, [""])
        match how:
            case "updated":
                await put(writer, samples.record("o3", "Patient/1", text="later"))
            case "deleted":
                await writer.delete(type_, "o3")
            case "written again":
                await writer.delete(type_, "o3")
                await put(writer, samples.record("o3", "Patient/1"))
            case "moved":
                await put(writer, samples.record("o3", "Patient/2"))
            case _:
                await put(writer, samples.record("new", "Patient/1"))
        (later,) = await _prints(store, await reader.query(type_), [""])
        assert later != first, "what changed has another fingerprint"
        (again,) = await _prints(store, before, [""])
        assert again in {None, first}, "what is changed after a cut has no other fingerprint as of it"

    @pytest.mark.parametrize("history", range(6))
    async def test_equal_fingerprints_stand_for_equal_lines(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, history: int
    ) -> None:
        """Over a random history, with the ranges of each plan near those of the one before."""
        needs(store, SupportsFingerprints)
        random, type_ = Random(history), samples.record_type  # noqa: S311 - repeatable, not secret
        await put(writer, samples.patient("1"))
        known: dict[tuple[object, str, str], list[bytes]] = {}
        former: list[str] = []
        for _ in range(12):
            for _ in range(random.randint(0, 6)):
                id_ = f"o{random.randrange(30)}"
                if random.random() < 0.3:
                    await writer.delete(type_, id_)
                else:
                    await put(writer, samples.record(id_, "Patient/1", text="x" * random.randrange(300)))
            selection = random.choice(_SELECTIONS)
            query = await reader.query(type_, selection)
            former = await self._ranges(store, reader, query, former)
            for range_, found in zip(former, await _prints(store, query, former), strict=True):
                lines = await reader.lines(replace(query, range=range_))
                if found is not None:
                    assert known.setdefault((selection, range_, found), lines) == lines, (
                        "equal fingerprints stand for equal lines, as of whatever cut"
                    )

    async def test_ranges_near_others_hold_each_resource_once(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Whatever the former ranges are: also those of another type, or of a storage that was another one."""
        needs(store, SupportsSlicesNear)
        type_ = samples.record_type
        await put(writer, *(samples.patient(str(number)) for number in range(30)))
        others = await reader.sliced(await reader.query("Patient"), 500)
        await put(writer, *(samples.record(f"o{n}", "Patient/1", text="x" * 200) for n in range(40)))
        own = await reader.sliced(await reader.query(type_), _TARGET)
        await put(writer, *(samples.record(f"o{n}", "Patient/1", text="y" * 300) for n in range(5, 60)))
        assert isinstance(store, SupportsSlicesNear)
        query = await reader.query(type_)
        whole = await reader.lines(query)
        for former in ([], own, own[1:], own[:1], others, [*own, *others]):
            ranges = [each.range for each in await store.slices_near(query, _TARGET, former)]
            lines = [line for each in ranges for line in await reader.lines(replace(query, range=each))]
            assert lines == whole, "ranges near former ones hold each resource once, in the order of the pages"

    async def test_ranges_stay_where_nothing_changed(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Otherwise nothing would ever be the same."""
        needs(store, SupportsSlicesNear)
        type_ = samples.record_type
        await put(writer, samples.patient("1"), *(samples.record(f"o{n}", "Patient/1", text="x" * 200) for n in range(60)))
        former = await reader.sliced(await reader.query(type_), _TARGET)
        assert len(former) > 2, "slices are about as large as asked"
        assert isinstance(store, SupportsSlicesNear)
        same = [each.range for each in await store.slices_near(await reader.query(type_), _TARGET, former)]
        assert same == former, "ranges stay as they are while nothing changes"
        await put(writer, *(samples.record(f"new{n}", "Patient/1", text="x" * 200) for n in range(20)))
        grown = [each.range for each in await store.slices_near(await reader.query(type_), _TARGET, former)]
        assert grown[: len(former) - 1] == former[:-1], "all ranges but the last stay as they are when a type grows"

    @staticmethod
    async def _ranges(store: SupportsExport, reader: Reader, query: Query, former: list[str]) -> list[str]:
        if isinstance(store, SupportsSlicesNear) and former:
            return [each.range for each in await store.slices_near(query, _TARGET, former)]
        return list(await reader.sliced(query, _TARGET)) if isinstance(store, SupportsSlices) else [""]
