"""The suites for storages whose resources can be deleted, and for logs of deletes.

Subclass `DeleteSuite` with the fixtures of `ResourceStoreSuite`: the adapter over an empty storage, a writer that changes the
storage directly and, if it does not keep any JSON, `samples`; `DeletionLogSuite` with one fixture, `log`.

    class TestMyDeletes(DeleteSuite):
        @pytest.fixture
        def store(self):
            return MyAdapter(...)

        @pytest.fixture
        def writer(self, store):
            return MyWriter(...)       # put(*resources), delete(type, id)

Each test is a promise of `fhir_bulk_middleware.contract`, which its failure names. A test of a capability that the adapter lacks
is skipped with the name of the capability.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.deletes import (
    DeletionLog,
    SupportsBatchDelete,
    SupportsConditionalDelete,
    SupportsDelete,
    SupportsLockedDelete,
    SupportsOutbox,
)
from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Batch,
    BatchId,
    Mark,
    Matches,
    NeverExisted,
    Removal,
    Removed,
    Report,
    Target,
    VersionMismatch,
)
from fhir_bulk_middleware.contract.storage import SupportsDeletions, SupportsExport, SupportsRead, SupportsSnapshot
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.fhir.version import FhirVersion
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.testing.job_values import Suite, together
from fhir_bulk_middleware.testing.needed import pytest
from fhir_bulk_middleware.testing.resource_values import Reader, Samples, StorageSuite, Writer, needs, put

__all__ = [
    "BatchDeleteSuite",
    "ConditionalDeleteSuite",
    "DeleteSuite",
    "DeletionLogSuite",
    "LockedDeleteSuite",
    "OneDeleteSuite",
    "OutboxSuite",
    "ReadSuite",
]

_RACES = 10
_GONE = (AlreadyDeleted, NeverExisted)


class Deleting(SupportsExport, SupportsDelete, Protocol):
    """A storage with exports and deletes."""


class Conditional(Deleting, SupportsConditionalDelete, Protocol):
    """A storage that also deletes by criteria."""


async def _rights(store: SupportsDelete, principal: Principal) -> str:
    return (await store.deletable(principal)).rights


async def _version(store: SupportsConditionalDelete, target: Target) -> str:
    (match,) = (await store.find(target, at_most=1)).versions
    return match.version


class ReadSuite(StorageSuite):
    """The promises of `SupportsRead`."""

    async def test_the_current_version_is_read(self, store: SupportsExport, writer: Writer, samples: Samples) -> None:
        """Law 29."""
        needs(store, SupportsRead)
        assert isinstance(store, SupportsRead)
        assert await store.current("Patient", "1") is None, "what never was is None"
        await writer.put(samples.patient("1", "old"))
        old = await store.current("Patient", "1")
        await writer.put(samples.patient("1", "new"))
        new = await store.current("Patient", "1")
        assert old is not None, "what was written is read"
        assert new is not None, "what was written is read"
        assert samples.text_of(json.loads(new.json)) == "new", "the current version is the last that was written"
        assert (new.type, new.id, new.deleted) == ("Patient", "1", False), "a resource is read under its name"
        assert new.version != old.version, "each version has an id of its own"
        assert b"\n" not in new.json, "a resource is one line"
        assert await store.current(samples.record_type, "1") is None, "an id belongs to its type"
        await writer.delete("Patient", "1")
        gone = await store.current("Patient", "1")
        assert gone is None or gone.deleted, "what was deleted does not live"


class OneDeleteSuite(StorageSuite):
    """The promises of `SupportsDelete`."""

    async def test_what_is_removed_comes_back_as_it_was(
        self, store: Deleting, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """As SQL's `DELETE ... RETURNING *` does."""
        needs(store, SupportsDelete)
        rights = await _rights(store, principal)
        await writer.put(samples.patient("1", "kept text"), samples.patient("2"))
        removal = await store.remove("Patient", "1", None, rights)
        assert isinstance(removal, Removed), "a resource that lives can be removed"
        assert samples.text_of(json.loads(removal.resource.json)) == "kept text", "what was removed comes back"
        assert (removal.resource.type, removal.resource.id) == ("Patient", "1"), "what was removed comes back"
        assert json.loads(removal.resource.json)["meta"]["versionId"] == removal.resource.version, (
            "the version that is told is that of the text"
        )

    async def test_what_was_removed_is_gone_and_nothing_else(
        self, store: Deleting, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """From every read, at once."""
        needs(store, SupportsDelete)
        await put(writer, samples.patient("1"), samples.patient("2"), samples.record("1", "Patient/2"), samples.outside("1"))
        await store.remove("Patient", "1", None, await _rights(store, principal))
        assert await reader.ids(await reader.query("Patient")) == ["2"], "what was removed is gone, and nothing else"
        for type_ in (samples.record_type, samples.outside_type):
            if type_ is not None:
                assert await reader.ids(await reader.query(type_)) == ["1"], "an id belongs to its type"

    async def test_a_second_removal_removes_nothing(
        self, store: Deleting, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """A storage without a record of deletes may answer that it never existed."""
        needs(store, SupportsDelete)
        rights = await _rights(store, principal)
        await writer.put(samples.patient("1"))
        first = await store.remove("Patient", "1", None, rights)
        assert isinstance(first, Removed), "a resource that lives can be removed"
        again = await store.remove("Patient", "1", frozenset({first.resource.version}), rights)
        assert isinstance(again, _GONE), "what is gone is not removed again, nor is it a mismatch"
        if isinstance(again, AlreadyDeleted):
            assert again.version == first.resource.version, (
                "of what is gone the version that was removed is told: marking a row as deleted leaves its version as it is"
            )
        assert await store.remove("Patient", "never", None, rights) == NeverExisted(), "what never was is told so"
        await writer.put(samples.patient("1", "back"))
        assert isinstance(await store.remove("Patient", "1", None, rights), Removed), "what came back can be removed again"

    async def test_another_version_is_left_alone(
        self, store: Deleting, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """Law 25: the call itself decides `If-Match`."""
        needs(store, SupportsDelete)
        rights = await _rights(store, principal)
        await writer.put(samples.patient("1", "old"))
        removed = await store.remove("Patient", "1", None, rights)
        assert isinstance(removed, Removed), "a resource that lives can be removed"
        old = removed.resource.version
        await writer.put(samples.patient("1", "new"))
        for versions in ({old}, {"no-such-version"}, set()):
            removal = await store.remove("Patient", "1", frozenset(versions), rights)
            assert removal == VersionMismatch(), "a resource at another version is left alone"
        assert await reader.texts(await reader.query("Patient")) == {"1": "new"}, "a resource at another version is left alone"

    async def test_of_several_removals_at_once_one_removes(
        self, store: Deleting, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """The caller that removed gets the resource."""
        needs(store, SupportsDelete)
        rights = await _rights(store, principal)
        for race in range(_RACES):
            id_ = f"p{race}"
            await writer.put(samples.patient(id_))
            removals: list[Removal] = await together(4, lambda _, id_=id_: store.remove("Patient", id_, None, rights))  # type: ignore[misc]
            removed = [removal for removal in removals if isinstance(removal, Removed)]
            assert len(removed) == 1, "of several removals one removes"
            assert all(isinstance(removal, (Removed, *_GONE)) for removal in removals), "of several removals one removes"

    async def test_of_a_removal_and_an_update_neither_is_lost(
        self, store: Conditional, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """A removal with a version never removes a later version."""
        needs(store, SupportsDelete)
        needs(store, SupportsConditionalDelete)
        rights = await _rights(store, principal)
        for race in range(_RACES):
            id_ = f"p{race}"
            await writer.put(samples.patient(id_, "old"))
            version = await _version(store, _target("Patient", ("_id", id_), rights=rights))
            outcome: list[Removal] = []

            async def remove(id_: str = id_, version: str = version, outcome: list[Removal] = outcome) -> None:
                outcome.append(await store.remove("Patient", id_, frozenset({version}), rights))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(remove)
                tasks.start_soon(writer.put, samples.patient(id_, "new"))
            assert (await reader.texts(await reader.query("Patient"))).get(id_) == "new", "a removal never takes a later version"
            assert isinstance(outcome[0], Removed | VersionMismatch), "a removal removes, or is told of the other version"

    async def test_a_removal_is_in_the_next_deletions(
        self, store: Deleting, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """Law 3, and law 6 without snapshots; a resource that was created again is in the output (MF-22)."""
        needs(store, SupportsDelete)
        needs(store, SupportsDeletions)
        rights = await _rights(store, principal)
        await writer.put(*(samples.patient(id_) for id_ in ("kept", "gone", "back")))
        since = await reader.cut()
        for id_ in ("gone", "back"):
            await store.remove("Patient", id_, None, rights)
        await writer.put(samples.patient("back"))
        query = await reader.query("Patient", since=since)
        assert await reader.gone(query) == ["Patient/gone"], "what was removed is told once, unless it came back"
        if since is not None:
            assert await reader.ids(query) == ["back"], "what came back is in the output"

    async def test_an_export_does_not_see_a_removal_after_its_cut(
        self, store: Deleting, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """With snapshots an export as of the cut still has it, and the next one lists the deletion."""
        needs(store, SupportsDelete)
        needs(store, SupportsSnapshot)
        await writer.put(*(samples.patient(f"p{number}", "x" * 400) for number in range(6)))
        query = await reader.query("Patient", page_bytes=1_000)
        pages = await reader.pages(query)
        for number in range(6):
            await store.remove("Patient", f"p{number}", None, await _rights(store, principal))
        assert await reader.pages(query) == pages, "an export as of a cut is not changed by a removal"
        assert await reader.pages(query, pages[0].cursor) == pages[1:], "an export as of a cut is not changed by a removal"
        if isinstance(store, SupportsDeletions):
            assert await reader.gone(query) == [], "a removal after the cut belongs to the next export"
            following = await reader.gone(await reader.query("Patient", since=query.as_of))
            assert sorted(following) == [f"Patient/p{number}" for number in range(6)], "a removal is in the next deletions"


class ConditionalDeleteSuite(StorageSuite):
    """The promises of `SupportsConditionalDelete`."""

    @pytest.fixture
    async def rights(self, store: SupportsExport, principal: Principal) -> str:
        """The adapter's context about rows for this principal."""
        needs(store, SupportsConditionalDelete)
        return await _rights(store, principal) if isinstance(store, SupportsDelete) else ""

    async def test_a_target_is_met_by_what_lives_and_matches(
        self, store: Conditional, writer: Writer, rights: str, samples: Samples
    ) -> None:
        """All criteria, and the restrictions of granular scopes, on one type (law 8)."""
        await put(
            writer,
            *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(5)),
            samples.patient("o1", "wanted"),
        )
        await put(
            writer, samples.record("other", "Patient/1", text="another"), samples.record("changed", "Patient/1", text="wanted")
        )
        await put(writer, samples.record("changed", "Patient/2", text="another"))
        await writer.delete(samples.record_type, "o4")
        for at_most in (0, 2, 4, 100):
            matches = await store.find(_target(samples.record_type, samples.criterion("wanted"), rights=rights), at_most=at_most)
            assert matches.count == 4, "all that live and match are counted"
            assert len(matches.versions) == min(at_most, 4), "as many are named as were asked for"
            assert {match.id for match in matches.versions} <= {f"o{n}" for n in range(4)}, "only what matches is named"
        for criteria in (("_id", "o1"), ("_id", "o4,none,o1")):
            matches = await store.find(_target(samples.record_type, criteria, rights=rights), at_most=9)
            assert [match.id for match in matches.versions] == ["o1"], "only what matches is named"
        granted = (Filter(samples.record_type, (_criteria(samples.record_type, ("_id", "o2,other")),)),)
        matches = await store.find(
            _target(samples.record_type, samples.criterion("wanted"), granted=granted, rights=rights), at_most=9
        )
        assert [match.id for match in matches.versions] == ["o2"], "what is not granted is not found"
        assert (await store.find(_target("Condition", ("_id", "o1"), rights=rights), at_most=9)).count == 0, (
            "of a type of which there is nothing, nothing is found"
        )

    async def test_all_matches_are_removed_in_one_go(
        self, store: Conditional, writer: Writer, reader: Reader, rights: str, samples: Samples
    ) -> None:
        """And are returned as they were."""
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(40)))
        await put(writer, samples.record("other", "Patient/1", text="another"), samples.patient("o1", "wanted"))
        target = _target(samples.record_type, samples.criterion("wanted"), rights=rights)
        removed = await store.remove_all(target, await store.find(target, at_most=100))
        assert isinstance(removed, Sequence), "matches that have not changed are removed"
        assert sorted(each.id for each in removed) == sorted(f"o{number}" for number in range(40)), "all matches are removed"
        assert all(samples.text_of(json.loads(each.json)) == "wanted" for each in removed), "what was removed comes back"
        assert await reader.ids(await reader.query(samples.record_type)) == ["other"], "all matches are removed, and nothing else"
        assert await reader.ids(await reader.query("Patient")) == ["o1"], "an id belongs to its type"

    @pytest.mark.parametrize("change", ["one more", "one changed", "one gone", "one changed into another"])
    async def test_matches_that_are_not_the_matches_any_more_are_left_alone(  # noqa: PLR0917 - pytest names them
        self, store: Conditional, writer: Writer, reader: Reader, rights: str, change: str, samples: Samples
    ) -> None:
        """None of them is removed: the client did not ask for this set."""
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(3)))
        target = _target(samples.record_type, samples.criterion("wanted"), rights=rights)
        matches = await store.find(target, at_most=9)
        match change:
            case "one more":
                await put(writer, samples.record("new", "Patient/1", text="wanted"))
            case "one changed":
                await put(writer, samples.record("o1", "Patient/2", text="wanted"))
            case "one gone":
                await writer.delete(samples.record_type, "o1")
            case _:
                await put(writer, samples.record("o1", "Patient/1", text="another"))
        before = await reader.texts(await reader.query(samples.record_type))
        assert await store.remove_all(target, matches) is None, "matches that have changed are not removed"
        assert await reader.texts(await reader.query(samples.record_type)) == before, (
            "when matches have changed nothing is removed"
        )

    async def test_of_a_remove_all_and_a_write_each_sees_the_other_or_not(
        self, store: Conditional, writer: Writer, reader: Reader, rights: str, samples: Samples
    ) -> None:
        """The outcome is that of one after the other."""
        for race in range(_RACES):
            tag = f"t{race}"
            await put(writer, *(samples.record(f"{tag}-{number}", "Patient/1", text=tag) for number in range(3)))
            target = _target(samples.record_type, samples.criterion(tag), rights=rights)
            matches = await store.find(target, at_most=9)
            removed: list[object] = []

            async def remove(target: Target = target, matches: Matches = matches, removed: list[object] = removed) -> None:
                removed.append(await store.remove_all(target, matches))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(put, writer, samples.record(f"{tag}-new", "Patient/1", text=tag)))
                tasks.start_soon(remove)
            left = {id_ for id_ in await reader.ids(await reader.query(samples.record_type)) if id_.startswith(f"{tag}-")}
            whole = {f"{tag}-{number}" for number in range(3)} if removed[0] is None else set()
            assert left == {f"{tag}-new"} | whole, "a remove-all takes all of its matches, or none, and nothing that came later"


class BatchDeleteSuite(StorageSuite):
    """The promises of `SupportsBatchDelete`."""

    async def _batch(self, store: Conditional, writer: Writer, principal: Principal, samples: Samples, run: str = "run") -> Batch:
        """A batch of three unchanged resources, one that has changed since, and one that is gone."""
        needs(store, SupportsBatchDelete)
        needs(store, SupportsConditionalDelete)
        rights = await _rights(store, principal)
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(5)))
        found = await store.find(_target(samples.record_type, samples.criterion("wanted"), rights=rights), at_most=9)
        versions = tuple(sorted(found.versions, key=lambda match: match.id))
        await put(writer, samples.record("o3", "Patient/1", text="wanted"))
        await writer.delete(samples.record_type, "o4")
        return Batch(id=BatchId(run, 7), type=samples.record_type, versions=versions, rights=rights)

    async def test_what_is_as_it_was_frozen_is_removed(
        self, store: Conditional, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """Law 26: changed resources are not removed, and reported."""
        batch = await self._batch(store, writer, principal, samples)
        assert isinstance(store, SupportsBatchDelete)
        outcomes = await store.remove_batch(batch)
        assert list(outcomes or ()) == [DeleteOutcome.DELETED] * 3 + [
            DeleteOutcome.VERSION_MISMATCH,
            DeleteOutcome.ALREADY_DELETED,
        ], "what came of each is told, in order"
        assert await reader.ids(await reader.query(samples.record_type)) == ["o3"], (
            "what changed since it was frozen is left alone"
        )

    async def test_a_batch_is_done_once(
        self, store: Conditional, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """However often it is begun, and by several callers at once."""
        batch = await self._batch(store, writer, principal, samples)
        assert isinstance(store, SupportsBatchDelete)
        several = await together(4, lambda _: store.remove_batch(batch))
        assert all(list(outcomes or ()) == list(several[0] or ()) for outcomes in several), "a batch has one outcome"
        assert list(several[0] or ()).count(DeleteOutcome.DELETED) == 3, "a batch has one outcome"
        await put(writer, samples.record("o0", "Patient/1", text="back"))
        assert list(await store.remove_batch(batch) or ()) == list(several[0] or ()), "a batch that was done is not done again"
        assert "o0" in await reader.ids(await reader.query(samples.record_type)), "a batch that was done is not done again"

    async def test_nothing_is_removed_after_the_end_of_the_run(
        self, store: Conditional, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """So the tally in the response to a cancel stays true."""
        batch = await self._batch(store, writer, principal, samples)
        assert isinstance(store, SupportsBatchDelete)
        first = Batch(id=BatchId("run", 0), type=samples.record_type, versions=batch.versions[:1], rights=batch.rights)
        await store.remove_batch(first)
        for again in (False, True):
            tally = await store.end_run("run", cancelled=not again)
            assert (tally.removed, tally.left, tally.doubtful) == (1, 0, 0), "the end of a run tells what it has come to"
            assert tally.cancelled, "whoever ended a run first says whether it was a cancel"
        assert await store.remove_batch(batch) is None, "after its end a run removes nothing"
        assert sorted(await reader.ids(await reader.query(samples.record_type))) == ["o1", "o2", "o3"], (
            "after its end a run removes nothing"
        )
        other = Batch(id=BatchId("other", 0), type=samples.record_type, versions=batch.versions[1:2], rights=batch.rights)
        assert list(await store.remove_batch(other) or ()) == [DeleteOutcome.DELETED], "each run ends by itself"
        never = await store.end_run("never begun")
        assert (never.removed, never.left) == (0, 0), "a run that never began has come to nothing"


class LockedDeleteSuite(StorageSuite):
    """The promises of `SupportsLockedDelete`."""

    async def test_what_is_found_under_the_lock_is_removed_or_nothing(
        self, store: Conditional, writer: Writer, reader: Reader, principal: Principal, samples: Samples
    ) -> None:
        """The conditions of a conditional delete hold at the instant of the removal."""
        needs(store, SupportsLockedDelete)
        assert isinstance(store, SupportsLockedDelete)
        rights = await _rights(store, principal)
        target = _target(samples.record_type, samples.criterion("wanted"), rights=rights)
        none = await store.remove_matching(target, at_most=9, if_version=None)
        assert isinstance(none, Matches), "where nothing matches, that is told"
        assert none.count == 0, "where nothing matches, that is told"
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(3)))
        await put(writer, samples.record("other", "Patient/1", text="another"))
        for at_most, versions in ((2, None), (9, frozenset({"no-such-version"}))):
            left = await store.remove_matching(target, at_most=at_most, if_version=versions)
            assert isinstance(left, Matches), "more than were asked for, or another version, are left alone"
            assert left.count == 3, "more than were asked for, or another version, are left alone"
        assert len(await reader.ids(await reader.query(samples.record_type))) == 4, (
            "more than were asked for, or another version, are left alone"
        )
        removed = await store.remove_matching(target, at_most=3, if_version=None)
        assert isinstance(removed, Sequence), "all that match are removed"
        assert sorted(each.id for each in removed) == ["o0", "o1", "o2"], "all that match are removed, and come back"
        assert await reader.ids(await reader.query(samples.record_type)) == ["other"], (
            "all that match are removed, and nothing else"
        )


class OutboxSuite(StorageSuite):
    """The promises of `SupportsOutbox`."""

    async def test_each_removal_is_reported_in_order_under_its_note(
        self, store: Conditional, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """Law 37: with each of the delete protocols."""
        needs(store, SupportsOutbox)
        assert isinstance(store, SupportsOutbox)
        rights = await _rights(store, principal)
        await put(writer, *(samples.record(f"o{number}", "Patient/1", text="wanted") for number in range(6)))
        one = store.recording("first")
        await one.remove(samples.record_type, "o0", None, rights)
        await one.remove(samples.record_type, "o0", None, rights)
        await one.remove(samples.record_type, "o1", frozenset({"no-such-version"}), rights)
        expected: list[tuple[str, tuple[str, ...]]] = [("first", ("o0",))]
        if isinstance(several := store.recording("second"), SupportsConditionalDelete):
            target = _target(samples.record_type, ("_id", "o1,o2"), rights=rights)
            await several.remove_all(target, await several.find(target, at_most=9))
            expected.append(("second", ("o1", "o2")))
        if isinstance(locked := store.recording("third"), SupportsLockedDelete):
            await locked.remove_matching(_target(samples.record_type, ("_id", "o3"), rights=rights), at_most=1, if_version=None)
            expected.append(("third", ("o3",)))
        if isinstance(store, SupportsBatchDelete):
            found = await store.find(_target(samples.record_type, ("_id", "o4"), rights=rights), at_most=9)
            frozen = Batch(id=BatchId("r", 0), type=samples.record_type, versions=found.versions, rights=rights, note="fourth")
            for _ in range(2):
                await store.remove_batch(frozen)
            expected.append(("fourth", ("o4",)))
        await store.remove(samples.record_type, "o5", None, rights)  # without a note
        reports = await _unreported(store, "a", 1)
        told = [(report.note, tuple(sorted(report.ids))) for report in reports]
        assert told == expected, "each removal is reported once, in order, under its note"
        assert {report.type for report in reports} == {samples.record_type}, "a report names the type"
        assert sorted({report.number for report in reports}) == [report.number for report in reports], "reports are numbered"

    async def test_reports_are_leased_to_one_teller_and_kept_until_they_are_told(
        self, store: Deleting, writer: Writer, principal: Principal, samples: Samples
    ) -> None:
        """So that each is sent at least once, and usually only once."""
        needs(store, SupportsOutbox)
        assert isinstance(store, SupportsOutbox)
        rights = await _rights(store, principal)
        await writer.put(samples.patient("1"), samples.patient("2"))
        for id_ in ("1", "2"):
            await store.recording("note").remove("Patient", id_, None, rights)
        await _teller_takes_turns(store)


async def _unreported(outbox: SupportsOutbox | DeletionLog, teller: str, at: int, limit: int = 99) -> Sequence[Report]:
    reports = await outbox.unreported(teller, Instant(at), lease_seconds=1, limit=limit)
    assert reports is not None, "a lease that ended is given to whoever asks"
    return reports


async def _teller_takes_turns(outbox: SupportsOutbox | DeletionLog) -> None:
    """Check the lease of an outbox that has two reports."""
    first = await _unreported(outbox, "a", 0, limit=1)
    assert len(first) == 1, "as many reports are given as were asked for"
    other = await outbox.unreported("b", Instant(1), lease_seconds=1, limit=9)
    assert other is None, "while one tells nobody else does"
    assert list(await _unreported(outbox, "b", 2_000_000, limit=1)) == list(first), "a report that was not told is given again"
    await outbox.reported("b", [first[0].number])
    second = await _unreported(outbox, "a", 2_000_001)
    assert [report.number for report in second] > [report.number for report in first], "what was told is forgotten"
    await outbox.reported("a", [])
    assert list(await _unreported(outbox, "c", 2_000_002)) == list(second), "a teller that told nothing forgets nothing"
    await outbox.reported("c", [report.number for report in second])
    assert not await _unreported(outbox, "d", 2_000_003), "what was told is forgotten"


class DeleteSuite(ReadSuite, OneDeleteSuite, ConditionalDeleteSuite, BatchDeleteSuite, LockedDeleteSuite, OutboxSuite):
    """The promises of all delete protocols that the adapter implements."""


class DeletionLogSuite(Suite):
    """The promises of `DeletionLog`."""

    async def test_a_mark_is_in_doubt_until_it_is_settled(self, log: DeletionLog) -> None:
        """Law 28: intent, delete, confirm."""
        first, second, third = await log.intend([_mark("1"), _mark("2"), _mark("3")]) or ()
        assert [mark.id for mark in await log.doubtful("Patient", 0, 9)] == ["1", "2", "3"], "what is intended is in doubt"
        assert [mark.id for mark in await log.doubtful("Patient", first.number, 1)] == ["2"], "doubts are read by number"
        await log.settle([_at(first, 5)], [second])
        assert [mark.id for mark in await log.doubtful("Patient", 0, 9)] == ["3"], "what is settled is not in doubt"
        assert [mark.id for mark in await log.removed("Patient", None, None, 0, 9)] == ["1"], "what is gone was removed"
        assert await log.latest("Patient", "1") == _at(first, 5), "a mark comes back as it was settled"
        assert await log.latest("Patient", "2") is None, "what is left was not removed"
        assert await log.latest("Patient", "3") is None, "what is in doubt was not removed"
        assert await log.latest("Observation", "1") is None, "an id belongs to its type"
        await log.settle([_at(third, 6)], [])
        await log.settle([_at(third, 9)], [])
        await log.settle([], [third])
        assert await log.latest("Patient", "3") == _at(third, 6), "when a resource was gone is said once"

    async def test_removals_are_those_of_the_window_and_the_last_of_each(self, log: DeletionLog) -> None:
        """Law 2: since < at <= until."""
        marks = await log.intend([_mark(id_) for id_ in ("a", "b", "a", "c")]) or ()
        await log.settle([_at(mark, 10 + place) for place, mark in enumerate(marks)], [])
        for since, until, expected in [(None, None, "bac"), (10, 12, "ba"), (11, 12, "a"), (12, 12, ""), (None, 11, "b")]:
            found = await log.removed("Patient", _instant(since), _instant(until), 0, 9)
            assert "".join(mark.id for mark in found) == expected, "removals are those of the window, the last of each resource"
        assert [mark.id for mark in await log.removed("Patient", None, None, marks[1].number, 1)] == ["a"], (
            "removals are read by number"
        )

    async def test_a_batch_of_a_run_is_remembered(self, log: DeletionLog) -> None:
        """So that a batch that a crash interrupted can be resumed."""
        marks = list(await log.intend([_mark("1"), _mark("2")], BatchId("run", 3)) or ())
        assert list((await log.progress(BatchId("run", 3))).marks) == marks, "a batch that was begun is known, in order"
        assert not (await log.progress(BatchId("run", 4))).marks, "a batch that was not begun is not"
        assert not (await log.progress(BatchId("other", 3))).marks, "a batch belongs to its run"
        assert (await log.progress(BatchId("run", 3))).outcomes is None, "a batch that was not settled has no outcome"
        outcomes = [DeleteOutcome.DELETED, DeleteOutcome.VERSION_MISMATCH]
        await log.settle([_at(marks[0], 5)], [marks[1]], batch=BatchId("run", 3), outcomes=outcomes)
        assert list((await log.progress(BatchId("run", 3))).outcomes or ()) == outcomes, (
            "the outcomes of a batch come back, in order"
        )
        assert (await log.progress(BatchId("other", 3))).outcomes is None, "a batch belongs to its run"

    async def test_what_a_settling_finds_gone_is_reported_with_it(self, log: DeletionLog) -> None:
        """Law 37: once, by whichever process settles."""
        marks = [replace(_mark(id_), note=note) for id_, note in (("1", "a"), ("2", "a"), ("3", "b"), ("4", ""))]
        first, second, third, fourth = await log.intend(marks) or ()
        assert [mark.id for mark in await log.doubtful(None, 0, 9)] == ["1", "2", "3", "4"], "doubts of all types are read"
        await log.settle([_at(first, 5), _at(third, 5), _at(fourth, 5)], [second])
        await log.settle([_at(first, 6), _at(second, 6)], [])
        reports = await _unreported(log, "x", 0)
        told = [(report.note, report.type, report.ids, report.at) for report in reports]
        assert told == [("a", "Patient", ("1",), 5), ("b", "Patient", ("3",), 5)], (
            "what a settling finds gone is reported once, under its note"
        )
        await log.reported("x", [])
        await _teller_takes_turns(log)

    async def test_a_run_that_has_ended_takes_no_more(self, log: DeletionLog) -> None:
        """Law 26."""
        marks = await log.intend([_mark("1"), _mark("2")], BatchId("run", 0)) or ()
        await log.settle(
            [_at(marks[0], 5)], [marks[1]], batch=BatchId("run", 0), outcomes=[DeleteOutcome.DELETED, DeleteOutcome.PROTECTED]
        )
        await log.intend([_mark("3")], BatchId("run", 1))
        assert not await log.ended("run"), "a run ends when it is ended"
        for again in (False, True):
            tally = await log.end_run("run", cancelled=not again)
            assert (tally.removed, tally.left, tally.doubtful) == (1, 1, 1), "the end of a run tells what it has come to"
            assert tally.cancelled, "whoever ended a run first says whether it was a cancel"
        assert await log.ended("run"), "a run that was ended has ended"
        assert await log.intend([_mark("4")], BatchId("run", 2)) is None, "a run that has ended takes no more"
        assert [mark.id for mark in await log.doubtful("Patient", 0, 9)] == ["3"], "a run that has ended takes no more"
        assert await log.intend([_mark("4")], BatchId("other", 2)), "each run ends by itself"
        assert await log.intend([_mark("5")]), "what belongs to no run is not ended with one"

    async def test_what_is_forgotten_was_announced_before(self, log: DeletionLog) -> None:
        """Law 34: a job that was told a horizon can read whatever is after it."""
        one, two, three = await log.intend([_mark("1"), _mark("2"), _mark("3")]) or ()
        (four,) = await log.intend([_mark("4")], BatchId("run", 0)) or ()
        (five,) = await log.intend([_mark("5")], BatchId("run", 1)) or ()
        await log.settle([_at(one, 5), _at(two, 30)], [])
        await log.settle([_at(four, 5)], [], batch=BatchId("run", 0), outcomes=[DeleteOutcome.DELETED])
        await log.settle([_at(five, 5)], [])
        assert await log.deletions_known_since() is None, "as long as nothing was announced all is known"
        steps = [
            (10, 100, 0, 10, "12345", "a horizon is announced before anything is forgotten"),
            (20, 109, 0, 10, "12345", "what an earlier answer may be relied on for is kept for as long as a job may read"),
            (20, 110, 2, 20, "235", "what was settled before the horizon is forgotten; doubts and open batches are kept"),
            (15, 120, 0, 20, "235", "a horizon does not go back"),
        ]
        for before, now, removed, horizon, left, promise in steps:
            forgotten = await log.forget(Instant(before), now=Instant(now * 1_000_000), grace=10)
            assert forgotten == removed, promise
            assert await log.deletions_known_since() == horizon, promise
            found = [*await log.removed("Patient", None, None, 0, 9), *await log.doubtful("Patient", 0, 9)]
            assert "".join(sorted(mark.id for mark in found)) == left, promise
        assert list((await log.progress(BatchId("run", 0))).outcomes or ()) == [DeleteOutcome.DELETED], (
            "what came of a batch is kept"
        )
        tally = await log.end_run("run")
        assert (tally.removed, tally.doubtful) == (2, 0), "the end of a run tells what it has come to"
        assert (await log.doubtful("Patient", 0, 9))[0] == replace(three, note=""), "doubts are kept"


def _mark(id_: str) -> Mark:
    return Mark(type="Patient", id=id_, version="v.1-a", owners=frozenset({"Patient/1", "Device/2"}), rights='ward="7"')


def _at(mark: Mark, instant: int) -> Mark:
    values = {name: getattr(mark, name) for name in ("type", "id", "version", "owners", "rights", "number")}
    return Mark(**values, at=Instant(instant))


def _instant(value: int | None) -> Instant | None:
    return None if value is None else Instant(value)


def _criteria(type_: str, *parameters: tuple[str, str]) -> Criteria:
    return Criteria.of(FhirVersion.R4, type_, parameters)


def _target(type_: str, *parameters: tuple[str, str], granted: tuple[Filter, ...] = (), rights: str = "") -> Target:
    return Target(criteria=_criteria(type_, *parameters), granted=granted, rights=rights)
