"""Storages and logs that each delete wrongly in one way, and the promise of the kit that catches them.

pytest does not collect this file by itself: `test_broken_deletes.py` does, and wants to see each class fail.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import anyio
import pytest

from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Batch,
    BatchId,
    BatchProgress,
    Current,
    Mark,
    Matches,
    Removal,
    Removed,
    Report,
    Tally,
    Target,
)
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore
from fhir_bulk_middleware.testing.deletes import DeleteSuite, DeletionLogSuite


class Broken(MemoryResourceStore):
    """Attributes: promise: how the message begins with which the kit catches it."""

    promise: ClassVar[str]

    async def put(self, *resources: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.load(resource.encode() for resource in resources)


class ReadsOldVersions(Broken):
    promise = "the current version is the last that was written"

    async def current(self, type_: str, id_: str) -> Current | None:
        found = await super().current(type_, id_)
        first = await self.vread(type_, id_, 1)
        return found if found is None or first is None or found.deleted else replace(found, json=first.json)


class ReadsTheDead(Broken):
    promise = "what was deleted does not live"

    async def current(self, type_: str, id_: str) -> Current | None:
        found = await super().current(type_, id_)
        return None if found is None else replace(found, deleted=False)


class RemovesTwice(Broken):
    promise = "what is gone is not removed again, nor is it a mismatch"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        first = await self.vread(type_, id_, 1)
        return Removed(first.as_current()) if isinstance(removal, AlreadyDeleted) and first is not None else removal


class TellsTheVersionOfTheDeletion(Broken):
    promise = "of what is gone the version that was removed is told"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        if isinstance(removal, AlreadyDeleted) and removal.version is not None:
            return AlreadyDeleted(str(int(removal.version) + 1))
        return removal


class IgnoresTheVersion(Broken):
    promise = "a resource at another version is left alone"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:  # noqa: ARG002
        return await super().remove(type_, id_, None, rights)


class ChecksTheVersionBeforeTheCall(Broken):
    """Not where the row is locked."""

    promise = "a removal never takes a later version"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        stored = await self.read(type_, id_)
        if if_version is not None and stored is not None and not stored.deleted and str(stored.version) not in if_version:
            return await super().remove(type_, id_, if_version, rights)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return await super().remove(type_, id_, None, rights)


class TellsBothThatTheyRemoved(Broken):
    promise = "of several removals one removes"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        stored = await self.read(type_, id_)
        await anyio.lowlevel.checkpoint()
        removal = await super().remove(type_, id_, if_version, rights)
        return Removed(stored.as_current()) if stored is not None and not stored.deleted and if_version is None else removal


class RemovesOtherTypesToo(Broken):
    promise = "an id belongs to its type"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        await super().remove("Organization", id_, None, rights)
        return await super().remove(type_, id_, if_version, rights)


class ReturnsNothing(Broken):
    promise = "what was removed comes back"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        if isinstance(removal, Removed):
            return Removed(
                replace(removal.resource, json=b'{"name":[{}],"meta":{"versionId":"1"}}'.replace(b"{}", b'{"text":""}'))
            )
        return removal


class FindsTheDead(Broken):
    promise = "all that live and match are counted"

    async def find(self, target: Target, *, at_most: int) -> Matches:
        matches = await super().find(target, at_most=at_most)
        return replace(matches, count=matches.count + 1)


class WidensAGranularScope(Broken):
    promise = "what is not granted is not found"

    async def find(self, target: Target, *, at_most: int) -> Matches:
        return await super().find(replace(target, granted=()), at_most=at_most)


class CountsWhatItNames(Broken):
    promise = "all that live and match are counted"

    async def find(self, target: Target, *, at_most: int) -> Matches:
        matches = await super().find(target, at_most=at_most)
        return replace(matches, count=len(matches.versions))


class RemovesWhatMatchesNow(Broken):
    promise = "matches that have changed are not removed"

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:  # noqa: ARG002
        return await super().remove_all(target, await self.find(target, at_most=1_000))


class RemovesOneByOne(Broken):
    promise = "when matches have changed nothing is removed"

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        for match in matches.versions:
            await self.remove(target.type, match.id, frozenset({match.version}), "")
        return None


class RemovesTheWholeType(Broken):
    promise = "all matches are removed, and nothing else"

    async def remove_all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        removed = await super().remove_all(target, matches)
        for stored in (await self.search(target.type, ids=None, count=1_000, after=None)).resources:
            await self.delete(target.type, stored.id)
        return removed


class RemovesLaterVersionsInABatch(Broken):
    promise = "what came of each is told, in order"

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        versions = []
        for frozen in batch.versions:
            stored = await self.read(batch.type, frozen.id)
            versions.append(replace(frozen, version=str(stored.version)) if stored is not None else frozen)
        return await super().remove_batch(replace(batch, versions=tuple(versions)))


class ForgetsItsJournal(Broken):
    promise = "a batch that was done is not done again"

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        if any(
            stored.id == "o0" and stored.version > 2
            for stored in (await self.search(batch.type, ids=None, count=99, after=None)).resources
        ):
            await self.delete(batch.type, "o0")
        return await super().remove_batch(batch)


class GoesOnAfterTheEnd(Broken):
    promise = "after its end a run removes nothing"

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        self._ended_runs.pop(batch.id.run, None)
        return await super().remove_batch(batch)


class CountsOtherRuns(Broken):
    promise = "the end of a run tells what it has come to"

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        tally = await super().end_run(run, cancelled=cancelled)
        return replace(tally, removed=tally.removed + 1)


class ForgetsWhoEnded(Broken):
    promise = "whoever ended a run first says whether it was a cancel"

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        return replace(await super().end_run(run, cancelled=cancelled), cancelled=cancelled)


class RemovesMoreThanAsked(Broken):
    promise = "more than were asked for, or another version, are left alone"

    async def remove_matching(
        self, target: Target, *, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches:
        return await super().remove_matching(target, at_most=max(at_most, 99), if_version=if_version)


class ReportsWhatItLeaves(Broken):
    promise = "each removal is reported once, in order, under its note"

    async def remove(self, type_: str, id_: str, if_version: frozenset[str] | None, rights: str) -> Removal:
        removal = await super().remove(type_, id_, if_version, rights)
        if not isinstance(removal, Removed):
            self._report(self._note, Instant(1), type_, [id_])
        return removal


class ReportsNoBatches(Broken):
    promise = "each removal is reported once, in order, under its note"

    async def remove_batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        return await super().remove_batch(replace(batch, note=""))


class GivesReportsToAll(Broken):
    promise = "while one tells nobody else does"

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        self._outbox._teller = None
        return await super().unreported(teller, now, lease_seconds=lease_seconds, limit=limit)


class ForgetsWhatItGives(Broken):
    promise = "a report that was not told is given again"

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        reports = await super().unreported(teller, now, lease_seconds=lease_seconds, limit=limit)
        for report in reports or ():
            self._outbox._reports.pop(report.number)
        return reports


class BrokenLog(MemoryDeletionLog):
    """Attributes: promise: as above."""

    promise: ClassVar[str]


class ReportsNothing(BrokenLog):
    promise = "what a settling finds gone is reported once, under its note"

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        return await super().intend([replace(mark, note="") for mark in marks], batch)


class SettlesTwice(BrokenLog):
    promise = "when a resource was gone is said once"

    async def settle(self, gone: Sequence[Mark], left: Sequence[Mark], **more: Any) -> None:
        self._marks |= {mark.number: mark for mark in gone}
        await super().settle(gone, left, **more)


class ConfirmsAtOnce(BrokenLog):
    promise = "what is intended is in doubt"

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        numbered = await super().intend(marks, batch)
        await super().settle([replace(mark, at=Instant(1)) for mark in numbered or ()], [])
        return numbered


class TellsEveryRemoval(BrokenLog):
    promise = "removals are those of the window, the last of each resource"

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        del since, until
        return [mark for mark in self._gone(type_) if mark.number > after][:limit]


class ForgetsBatches(BrokenLog):
    promise = "a batch that was begun is known, in order"

    async def progress(self, batch: BatchId) -> BatchProgress:
        found = await super().progress(batch)
        return replace(found, marks=tuple(reversed(found.marks)))


class TakesMoreAfterTheEnd(BrokenLog):
    promise = "a run that has ended takes no more"

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        ended = batch is not None and batch.run in self._ended
        return await super().intend(marks, replace(batch, run=f"{batch.run}{batch.number}") if ended and batch else batch)


class ForgetsAtOnce(BrokenLog):
    promise = "a horizon is announced before anything is forgotten"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        del grace
        await super().forget(before, now=now, grace=0)
        return await super().forget(before, now=now, grace=0)


class ForgetsWithoutGrace(BrokenLog):
    promise = "what an earlier answer may be relied on for is kept for as long as a job may read"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        del grace
        return await super().forget(before, now=now, grace=0)


class ForgetsOpenBatches(BrokenLog):
    promise = "what was settled before the horizon is forgotten; doubts and open batches are kept"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        batches, self._batches = self._batches, {}
        forgotten = await super().forget(before, now=now, grace=grace)
        self._batches = batches
        return forgotten


class TakesItsHorizonBack(BrokenLog):
    promise = "a horizon does not go back"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        forgotten = await super().forget(before, now=now, grace=grace)
        if self._horizon is not None and self._horizon.in_force(now, grace):
            self._horizon = replace(self._horizon, since=before)
        return forgotten


def _all(base: type[Any]) -> Iterator[type[Any]]:
    several: list[type[Any]] = base.__subclasses__()
    for broken in several:
        if "promise" in vars(broken):
            yield broken
        yield from _all(broken)


BROKEN = sorted([*_all(Broken), *_all(BrokenLog)], key=lambda broken: broken.__name__)


class _Suite(DeleteSuite):
    broken: ClassVar[type[Any]]

    @pytest.fixture
    def store(self) -> Any:
        return self.broken()

    @pytest.fixture
    def writer(self, store: Any) -> Any:
        return store


class _LogSuite(DeletionLogSuite):
    broken: ClassVar[type[Any]]

    @pytest.fixture
    def log(self) -> Any:
        return self.broken()


def _suite(broken: type[Any]) -> type[Any]:
    suite: type[Any] = _LogSuite if issubclass(broken, BrokenLog) else _Suite
    return type(f"Test{broken.__name__}", (suite,), {"broken": broken, "__module__": __name__})


globals().update({f"Test{broken.__name__}": _suite(broken) for broken in BROKEN})
