"""Suites for less common capabilities: Provenance, patients, blocks by patient, and membership as of an instant."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Block, EveryPatient, Filter, Page, ProvenanceTarget, Query, Selection
from fhir_bulk_middleware.contract.storage import (
    SupportsExport,
    SupportsJoining,
    SupportsOrganising,
    SupportsPatients,
    SupportsProvenance,
    SupportsSnapshot,
)
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import (
    Reader,
    Samples,
    StorageSuite,
    Writer,
    members_of,
    needs,
    observation,
    organization,
    patient,
    put,
)
from fhir_bulk_middleware.testing.samples import provenance

__all__ = ["JoiningSuite", "OrganisingSuite", "PatientsSuite", "ProvenanceSuite"]


class ProvenanceSuite(StorageSuite):
    """The promises of `SupportsProvenance`."""

    async def of(
        self,
        reader: Reader,
        queries: Sequence[Query],
        *,
        filters: tuple[Filter, ...] = (),
        latest: bool = False,
        since: Instant | None = None,
        page_bytes: int = 10**6,
    ) -> list[str]:
        """The ids of the Provenance of the queries' resources; also checks the form of its pages."""
        store = reader.store
        assert isinstance(store, SupportsProvenance)
        query = await reader.query("Provenance", since=since, as_of=queries[0].as_of, page_bytes=page_bytes)
        targets = [ProvenanceTarget(each, filters) for each in queries]
        pages = [page async for page in store.provenance(query, targets, None, latest=latest)]
        for done, page in enumerate(pages, 1):
            assert page.count == page.lines.count(b"\n") > 0, "a page has as many lines as it says, and one at least"
            assert len(page.lines) <= page_bytes or page.count == 1, "a page is no larger than asked, but for a single resource"
            rest = [later async for later in store.provenance(query, targets, page.cursor, latest=latest)]
            assert rest == pages[done:], "reading on from a cursor gives the rest, page by page"
        return _ids(pages)

    async def test_provenance_comes_with_what_it_is_about_once(
        self, store: SupportsExport, reader: Reader, writer: Writer
    ) -> None:
        """KO-88."""
        needs(store, SupportsProvenance)
        await writer.put(patient("1"), patient("2"), observation("o", "Patient/1"), organization("1"))
        await writer.put(provenance("of-1", "Patient/1"), provenance("of-both", "Patient/1", "Observation/o"))
        await writer.put(provenance("of-version", "Observation/o/_history/1"), provenance("of-org", "Organization/1"))
        await writer.put(
            provenance("of-2", "Patient/2"), provenance("of-nothing", "Patient/none"), provenance("elsewhere", "urn:x")
        )
        patients, observations = await reader.query("Patient"), await reader.query("Observation")
        for page_bytes in (1, 10**6):
            found = await self.of(reader, [patients, observations], page_bytes=page_bytes)
            assert sorted(found) == ["of-1", "of-2", "of-both", "of-version"], "each Provenance of what is selected comes once"
        assert sorted(await self.of(reader, [observations])) == ["of-both", "of-version"], "only of what is selected"

    @pytest.mark.parametrize("everyone", [True, False])
    async def test_provenance_of_a_selection_is_of_what_lies_in_its_compartments(
        self, store: SupportsExport, reader: Reader, writer: Writer, *, everyone: bool
    ) -> None:
        """KO-86, PT-03."""
        needs(store, SupportsProvenance)
        await writer.put(patient("1"), patient("10"), observation("o", "Patient/1"), observation("none", "Location/1"))
        await writer.put(provenance("p", "Patient/1"), provenance("o", "Observation/o"), provenance("none", "Observation/none"))
        await writer.put(provenance("p10", "Patient/10"))
        selection: Selection = EveryPatient() if everyone else members_of("Patient/1")
        targets = [await reader.query(type_, selection) for type_ in ("Patient", "Observation")]
        found = await self.of(reader, targets)
        assert sorted(found) == (["o", "p", "p10"] if everyone else ["o", "p"]), "only of what lies in the compartments"

    async def test_the_newest_provenance_of_each_resource_is_the_one_that_changed_last(
        self, store: SupportsExport, reader: Reader, writer: Writer
    ) -> None:
        """KO-87."""
        needs(store, SupportsProvenance)
        await writer.put(patient("1"), patient("2"))
        for number, about in enumerate((["Patient/1"], ["Patient/1", "Patient/2"], ["Patient/2"], ["Patient/1"])):
            await writer.put(provenance(f"v{number}", *about))
        targets = [await reader.query("Patient")]
        assert await self.of(reader, targets, latest=True) == ["v2", "v3"], "of each resource the newest, and no other"
        await writer.put(provenance("v1", "Patient/1", "Patient/2"))
        await writer.delete("Provenance", "v3")
        targets = [await reader.query("Patient")]
        assert await self.of(reader, targets, latest=True) == ["v1"], "the newest is the one that changed last and is still there"

    async def test_what_the_window_leaves_out_has_no_provenance(
        self, store: SupportsExport, reader: Reader, writer: Writer
    ) -> None:
        """The targets have the window of the export; the Provenance has its own."""
        needs(store, SupportsProvenance)
        await writer.put(patient("old"), patient("new"))
        await writer.put(provenance("early", "Patient/old"), provenance("early-of-new", "Patient/new"))
        since = max((await reader.instants(await reader.query("Provenance"))).values())
        await writer.put(patient("new"))
        await writer.put(provenance("late", "Patient/old"))
        targets = [await reader.query("Patient", since=since)]
        assert await self.of(reader, targets) == ["early-of-new"], "however old: what it is about has changed"
        assert await self.of(reader, [await reader.query("Patient")], since=since) == ["late"], "within its own window"

    async def test_what_a_filter_leaves_out_has_no_provenance(
        self, store: SupportsExport, reader: Reader, writer: Writer
    ) -> None:
        """The adapter applies the filters of the targets."""
        needs(store, SupportsProvenance)
        await writer.put(patient("a", "Ann"), patient("b", "Bob"))
        await writer.put(provenance("of-a", "Patient/a"), provenance("of-b", "Patient/b"))
        query = await reader.query("Patient")
        ann = Filter("Patient", (Criteria.parse(FhirVersion.R4, "Patient", "name=ann"),))
        assert await self.of(reader, [query], filters=(ann,)) == ["of-a"], "what is not exported has no Provenance to come along"

    async def test_a_cut_holds_for_provenance_too(self, store: SupportsExport, reader: Reader, writer: Writer) -> None:
        """Law 5."""
        needs(store, SupportsProvenance)
        needs(store, SupportsSnapshot)
        await writer.put(patient("1"), provenance("v0", "Patient/1"), provenance("gone", "Patient/1"))
        targets = [await reader.query("Patient")]
        before = await self.of(reader, targets), await self.of(reader, targets, latest=True)
        await writer.put(provenance("v0", "Patient/1"), provenance("v1", "Patient/1"), patient("1"))
        await writer.delete("Provenance", "gone")
        assert (await self.of(reader, targets), await self.of(reader, targets, latest=True)) == before, "a cut is exact"
        assert sorted(before[0]) == ["gone", "v0"], "a cut is exact"


