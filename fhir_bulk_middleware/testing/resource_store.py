"""The suite for storage adapters.

Subclass it with two fixtures: an adapter over an empty storage, and a writer that changes the storage directly.

    class TestMyStorage(ResourceStoreSuite):
        @pytest.fixture
        def store(self):
            return MyAdapter(...)

        @pytest.fixture
        def writer(self, store):
            return MyWriter(...)       # put(*resources), delete(type, id)

A storage that does not keep any JSON, such as tables with columns, has a third fixture, `samples`, for what can be written to it
(`fhir_bulk_middleware.testing.samples`). A storage that keeps any JSON passes `StoredTextSuite` as well.

Each test is a promise of `fhir_bulk_middleware.contract`, which its failure names. A test of a capability that the adapter lacks
is skipped with the name of the capability.
"""

import itertools
import json
from collections.abc import Callable, Collection
from dataclasses import replace

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Filter, Selection
from fhir_bulk_middleware.contract.storage import (
    SupportsDeletionHorizon,
    SupportsDeletions,
    SupportsExport,
    SupportsForgetting,
    SupportsGroups,
    SupportsJoining,
    SupportsSlices,
    SupportsSnapshot,
)
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.instant import Instant, Precision, after, seconds_between, system_clock
from fhir_bulk_middleware.testing.changed_types import ChangedTypesSuite
from fhir_bulk_middleware.testing.cohort import ContextSuite, EnteredSuite, LeftSuite, NamingSuite
from fhir_bulk_middleware.testing.compartment_paths import CompartmentPathsSuite
from fhir_bulk_middleware.testing.export_chain import ChainSuite
from fhir_bulk_middleware.testing.fingerprints import FingerprintsSuite
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.related_resources import JoiningSuite, OrganisingSuite, PatientsSuite, ProvenanceSuite
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, members_of, needs, put
from fhir_bulk_middleware.testing.stored_text import StoredTextSuite

__all__ = [
    "CompartmentPathsSuite",
    "DeletionsSuite",
    "ExportSuite",
    "GroupsSuite",
    "ResourceStoreSuite",
    "Samples",
    "SlicesSuite",
    "SnapshotSuite",
    "StoredTextSuite",
    "Writer",
]

_AWKWARD = 'a\\b "quoted" \n\r\t\u2028\u2029\u0085\u00e9\U0001f600 \\n </script>'
_CLOCKS_APART = 300.0
"""Seconds that the storage's clock may differ from the machine's; less than any error by a time zone."""


async def _two_patients(samples: Samples, writer: Writer) -> frozenset[str]:
    """Write patients 1 and 10, a record of each, of both and of neither, and a resource outside; the ids of the records."""
    await writer.put(samples.patient("1"), samples.patient("10"))
    records = {
        "o-1": samples.record("o-1", "Patient/1"),
        "o-10": samples.record("o-10", "Patient/10"),
        "o-both": samples.record("o-both", "Patient/1", "Patient/10"),
        "o-none": samples.record("o-none"),
    }
    await put(writer, *records.values(), samples.outside("1"))
    return frozenset(id_ for id_, record in records.items() if record is not None)


def _types(samples: Samples) -> list[str]:
    return ["Patient", samples.record_type, *([samples.outside_type] if samples.outside_type else [])]


