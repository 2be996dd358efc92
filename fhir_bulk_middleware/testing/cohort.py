"""Suites for what mirrors of a cohort need: named resources, what names a resource, what left, and what entered."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

from fhir_bulk_middleware.contract.query import EveryPatient, NoPatient, Page, ProvenanceTarget, Query, Selection
from fhir_bulk_middleware.contract.storage import (
    SupportsContext,
    SupportsDeletions,
    SupportsExport,
    SupportsLeft,
    SupportsNaming,
    SupportsProvenance,
    SupportsSnapshot,
)
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, members_of, needs, patient, put
from fhir_bulk_middleware.testing.samples import provenance

__all__ = ["ContextSuite", "EnteredSuite", "LeftSuite", "NamingSuite"]


async def _ids(pages: AsyncIterator[Page], page_bytes: int) -> list[str]:
    found: list[str] = []
    async for page in pages:
        assert page.count == page.lines.count(b"\n") > 0, "a page has as many lines as it says, and one at least"
        assert len(page.lines) <= page_bytes or page.count == 1, "a page is no larger than asked, but for a single resource"
        contents = [json.loads(line) for line in page.lines.split(b"\n")[:-1]]
        assert len({content["resourceType"] for content in contents}) == 1, "the lines of a page are of one type"
        found += [content["id"] for content in contents]
    return found


class ContextSuite(StorageSuite):
    """The promises of `SupportsContext`."""

    @pytest.mark.parametrize("page_bytes", [1, 10**6])
    async def test_named_resources_come_in_the_order_of_their_ids(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples, page_bytes: int
    ) -> None:
        """Law 40: what does not exist or was deleted is left out."""
        needs(store, SupportsContext)
        assert isinstance(store, SupportsContext)
        await put(writer, *(samples.patient(id_) for id_ in ("c", "a", "gone", "b", "other")), samples.outside("x"))
        await writer.delete("Patient", "gone")
        query = await reader.query("Patient", page_bytes=page_bytes)
        found = await _ids(store.named(query, ["a", "b", "c", "gone", "never", "x"]), page_bytes)
        assert found == ["a", "b", "c"], "those of the ids that live come, in the order of the ids"
        assert await _ids(store.named(query, []), page_bytes) == [], "no ids name nothing"

    async def test_named_resources_are_those_of_the_instant(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """The instant may be earlier than the cut: `_until`, or `_since`."""
        needs(store, SupportsContext)
        needs(store, SupportsSnapshot)
        assert isinstance(store, SupportsContext)
        await writer.put(samples.patient("1", "old"), samples.patient("gone"))
        query = await reader.query("Patient")
        await writer.put(samples.patient("1", "new"), samples.patient("later"))
        await writer.delete("Patient", "gone")
        lines = [line async for page in store.named(query, ["1", "gone", "later"]) for line in page.lines.splitlines()]
        found = {content["id"]: samples.text_of(content) for content in map(json.loads, lines)}
        assert found == {"1": "old", "gone": "of gone"}, "named resources are read as of the instant"


class NamingSuite(StorageSuite):
    """The promises of `SupportsNaming`, and of the selection `NoPatient`, for which only it is asked."""

    async def naming(self, reader: Reader, selection: Selection, type_: str, id_: str, as_of: Instant | None = None) -> set[str]:
        """The ids of the records that name a resource."""
        assert isinstance(reader.store, SupportsNaming)
        query = await reader.query(reader.samples.record_type, selection, as_of=as_of)
        reference = f"{type_}/{id_}"
        found: list[str] = []
        async for page in reader.store.naming([query], reference):
            contents = [json.loads(line) for line in page.lines.split(b"\n")[:-1]]
            assert page.count == len(contents) > 0, "a page has as many lines as it says, and one at least"
            assert all(content["resourceType"] == query.type for content in contents), "a page is of the query's type"
            found += [content["id"] for content in contents]
        assert len(found) == len(set(found)), "what names a resource comes once"
        return set(found)

    async def test_what_names_a_resource_is_found(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """Law 40: in the selection, and as it is."""
        needs(store, SupportsNaming)
        outside, one = samples.outside_type, samples.naming("one", "Patient/1", "x")
        if outside is None or one is None:
            pytest.skip("the storage has no record that names a resource outside of the Patient compartment")
        others = [samples.naming(id_, "Patient/2", "x") for id_ in ("two", "gone", "changes")]
        await put(writer, samples.patient("1"), samples.patient("2"), samples.outside("x"), samples.outside("y"))
        await put(writer, one, *others, samples.naming("other", "Patient/1", "y"))
        before = await reader.cut()
        await put(writer, samples.naming("changes", "Patient/2", "y"))
        await writer.delete(samples.record_type, "gone")
        found = await self.naming(reader, EveryPatient(), outside, "x")
        assert {"one", "two"} <= found, "each resource that names the reference is found"
        assert "gone" not in found, "what was deleted names nothing"
        found = await self.naming(reader, members_of("Patient/1"), outside, "x")
        assert "one" in found, "each resource that names the reference is found"
        assert "two" not in found, "only resources of the selection are found"
        if before is not None:
            found = await self.naming(reader, members_of("Patient/2"), outside, "x", before)
            assert {"two", "gone", "changes"} <= found, "what names a resource is read as of the instant"

    async def test_no_patient_s_is_what_lies_in_no_compartment(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """`NoPatient`, in pages and deletions."""
        needs(store, SupportsNaming)
        type_ = samples.record_type
        await put(writer, samples.patient("1"), samples.record("mine", "Patient/1"), samples.outside("x"))
        free = samples.record("free")
        await put(writer, free, samples.record("leaves"), samples.record("gone"), samples.record("hers", "Patient/1"))
        expected = [] if free is None else ["free", "gone", "leaves"]
        assert sorted(await reader.ids(await reader.query(type_, NoPatient()))) == expected, (
            "no patient's is what no patient owns"
        )
        assert await reader.ids(await reader.query("Patient", NoPatient())) == [], "no patient's is what no patient owns"
        if samples.outside_type is not None:
            found = await reader.ids(await reader.query(samples.outside_type, NoPatient()))
            assert found == ["x"], "no patient's is what no patient owns"
        if free is None or not isinstance(store, SupportsDeletions) or not isinstance(store, SupportsSnapshot):
            return
        since = await reader.cut()
        await put(writer, samples.record("leaves", "Patient/1"))
        for id_ in ("leaves", "gone", "hers"):
            await writer.delete(type_, id_)
        gone = await reader.gone(await reader.query(type_, NoPatient(), since=since))
        assert sorted(gone) in ([], [f"{type_}/gone", f"{type_}/leaves"]), "a deletion is no patient's if the resource ever was"


class LeftSuite(StorageSuite):
    """The promises of `SupportsLeft` (law 34)."""

    async def left(self, store: SupportsExport, query: Query) -> set[str]:
        """The ids of what left; also checks that reading on from each cursor gives the rest."""
        assert isinstance(store, SupportsLeft)
        pages = [page async for page in store.left(query, None)]
        for done, page in enumerate(pages, 1):
            assert page.references, "a page of what left is never empty"
            rest = [later async for later in store.left(query, page.cursor)]
            assert rest == pages[done:], "reading what left on from a cursor gives the rest"
        found = [reference for page in pages for reference in page.references]
        assert len(found) == len(set(found)), "what left is told once"
        return {reference.removeprefix(f"{query.type}/") for reference in found}

    async def test_what_lives_elsewhere_has_left(
        self, store: SupportsExport, reader: Reader, writer: Writer, samples: Samples
    ) -> None:
        """By the versions as of `_since` and as of the cut, whatever was between."""
        needs(store, SupportsLeft)
        needs(store, SupportsSnapshot)
        record, type_ = samples.record, samples.record_type
        await writer.put(samples.patient("1"), samples.patient("10"))
        moving = ("moves", "returns", "dies", "again", "stays", "changes")
        await put(writer, *(record(id_, "Patient/1") for id_ in moving), record("hers", "Patient/10"))
        since = await reader.cut()
        await put(writer, *(record(id_, "Patient/10", text="there") for id_ in ("moves", "returns", "dies", "new")))
        await put(writer, record("changes", "Patient/1", text="here"), record("hers", "Patient/1"))
        await writer.delete(type_, "again")
        between = await reader.cut()
        await put(writer, record("returns", "Patient/1"), record("again", "Patient/10"), record("moves", "Patient/10", text="on"))
        await writer.delete(type_, "dies")
        cut = await reader.cut()
        await put(writer, record("stays", "Patient/10"))

        async def told(selection: Selection, after: Instant | None = since) -> set[str]:
            return await self.left(store, await reader.query(type_, selection, since=after, as_of=cut))

        one = members_of("Patient/1")
        found = await told(one)
        assert found <= {"moves", "again"}, "only what lived in the selection and lives outside of it has left"
        assert found >= {"moves", "again"}, "all that lived in the selection and lives outside of it has left"
        assert await told(one, between) == set(), "what had left before the window is not told again"
        assert await told(members_of("Patient/10")) == {"hers"}, (
            "all that lived in the selection and lives outside of it has left"
        )
        assert await told(EveryPatient()) == set(), "what moved from patient to patient is still a patient's"
        assert await told(members_of()) == set(), "nothing leaves an empty selection"


class EnteredSuite(StorageSuite):
    """The promise of `SupportsProvenance` about what entered the selection (law 34)."""

    async def test_old_provenance_comes_with_what_entered(self, store: SupportsExport, reader: Reader, writer: Writer) -> None:
        """Also of what was created, and created again; not of what only changed."""
        needs(store, SupportsProvenance)
        needs(store, SupportsSnapshot)
        assert isinstance(store, SupportsProvenance)
        samples = Samples()
        await put(writer, patient("1"), *(samples.record(id_, "Patient/2") for id_ in ("moves", "hers")))
        await put(writer, *(samples.record(id_, "Patient/1") for id_ in ("changes", "stays", "back")))
        names = ("moves", "hers", "changes", "stays", "back", "new")
        await writer.put(*(provenance(f"of-{name}", f"Observation/{name}") for name in names))
        await writer.delete("Observation", "back")
        since = await reader.cut()
        await put(writer, *(samples.record(id_, "Patient/1", text="now") for id_ in ("moves", "changes", "back", "new")))
        query = await reader.query("Observation", members_of("Patient/1"), since=since)
        old = await reader.query("Provenance", until=since, as_of=query.as_of)
        found = await _ids(store.provenance(old, [ProvenanceTarget(query, entered=True)], None, latest=False), old.page_bytes)
        assert sorted(found) == ["of-back", "of-moves", "of-new"], "old Provenance comes with what entered the selection, alone"
        plain = ProvenanceTarget(replace(query, selection=members_of("Patient/2")), entered=True)
        assert await _ids(store.provenance(old, [plain], None, latest=False), old.page_bytes) == [], "nothing entered"