class PatientsSuite(StorageSuite):
    """The promises of `SupportsPatients`."""

    async def test_patients_are_those_that_are_there(
        self, store: SupportsExport, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """PT-04."""
        needs(store, SupportsPatients)
        assert isinstance(store, SupportsPatients)
        await put(writer, samples.patient("1"), samples.patient("gone"), samples.record("o", "Patient/only-named"))
        await writer.delete("Patient", "gone")
        asked = frozenset({"Patient/1", "Patient/gone", "Patient/only-named", "Patient/never", "Patient/o"})
        assert await store.patients(asked, principal) == frozenset({"Patient/1"}), "those that name a patient, and no other"
        assert await store.patients(frozenset(), principal) == frozenset(), "nobody asked for is nobody"


class OrganisingSuite(StorageSuite):
    """The promises of `SupportsOrganising`."""

    async def blocks(self, store: SupportsExport, queries: Sequence[Query]) -> list[Block]:
        """All blocks; also checks their form, and that reading on from each cursor gives the rest."""
        assert isinstance(store, SupportsOrganising)
        found = [block async for block in store.blocks(queries, None)]
        for done, block in enumerate(found, 1):
            page = block.page
            assert page.count == page.lines.count(b"\n") > 0, "a block has as many lines as it says, and one at least"
            assert len(page.lines) <= queries[0].page_bytes or page.count == 1, "a block is no larger than a page may be"
            for line in page.lines.splitlines():
                assert json.loads(line)["resourceType"] == block.type, "a block is of one type"
            rest = [later async for later in store.blocks(queries, block.cursor)]
            assert rest == found[done:], "reading on from a cursor gives the rest"
        together = [reference for reference, _ in groupby(block.reference for block in found)]
        assert len(together) == len(set(together)), "the blocks of a patient come one after the other"
        return found

    @pytest.mark.parametrize("page_bytes", [1, 400, 10**6])
    @pytest.mark.parametrize("everyone", [True, False])
    async def test_each_patient_has_what_lies_in_its_compartment(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, page_bytes: int, *, everyone: bool
    ) -> None:
        """FR-14, FR-17, law 22."""
        needs(store, SupportsOrganising)
        record = samples.record_type
        await put(writer, samples.outside("1"), samples.record("none"), samples.record("o3", "Patient/3"))
        await put(writer, *(samples.record(f"o{number}", "Patient/1") for number in (0, 1, 2, 4, 5)))
        await writer.put(*(samples.patient(id_) for id_ in ("1", "10", "3", "2")))
        both = samples.record("both", "Patient/1", "Patient/10")
        await put(writer, both)
        await writer.delete(record, "o3")
        selection: Selection = EveryPatient() if everyone else members_of("Patient/1", "Patient/10")
        types = sorted({record, "Patient", *([samples.outside_type] if samples.outside_type else [])})
        queries = [await reader.query(type_, selection, page_bytes=page_bytes) for type_ in types]
        queries = [replace(query, as_of=queries[0].as_of) for query in queries]
        found = await self.blocks(store, queries)
        held: dict[str, list[str]] = {}
        for block in found:
            names = [f"{block.type}/{json.loads(line)['id']}" for line in block.page.lines.splitlines()]
            if block.type == "Patient":
                assert block.reference not in held, "the patient comes first"
            held.setdefault(block.reference, []).extend(names)
        shared = set() if both is None else {f"{record}/both"}
        expected = {
            "Patient/1": {"Patient/1", *(f"{record}/o{number}" for number in (0, 1, 2, 4, 5))} | shared,
            "Patient/10": {"Patient/10"} | shared,
            "Patient/2": {"Patient/2"},
            "Patient/3": {"Patient/3"},
        }
        listed = {name: rest for name, rest in expected.items() if everyone or name in {"Patient/1", "Patient/10"}}
        assert {name: set(rest) for name, rest in held.items()} == listed, "a block is what lies in its patient's compartment"
        assert all(max(Counter(rest).values()) == 1 for rest in held.values()), "a resource is in a block once"

    async def test_nobody_has_no_block(self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples) -> None:
        """An empty selection is empty."""
        needs(store, SupportsOrganising)
        await writer.put(samples.patient("1"))
        assert await self.blocks(store, [await reader.query("Patient", members_of())]) == [], "an empty selection is empty"

    async def test_a_window_and_a_cut_hold_in_blocks(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Laws 2 and 5."""
        needs(store, SupportsOrganising)
        needs(store, SupportsSnapshot)
        await put(writer, samples.patient("1"), samples.record("old", "Patient/1"))
        since = max((await reader.instants(await reader.query("Patient"))).values())
        await put(writer, samples.record("new", "Patient/1"))
        query = await reader.query(samples.record_type, EveryPatient(), since=since)
        before = await self.blocks(store, [query])
        await put(writer, samples.record("new", "Patient/2"), samples.record("later", "Patient/1"))
        assert await self.blocks(store, [query]) == before, "a cut is exact"
        assert [json.loads(block.page.lines)["id"] for block in before] == ["new"], "a block holds what is in the window"


class JoiningSuite(StorageSuite):
    """The promises of `SupportsJoining`. Override `put_group` if groups are not resources of the storage."""

    async def put_members(self, writer: Writer, id_: str, *members: str) -> None:
        """Create or change a group."""
        entries = [{"entity": {"reference": reference}} for reference in members]
        await writer.put(json.dumps({"resourceType": "Group", "id": id_, "type": "person", "actual": True, "member": entries}))

    async def test_members_are_known_as_of_any_instant(
        self, store: SupportsExport, reader: Reader, writer: Writer, principal: Principal
    ) -> None:
        """GR-01."""
        needs(store, SupportsJoining)
        needs(store, SupportsSnapshot)
        assert isinstance(store, SupportsJoining)
        instants = [await reader.cut()]
        for members in (["Patient/1"], ["Patient/1", "Patient/2"], ["Patient/2"]):
            await self.put_members(writer, "g", *members)
            instants.append(await reader.cut())
        found = [await store.members_at("g", principal, instant) for instant in instants if instant is not None]
        assert found == [
            frozenset(),
            frozenset({"Patient/1"}),
            frozenset({"Patient/1", "Patient/2"}),
            frozenset({"Patient/2"}),
        ], "members are those of the instant; before there was a group, nobody"
        assert await store.members_at("unknown", principal, Instant(0)) == frozenset(), "an unknown group had no members"


def _ids(pages: Sequence[Page]) -> list[str]:
    return [json.loads(line)["id"] for page in pages for line in page.lines.splitlines()]
