"""The promises of `SupportsChangedTypes`, as tests."""

from random import Random

from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Query, Selection, Window
from fhir_bulk_middleware.contract.storage import SupportsChangedTypes, SupportsExport, SupportsLeft
from fhir_bulk_middleware.instant import Instant, Precision, after, system_clock
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, members_of, needs, put

__all__ = ["ChangedTypesSuite"]

_TOMORROW = 86_400.0


async def _changed(reader: Reader, since: Instant | None, until: Instant | None = None) -> frozenset[str]:
    """The types that an export of a window is told, of all that the samples write."""
    assert isinstance(reader.store, SupportsChangedTypes)
    samples = reader.samples
    query = await reader.query("Patient", since=since, until=until)
    window = Window(since, until if query.as_of is None else min(query.as_of, until or query.as_of))
    types = frozenset({"Patient", samples.record_type, samples.outside_type or "Patient"})
    found = await reader.store.changed_types(types, window, as_of=query.as_of, rights=query.rights)
    assert found <= types, "only types that were asked for are named"
    return frozenset(found)


async def _holds(reader: Reader, query: Query) -> bool:
    """Whether an export asks for the type of a query, and gets something."""
    if await reader.ids(query) or await reader.gone(query):
        return True
    return isinstance(reader.store, SupportsLeft) and bool([page async for page in reader.store.left(query, None)])


class ChangedTypesSuite(StorageSuite):
    """What a storage says of types in which something changed."""

    @pytest.mark.parametrize("how", ["written", "updated", "moved", "deleted", "written again"])
    async def test_a_type_that_changed_is_named(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, how: str
    ) -> None:
        """Otherwise the change is in no export."""
        needs(store, SupportsChangedTypes)
        type_ = samples.record_type
        await put(writer, *(samples.patient(id_) for id_ in "12"), samples.record("o", "Patient/1"))
        if how == "written again":
            await writer.delete(type_, "o")
        since = await reader.cut() or Instant(max((await reader.instants(await reader.query("Patient"))).values()) - 1)
        match how:
            case "written":
                await put(writer, samples.record("new", "Patient/1"))
            case "deleted":
                await writer.delete(type_, "o")
                if not await reader.gone(await reader.query(type_, since=since)):
                    pytest.skip("the storage does not know its deletions")
            case _:
                await put(writer, samples.record("o", f"Patient/{2 if how == 'moved' else 1}", text="later"))
        assert type_ in await _changed(reader, since), "a type in which something was written or deleted is named"

    async def test_types_that_did_not_change_are_not_named(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Otherwise an export of nothing asks for each type."""
        needs(store, SupportsChangedTypes)
        assert await _changed(reader, None) == frozenset(), "a type of which there never was anything is not named"
        await put(writer, samples.patient("1"), samples.record("o", "Patient/1"))
        tomorrow = after(await reader.cut(Precision.SECONDS) or system_clock(), _TOMORROW)
        assert await _changed(reader, tomorrow, after(tomorrow, 1)) == frozenset(), "a type that did not change is not named"
        if (since := await reader.cut()) is not None:
            assert await _changed(reader, since) == frozenset(), "a type that did not change is not named"

    @pytest.mark.parametrize("history", range(6))
    async def test_what_a_window_holds_is_of_the_types_that_are_named(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, history: int
    ) -> None:
        """Over a random history, for windows between any two of its moments: resources, deletions, and what left."""
        needs(store, SupportsChangedTypes)
        random, type_ = Random(history), samples.record_type  # noqa: S311 - repeatable, not secret
        await put(writer, *(samples.patient(id_) for id_ in "12"), samples.outside("x"))
        moments: list[Instant | None] = [None]
        for _ in range(8):
            id_ = f"o{random.randrange(4)}"
            match random.randrange(4):
                case 0:
                    await writer.delete(type_, id_)
                case 1:
                    await writer.put(samples.patient(random.choice("12")))
                case 2 if samples.outside_type is not None:
                    await put(writer, samples.outside(random.choice("xy")))
                case _:
                    await put(writer, samples.record(id_, f"Patient/{random.choice('12')}"))
            moments.append(await reader.cut() or max((await reader.instants(await reader.query(type_))).values(), default=None))
        selections: list[Selection] = [Everything(), EveryPatient(), members_of("Patient/1")]
        for since in moments:
            until = random.choice([None, *(each for each in moments if each is not None and each > (since or 0))])
            named = await _changed(reader, since, until)
            for asked in {"Patient", type_, samples.outside_type or type_} - named:
                for selection in selections:
                    query = await reader.query(asked, selection, since=since, until=until)
                    assert not await _holds(reader, query), "what a window holds is of a type that is named"