class ExportSuite(StorageSuite):
    """The promises of `SupportsExport`."""

    async def test_what_is_held_may_be_exported(
        self, store: SupportsExport, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """Its types are authorised."""
        await put(writer, samples.patient("1"), samples.record("1", "Patient/1"), samples.outside("1"))
        assert set(_types(samples)) <= (await store.authorise(principal)).types, "authorise names each type that is held"

    async def test_a_type_that_is_first_written_while_the_job_is_queued_is_not_lost(
        self, store: SupportsExport, reader: Reader, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """Law 33: `authorise` says what may be exported, not what exists."""
        await writer.put(samples.patient("1"))
        kicked_off = (await store.authorise(principal)).types
        type_ = samples.outside_type or samples.record_type
        await put(writer, samples.outside("first") if samples.outside_type else samples.record("first", "Patient/1"))
        cut = await reader.cut()
        found: list[str] = []
        if type_ in kicked_off:
            found += await reader.ids(await reader.query(type_, as_of=cut))
        if type_ in (await store.authorise(principal)).types:
            written = (await reader.instants(await reader.query(type_))).get("first")
            found += await reader.ids(await reader.query(type_, since=cut or written))
        assert found == ["first"], "a type that is first written between kick-off and cut is in this export or in the next"

    async def test_a_query_gives_each_resource_of_its_type_once(self, reader: Reader, writer: Writer, samples: Samples) -> None:
        """No resource twice, none missing, none of another type."""
        await put(writer, *(samples.patient(f"p{number}") for number in range(20)), samples.outside("p1"))
        await put(writer, samples.record("p2", "Patient/p1"))
        await writer.put(samples.patient("p3"))
        found = await reader.ids(await reader.query("Patient"))
        assert sorted(found) == sorted(f"p{number}" for number in range(20)), "each resource of the type comes once, as it is now"

    async def test_a_resource_is_on_one_line_that_says_what_was_written(
        self, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Canonical text (law 17)."""
        await put(writer, samples.patient("1", _AWKWARD), samples.record("o", "Patient/1"))
        assert await reader.texts(await reader.query("Patient")) == {"1": _AWKWARD}, "a resource says what was written"
        [line] = await reader.lines(await reader.query(samples.record_type))
        assert b'"Patient/1"' in line, "a reference is found by its bytes: no needless escapes"

    async def test_lastupdated_is_when_it_was_written(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """By the storage's clock, close to ours: windows are compared across both, and an offset loses changes (laws 2, 6)."""
        before = await store.now() if isinstance(store, SupportsSnapshot) else system_clock()
        await put(writer, samples.patient("1"), samples.record("o", "Patient/1"))
        for type_ in ("Patient", samples.record_type):
            for changed in (await reader.instants(await reader.query(type_))).values():
                assert abs(seconds_between(before, changed)) < _CLOCKS_APART, (
                    "lastUpdated is the instant of the write: UTC or with its offset"
                )

    async def test_a_type_of_which_there_is_nothing_gives_no_page(self, reader: Reader) -> None:
        """No page rather than an empty one."""
        assert await reader.pages(await reader.query("Patient")) == [], "an empty selection gives no page"

    @pytest.mark.parametrize("page_bytes", [1, 500, 1_000_000])
    async def test_reading_on_from_a_cursor_gives_the_rest(
        self, reader: Reader, writer: Writer, samples: Samples, page_bytes: int
    ) -> None:
        """Law 5: also if many resources have the same `lastUpdated`."""
        await writer.put(*(samples.patient(f"p{number}", "x" * (97 * number % 400)) for number in range(12)))
        query = await reader.query("Patient", page_bytes=page_bytes)
        pages = await reader.pages(query)
        assert sum(page.count for page in pages) == 12, "resources of one instant are all read, however small the pages"
        assert await reader.pages(query) == pages, "the same query gives the same pages"
        for done, page in enumerate(pages, 1):
            assert await reader.pages(query, page.cursor) == pages[done:], "reading on from a cursor gives the rest, page by page"

    async def test_an_updated_resource_comes_once_and_a_deleted_one_does_not(
        self, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """The net state."""
        await writer.put(samples.patient("kept", "old"), samples.patient("gone"), samples.patient("back", "old"))
        await put(writer, samples.record("gone", "Patient/kept"), samples.record("kept", "Patient/kept", text="old"))
        await writer.put(samples.patient("kept", "new"))
        await put(writer, samples.record("kept", "Patient/kept", text="new"))
        await writer.delete("Patient", "gone")
        await writer.delete(samples.record_type, "gone")
        await writer.delete("Patient", "back")
        await writer.put(samples.patient("back", "new"))
        found = await reader.texts(await reader.query("Patient"))
        assert found == {"kept": "new", "back": "new"}, "the newest version comes, and nothing of what was deleted"
        for selection in (Everything(), EveryPatient(), members_of("Patient/kept")):
            found = await reader.texts(await reader.query(samples.record_type, selection))
            assert found == {"kept": "new"}, "the newest version comes, and nothing of what was deleted"

    @pytest.mark.parametrize("record", [False, True], ids=["patients", "records"])
    async def test_a_window_is_open_at_its_beginning_and_closed_at_its_end(
        self, reader: Reader, writer: Writer, samples: Samples, *, record: bool
    ) -> None:
        """Law 2: since < lastUpdated <= until."""
        type_ = samples.record_type if record else "Patient"
        for number in range(6):
            id_ = f"p{number}"
            await put(writer, samples.record(id_, "Patient/1") if record else samples.patient(id_))
        changed = await reader.instants(await reader.query(type_))
        instants = sorted(changed.values())
        edges = [None, Instant(instants[0] - 1), *instants, Instant(instants[-1] + 1)]
        for since, until in itertools.product(edges, edges):
            found = await reader.ids(await reader.query(type_, since=since, until=until))
            assert sorted(found) == sorted(
                id_ for id_, at in changed.items() if (since is None or at > since) and (until is None or at <= until)
            ), "a window holds since < lastUpdated <= until"

    async def test_a_filter_leaves_out_only_what_does_not_meet_it(self, reader: Reader, writer: Writer, samples: Samples) -> None:
        """`Query.filters`; an adapter need not apply them, since we do."""
        await writer.put(*(samples.patient(f"p{number}") for number in range(4)))
        either = tuple(Criteria.of(samples.version, "Patient", [("_id", id_)]) for id_ in ("p1", "p3"))
        query = replace(await reader.query("Patient"), filters=(Filter("Patient", either), Filter("Patient", either[1:])))
        assert "p3" in await reader.ids(query), "a filter leaves out only what does not meet it"

    async def test_no_members_is_not_everybody(self, reader: Reader, writer: Writer, samples: Samples) -> None:
        """An empty selection is empty."""
        await _two_patients(samples, writer)
        for type_ in _types(samples):
            assert await reader.ids(await reader.query(type_, members_of())) == [], "an empty selection is empty"
            assert await reader.ids(await reader.query(type_, members_of("Patient/9"))) == [], "a stranger has nothing here"

    async def test_a_compartment_holds_its_owner_and_what_is_the_owner_s(
        self, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """KO-03; and `Patient/1` is not `Patient/10`."""
        held = await _two_patients(samples, writer)
        one = members_of("Patient/1")
        assert await reader.ids(await reader.query("Patient", one)) == ["1"], "a member is in its own compartment, alone"
        found = await reader.ids(await reader.query(samples.record_type, one))
        assert sorted(found) == sorted(held & {"o-1", "o-both"}), "a compartment holds what refers to its owner, and nothing else"
        if samples.outside_type is not None:
            found = await reader.ids(await reader.query(samples.outside_type, one))
            assert found == [], "what has no compartment is in none"

    @pytest.mark.parametrize("page_bytes", [1, 1_000_000])
    async def test_a_resource_in_two_compartments_comes_once(
        self, reader: Reader, writer: Writer, samples: Samples, page_bytes: int
    ) -> None:
        """Members can share resources."""
        held = await _two_patients(samples, writer)
        query = await reader.query(samples.record_type, members_of("Patient/1", "Patient/10"), page_bytes=page_bytes)
        found = await reader.ids(query)
        assert sorted(found) == sorted(held - {"o-none"}), "a resource in two compartments comes once"
        pages = await reader.pages(query)
        for done, page in enumerate(pages, 1):
            assert await reader.pages(query, page.cursor) == pages[done:], "reading on from a cursor gives the rest, page by page"

    async def test_a_resource_that_moves_leaves_its_old_compartment(
        self, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """The compartments are those of the version that is read."""
        held = await _two_patients(samples, writer)
        await put(writer, samples.record("o-1", "Patient/10"))
        found = await reader.ids(await reader.query(samples.record_type, members_of("Patient/1")))
        assert found == sorted(held & {"o-both"}), "a resource is in the compartments that its newest version names"

    async def test_every_patient_leaves_out_what_is_no_patient_s(self, reader: Reader, writer: Writer, samples: Samples) -> None:
        """KO-02."""
        held = await _two_patients(samples, writer)
        found = await reader.ids(await reader.query(samples.record_type, EveryPatient()))
        assert sorted(found) == sorted(held - {"o-none"}), "every patient's is what lies in a Patient compartment"
        assert sorted(await reader.ids(await reader.query("Patient", EveryPatient()))) == ["1", "10"], (
            "every patient's is what lies in a Patient compartment"
        )
        found = await reader.ids(await reader.query(samples.record_type, Everything()))
        assert sorted(found) == sorted(held), "everything is all of it"


class SnapshotSuite(StorageSuite):
    """The promises of `SupportsSnapshot` (laws 1 to 5)."""

    @pytest.mark.parametrize("precision", Precision)
    async def test_a_cut_is_shown_whole_and_later_writes_are_later(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, precision: Precision
    ) -> None:
        """Laws 1 and 4."""
        needs(store, SupportsSnapshot)
        await writer.put(samples.patient("before"))
        cut = await reader.cut(precision)
        await writer.put(samples.patient("after"))
        assert cut is not None
        assert cut % precision.value == 0, "a cut is taken at the precision that is shown"
        changed = await reader.instants(await reader.query("Patient"))
        assert changed["after"] > cut, "each write after a cut has a later lastUpdated"
        found = await reader.ids(await reader.query("Patient", as_of=cut))
        assert found == ["before"] * (changed["before"] <= cut), (
            "a cut holds what was written up to its instant, and nothing later"
        )

    async def test_what_was_written_before_the_finest_cut_is_in_it(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """A cut is the latest possible instant."""
        needs(store, SupportsSnapshot)
        if samples.precision is not Precision.MICROSECONDS:
            pytest.skip("at a coarser precision a cut may lie before what was written in the same instant")
        for number in range(5):
            await writer.put(samples.patient(f"p{number}"))
            found = await reader.ids(await reader.query("Patient", as_of=await reader.cut()))
            assert len(found) == number + 1, "what was written before a cut at full precision is in it"

    async def test_cuts_do_not_go_back_and_are_not_in_the_future(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 4; `now` also decides whether a `_since` is in the future (law 2)."""
        needs(store, SupportsSnapshot)
        assert isinstance(store, SupportsSnapshot)
        before = await store.now()
        for number in range(5):
            cut = await reader.cut()
            assert cut is not None
            assert before <= cut <= await store.now(), "cuts and the storage's clock never go back"
            await writer.put(samples.patient(f"p{number}"))
            before = cut

    @pytest.mark.parametrize("precision", Precision)
    async def test_a_clock_that_is_set_back_delays_nothing(
        self,
        store: SupportsExport,
        reader: Reader,
        writer: Writer,
        samples: Samples,
        *,
        set_clock: Callable[[float], None] | None,
        precision: Precision,
    ) -> None:
        """Law 45: writes answered before a cut are in it, even while the machine's clock is minutes behind the storage's."""
        needs(store, SupportsSnapshot)
        if set_clock is None:
            pytest.skip("the storage's clock cannot be set")
        await writer.put(samples.patient("before"))
        assert isinstance(store, SupportsSnapshot)
        since = await reader.cut(precision)
        set_clock(-100)
        for number in range(3):
            await writer.put(samples.patient(f"p{number}"))
            cut = await reader.cut(precision)
            found = await reader.ids(await reader.query("Patient", since=since, as_of=cut))
            assert f"p{number}" in found, "what was written before a cut is in it while the clock is set back"
            assert since is not None
            assert cut is not None
            assert cut % precision.value == 0, "a cut is taken at the precision that is shown"
            assert since <= cut <= await store.now(), "cuts and the storage's clock never go back"
            since = cut
        set_clock(0)

    @pytest.mark.parametrize("page_bytes", [1, 700, 1_000_000])
    async def test_a_cut_gives_the_same_bytes_whatever_is_written_after_it(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, page_bytes: int
    ) -> None:
        """Laws 5 and 6: later updates, deletions and new resources are not in it, also half-way through."""
        needs(store, SupportsSnapshot)
        await writer.put(*(samples.patient(f"p{number}") for number in range(9)))
        await put(writer, samples.record("o", "Patient/p1"), samples.record("moves", "Patient/p2"))
        everyone = await reader.query("Patient", page_bytes=page_bytes)
        of_one = await reader.query(samples.record_type, members_of("Patient/p1", "Patient/p2"), page_bytes=page_bytes)
        patients, records = await reader.pages(everyone), await reader.pages(of_one)

        await writer.put(samples.patient("p0", "later"), samples.patient("p8", "later"), samples.patient("new"))
        await put(writer, samples.record("moves", "Patient/p3"))
        await writer.delete("Patient", "p4")
        await writer.delete(samples.record_type, "o")

        assert await reader.pages(everyone) == patients, "a cut is exact: writes after it are not in it"
        assert await reader.pages(of_one) == records, "a cut is exact: writes after it are not in it"
        for done, page in enumerate(patients, 1):
            assert await reader.pages(everyone, page.cursor) == patients[done:], (
                "a cut reads on from a cursor as if nothing happened"
            )


class SlicesSuite(StorageSuite):
    """The promises of `SupportsSlices`."""

    @pytest.mark.parametrize("target_bytes", [1, 1_000, 4_000, 1_000_000])
    @pytest.mark.parametrize(
        "selection",
        [Everything(), EveryPatient(), members_of(*(f"Patient/{number}" for number in range(0, 40, 3)))],
        ids=lambda selection: type(selection).__name__,
    )
    async def test_slices_hold_each_resource_once(  # noqa: PLR0917 - pytest names them
        self,
        store: SupportsExport,
        reader: Reader,
        writer: Writer,
        samples: Samples,
        target_bytes: int,
        selection: Everything | EveryPatient,
    ) -> None:
        """In the order of the pages, and as of a cut whenever they are read."""
        needs(store, SupportsSlices)
        type_ = samples.record_type
        await put(
            writer, *(samples.record(f"o{number}", f"Patient/{number}", text="x" * (67 * number % 300)) for number in range(30))
        )
        middle = await reader.query(type_, selection)
        await put(writer, *(samples.record(f"o{number}", f"Patient/{number}") for number in range(20, 40)))
        await put(writer, samples.record("o-none"), samples.patient("1"))
        await writer.delete(type_, "o3")
        for query in (
            await reader.query(type_, selection),
            replace(middle, window=replace(middle.window, since=Instant(1))),
        ):
            whole = await reader.lines(query)
            ranges = await reader.sliced(query, target_bytes)
            await put(writer, samples.record("o6", "Patient/6", text="later"))
            if query.as_of is None:
                whole = await reader.lines(query)
            found = [line for range_ in ranges for line in await reader.lines(replace(query, range=range_))]
            assert sorted(found) == sorted(whole), "slices hold each resource once, whenever they are read"
            assert found == whole, "slices keep the order of the pages"

    async def test_slices_of_nothing_hold_nothing(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """For a selection without members, and a type without resources."""
        needs(store, SupportsSlices)
        await writer.put(samples.patient("1"))
        for query in (await reader.query("Patient", members_of()), await reader.query(samples.record_type)):
            for range_ in await reader.sliced(query, 1_000):
                assert await reader.lines(replace(query, range=range_)) == [], "slices of an empty selection are empty"

    async def test_a_small_target_gives_several_slices(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """So that several workers can share the work."""
        needs(store, SupportsSlices)
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="x" * 2_000) for number in range(64)))
        ranges = await reader.sliced(await reader.query(samples.record_type), 16_000)
        assert 3 <= len(ranges) <= 20, "slices are about as large as asked"

    @pytest.mark.parametrize("target_bytes", [16_000, 100_000_000])
    async def test_estimates_together_are_about_the_number_of_resources(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, target_bytes: int
    ) -> None:
        """In one slice and in several: clients see the sum in `X-Progress`."""
        needs(store, SupportsSlices)
        assert isinstance(store, SupportsSlices)
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="x" * 2_000) for number in range(64)))
        query = await reader.query(samples.record_type)
        held = len(await reader.lines(query))
        estimate = sum(found.estimate for found in await store.slices(query, target_bytes))
        assert held / 2 <= estimate <= 2 * held, "estimates together are about the number of resources"


class DeletionsSuite(StorageSuite):
    """The promises of `SupportsDeletions` and `SupportsForgetting`."""

    async def test_what_was_deleted_is_told_once(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """DR-01; a resource that was created again is no deletion (MF-22)."""
        needs(store, SupportsDeletions)
        await writer.put(*(samples.patient(id_) for id_ in ("kept", "gone", "back", "twice")))
        await put(writer, samples.record("gone", "Patient/kept"))
        for id_ in ("gone", "back", "twice"):
            await writer.delete("Patient", id_)
        await writer.put(samples.patient("back"), samples.patient("twice"))
        await writer.delete("Patient", "twice")
        query = await reader.query("Patient")
        found = await reader.gone(query)
        assert len(found) == len(set(found)), "no deletion is told twice"
        assert "Patient/back" not in found, "what was created again is not among the deletions"
        assert sorted(found) == ["Patient/gone", "Patient/twice"], "deletions are what was deleted and does not live"
        assert sorted(await reader.ids(query)) == ["back", "kept"], "deletions and output are disjoint"

    async def test_deletions_are_those_of_the_window(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 2; nothing after the cut."""
        needs(store, SupportsDeletions)
        needs(store, SupportsSnapshot)
        await writer.put(*(samples.patient(f"p{number}") for number in range(4)))
        cuts = [await reader.cut()]
        for number in range(4):
            await writer.delete("Patient", f"p{number}")
            cuts.append(await reader.cut())
        for first, last in itertools.combinations(range(5), 2):
            expected = [f"Patient/p{number}" for number in range(first, last)]
            found = await reader.gone(await reader.query("Patient", since=cuts[first], as_of=cuts[last]))
            assert sorted(found) == expected, "deletions are those after since and up to the cut"
            found = await reader.gone(await reader.query("Patient", since=cuts[first], until=cuts[last]))
            assert sorted(found) == expected, "deletions are those after since and up to until"

    async def test_deletions_keep_to_the_window(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 2, also without snapshots: a deletion before `_since` or after `_until` is in another export."""
        needs(store, SupportsDeletions)
        await put(writer, samples.patient("kept"), samples.patient("gone"), samples.record("gone", "Patient/kept"))
        await writer.delete("Patient", "gone")
        await writer.delete(samples.record_type, "gone")
        (written,) = (await reader.instants(await reader.query("Patient"))).values()
        before, later = Instant(written - 1), after(written, 3_600)
        for type_ in ("Patient", samples.record_type):
            assert await reader.gone(await reader.query(type_, since=before)) == [f"{type_}/gone"], (
                "deletions are those after since and up to until"
            )
            for query in (await reader.query(type_, since=later), await reader.query(type_, until=before)):
                assert await reader.gone(query) == [], "deletions are those after since and up to until"

    async def test_a_deletion_keeps_its_compartments(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 27."""
        needs(store, SupportsDeletions)
        held, type_ = await _two_patients(samples, writer), samples.record_type
        for id_ in held:
            await writer.delete(type_, id_)
        of_one = await reader.gone(await reader.query(type_, members_of("Patient/1")))
        assert sorted(of_one) in ([], [f"{type_}/o-1"], [f"{type_}/{id_}" for id_ in sorted(held & {"o-1", "o-both"})]), (
            "a deletion is told only to whom the resource belonged"
        )
        everyone = await reader.gone(await reader.query(type_, EveryPatient()))
        assert f"{type_}/o-none" not in everyone, "a deletion that was no patient's is not told as a patient's"
        nobody = await reader.gone(await reader.query(type_, members_of()))
        assert nobody == [], "an empty selection has no deletions"
        whole = await reader.gone(await reader.query(type_))
        assert len(whole) == len(held), "deletions are what was deleted and does not live"

    async def test_a_deletion_is_told_to_all_whose_the_resource_was(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 34: also if it moved before it was deleted. An adapter without the compartments of deletions lists none."""
        needs(store, SupportsDeletions)
        needs(store, SupportsSnapshot)
        record, type_ = samples.record, samples.record_type
        await _two_patients(samples, writer)
        if record("leaves") is None:
            pytest.skip("the storage has no record that is no patient's")
        await put(writer, *(record(id_, "Patient/1") for id_ in ("moves", "leaves", "stays", "back")))
        since = await reader.cut()
        await put(writer, record("moves", "Patient/10"), record("leaves"))
        await writer.delete(type_, "back")
        await put(writer, record("back", "Patient/10"))
        between = await reader.cut()
        for id_ in ("moves", "leaves", "stays", "back"):
            await writer.delete(type_, id_)
        cut = await reader.cut()

        async def told(selection: Selection, after: Instant | None = since) -> set[str]:
            gone = await reader.gone(await reader.query(type_, selection, since=after, as_of=cut))
            assert len(gone) == len(set(gone)), "no deletion is told twice"
            return {reference.partition("/")[2] for reference in gone}

        if not await told(members_of("Patient/1")):
            pytest.skip("the storage does not know whose a deleted resource was (law 27)")
        everything = {"moves", "leaves", "stays", "back"}
        assert await told(members_of("Patient/1")) == everything, "a deletion is told to each whose the resource was since then"
        assert await told(members_of("Patient/10")) == {"moves", "back"}, "a deletion is told only to whom the resource belonged"
        assert await told(EveryPatient()) == everything, "a deletion is told to each whose the resource was since then"
        assert await told(members_of("Patient/10"), between) == {"moves", "back"}, (
            "a deletion is told to whom the resource belonged"
        )
        assert await told(members_of("Patient/3")) == set(), "a deletion is told only to whom the resource belonged"

    async def test_reading_deletions_on_from_a_cursor_gives_the_rest(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 5."""
        needs(store, SupportsDeletions)
        assert isinstance(store, SupportsDeletions)
        await writer.put(*(samples.patient(f"p{number}") for number in range(12)))
        for number in range(12):
            await writer.delete("Patient", f"p{number}")
        query = await reader.query("Patient")
        whole = await reader.gone(query)
        read = 0
        async for page in store.deletions(query, None):
            read += len(page.references)
            assert await reader.gone(query, page.cursor) == whole[read:], "reading deletions on from a cursor gives the rest"

    async def test_what_is_forgotten_was_announced_before(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 34: a job that was told a horizon can read whatever is after it."""
        needs(store, SupportsForgetting)
        needs(store, SupportsDeletions)
        assert isinstance(store, SupportsForgetting)
        assert isinstance(store, SupportsDeletionHorizon), "a storage that forgets says since when it knows all deletions"
        await writer.put(samples.patient("kept"), samples.patient("gone"))
        since = await reader.cut()
        await writer.delete("Patient", "gone")
        query = await reader.query("Patient", since=since)
        assert await store.deletions_known_since() is None, "as long as nothing was announced all is known"
        horizon = system_clock() if query.as_of is None else query.as_of
        for seconds, left in ((0, ["Patient/gone"]), (9, ["Patient/gone"]), (10, [])):
            await store.forget(Instant(horizon + seconds), now=Instant(seconds * 1_000_000), grace=10)
            known = horizon if left else horizon + seconds
            assert await store.deletions_known_since() == known, "a horizon holds for as long as a job may read"
            assert await reader.gone(query) == left, "what is forgotten was announced before, as long as a job may read"
        assert await reader.ids(await reader.query("Patient")) == ["kept"], "what lives is not forgotten"


class GroupsSuite(StorageSuite):
    """The promises of `SupportsGroups`. Override `put_group` if groups are not resources of the storage."""

    async def put_group(self, writer: Writer, id_: str, members: Collection[str]) -> None:
        """Create or change a group."""
        entries = [{"entity": {"reference": reference}} for reference in members]
        await writer.put(json.dumps({"resourceType": "Group", "id": id_, "type": "person", "actual": True, "member": entries}))

    async def test_a_group_has_the_members_that_it_has_now(
        self, store: SupportsExport, writer: Writer, principal: Principal
    ) -> None:
        """As references."""
        needs(store, SupportsGroups)
        assert isinstance(store, SupportsGroups)
        await self.put_group(writer, "g", ["Patient/1", "Patient/2"])
        assert await store.members("g", principal) == frozenset({"Patient/1", "Patient/2"}), "members are the group's members"
        await self.put_group(writer, "g", ["Patient/2"])
        assert await store.members("g", principal) == frozenset({"Patient/2"}), "members are those of now"

    async def test_members_are_read_again_when_the_job_begins(
        self, store: SupportsExport, reader: Reader, writer: Writer, principal: Principal
    ) -> None:
        """Law 33: members join and leave between kick-off and cut."""
        needs(store, SupportsGroups)
        assert isinstance(store, SupportsGroups)
        await self.put_group(writer, "g", ["Patient/1", "Patient/2"])
        since = await reader.cut()
        await store.authorise(principal)
        await store.members("g", principal)
        await self.put_group(writer, "g", ["Patient/2", "Patient/3"])
        cut = await reader.cut()
        members = await store.members("g", principal)
        assert members == frozenset({"Patient/2", "Patient/3"}), (
            "who joined before the cut is a member at it, and who left is not"
        )
        if isinstance(store, SupportsJoining) and since is not None and cut is not None:
            joined = members - await store.members_at("g", principal, since)
            assert joined == {"Patient/3"}, "who joined while the job was queued is one who joined since"
            await self.put_group(writer, "g", ["Patient/2", "Patient/3", "Patient/4"])
            later = await store.members("g", principal) or frozenset[str]()
            joined = later - await store.members_at("g", principal, cut)
            assert joined == {"Patient/4"}, "who joined after the cut is one who joined since, to the next export"

    async def test_a_group_without_members_is_not_an_unknown_one(
        self, store: SupportsExport, writer: Writer, principal: Principal
    ) -> None:
        """An export of the first is empty, one of the second is refused."""
        needs(store, SupportsGroups)
        assert isinstance(store, SupportsGroups)
        await self.put_group(writer, "nobody", [])
        assert await store.members("nobody", principal) == frozenset(), "a group without members is an empty set"
        assert await store.members("unknown", principal) is None, "an unknown group is None"


class ResourceStoreSuite(
    ExportSuite,
    CompartmentPathsSuite,
    SnapshotSuite,
    SlicesSuite,
    FingerprintsSuite,
    ChangedTypesSuite,
    DeletionsSuite,
    ChainSuite,
    GroupsSuite,
    JoiningSuite,
    PatientsSuite,
    ProvenanceSuite,
    OrganisingSuite,
    ContextSuite,
    NamingSuite,
    LeftSuite,
    EnteredSuite,
):
    """The promises of all protocols of exports that the adapter implements."""
