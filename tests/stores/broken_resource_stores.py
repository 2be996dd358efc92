"""Storage adapters that are each broken in one way, and the promise of the kit that catches them.

pytest does not collect this file by itself: `test_broken_resource_stores.py` does, and wants to see each class fail.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import (
    Authorisation,
    Block,
    Compartments,
    Deletions,
    EveryPatient,
    Everything,
    NoPatient,
    Page,
    ProvenanceTarget,
    Query,
    Range,
    Window,
)
from fhir_bulk_middleware.instant import Clock, Instant, Precision, after, floor, parse, render, system_clock
from fhir_bulk_middleware.stores.horizon import Horizon
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore, _Version
from fhir_bulk_middleware.stores.versioned import Stored
from fhir_bulk_middleware.testing.resource_store import ResourceStoreSuite, StoredTextSuite


class Broken(MemoryResourceStore):
    """Attributes: promise: how the message begins with which the kit catches it."""

    promise: ClassVar[str]

    async def put(self, *resources: str) -> None:
        self.load(resource.encode() for resource in resources)


class HidesTypes(Broken):
    promise = "authorise names each type that is held"

    async def authorise(self, principal: Principal) -> Authorisation:
        return replace(await super().authorise(principal), types=frozenset({"Patient"}))


class ExportsOnlyWhatThereIs(Broken):
    """Authorises the types that exist at kick-off."""

    promise = "a type that is first written between kick-off and cut is in this export or in the next"

    async def authorise(self, principal: Principal) -> Authorisation:
        return replace(await super().authorise(principal), types=await self.types())


class Rewriting(Broken):
    """Changes what the pages hold."""

    def rewritten(self, page: Page, query: Query) -> Page:
        raise AssertionError(page, query)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            yield self.rewritten(page, query)


class ForgetsTheLastNewline(Rewriting):
    promise = "a page ends with a newline"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        return replace(page, lines=page.lines[:-1])


class Miscounts(Rewriting):
    promise = "a page has as many lines as it says"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        return replace(page, count=page.count + 1)


class PrettyPrints(Rewriting):
    promise = "each line begins with its type and id, in canonical form"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        return replace(page, lines=page.lines.replace(b'":', b'": '))


class RoundsNumbers(Rewriting):
    promise = "a number keeps its digits"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        lines = [json.dumps(json.loads(line), separators=(",", ":"), ensure_ascii=False) for line in page.lines.split(b"\n")[:-1]]
        return replace(page, lines="".join(f"{line}\n" for line in lines).encode())


class EscapesSlashes(Rewriting):
    promise = "a reference is found by its bytes"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        return replace(page, lines=page.lines.replace(b"Patient/", b"Patient\\/"))


class Asking(Broken):
    """Reads another query than the one that was asked."""

    def asked(self, query: Query, after: str | None) -> Query:
        raise AssertionError(query, after)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(self.asked(query, after), after):
            yield page

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        return super().deletions(self.asked(query, after), after)


class ForgetsAPath(Broken):
    """Knows an observation's subject, and not who performed it."""

    promise = "each link alone puts a resource into the compartment: Observation.performer did not"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            lines = [line for line in page.lines.split(b"\n")[:-1] if not self.forgotten(query, json.loads(line))]
            if lines:
                yield replace(page, lines=b"".join(line + b"\n" for line in lines), count=len(lines))

    @staticmethod
    def forgotten(query: Query, content: dict[str, Any]) -> bool:
        everything = isinstance(query.selection, Everything)
        return not everything and content["resourceType"] == "Observation" and "subject" not in content


class KnowsHl7sCompartmentsOnly(ForgetsAPath):
    """Leaves out a device of the patient, since HL7's definition of the compartment does not name the type (law 40)."""

    promise = "each link alone puts a resource into the compartment: Device.patient did not"

    @staticmethod
    def forgotten(query: Query, content: dict[str, Any]) -> bool:
        return not isinstance(query.selection, Everything) and content["resourceType"] == "Device"


class WritesLocalTime(Rewriting):
    promise = "lastUpdated is the instant of the write"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        lines = page.lines
        for line in page.lines.split(b"\n")[:-1]:
            shown = json.loads(line)["meta"]["lastUpdated"]
            lines = lines.replace(shown.encode(), render(after(parse(shown), 7_200), Precision.MICROSECONDS).encode())
        return replace(page, lines=lines)


class DropsUnknownElements(Rewriting):
    promise = "what was written is kept, whatever it is"

    def rewritten(self, page: Page, query: Query) -> Page:  # noqa: ARG002
        return replace(page, lines=page.lines.replace(b'"aaUnknown":true,', b""))


class IgnoresPageBytes(Asking):
    promise = "a page is no larger than asked"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        return replace(query, page_bytes=1 << 40)


class TakesNoMembersForAll(Asking):
    promise = "an empty selection is empty"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        empty = query.selection == Compartments(frozenset())
        return replace(query, selection=Everything()) if empty else query


class IgnoresTheSelection(Asking):
    promise = "a stranger has nothing here"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        selects = query.selection not in {Everything(), Compartments(frozenset())}
        return replace(query, selection=Everything()) if selects else query


class TakesSinceForInclusive(Asking):
    promise = "a window holds since < lastUpdated <= until"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        since = query.window.since
        return replace(query, window=replace(query.window, since=None if since is None else Instant(since - 1)))


class TakesUntilForExclusive(Asking):
    promise = "a window holds since < lastUpdated <= until"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        until = query.window.until
        return replace(query, window=replace(query.window, until=None if until is None else Instant(until - 1)))


class ReadsWhatIsThereNow(Asking):
    promise = "a cut is exact: writes after it are not in it"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        return replace(query, as_of=None)


class HidesWhatHasChangedSince(Asking):
    """Filters current rows by the cut, instead of reading as of it."""

    promise = "a cut is exact: writes after it are not in it"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        return replace(query, as_of=None, window=replace(query.window, until=query.as_of))


class IgnoresTheRange(Asking):
    promise = "slices hold each resource once"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        return replace(query, range="")


class PagesByInstant(Broken):
    """Reads on after the instant of the last resource, as if no other had it too."""

    promise = "resources of one instant are all read"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        since = query.window.since if after is None else Instant(int(after))
        while True:
            found = super().pages(replace(query, window=Window(since, query.window.until)), None)
            page = await anext(found, None)
            if page is None:
                return
            since = max(version.stored.last_updated for version in self._versions[: int(page.cursor) + 1])
            yield replace(page, cursor=str(since))


class ReadsOnWithTheLastResource(Broken):
    promise = "reading on from a cursor gives the rest"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, None if after is None else str(int(after) - 1)):
            yield page


class ResourcePerCompartment(Broken):
    """Reads member by member."""

    promise = "a resource in two compartments comes once"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        match query.selection:
            case Compartments(references) if references:
                queries = [replace(query, selection=Compartments(frozenset({one}))) for one in sorted(references)]
            case _:
                queries = [query]
        for one in queries:
            async for page in super().pages(one, after):
                yield page


class ShowsDeletedResources(Broken):
    promise = "the newest version comes, and nothing of what was deleted"

    async def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:  # noqa: ARG002
        return await self.read(type_, id_)


class KeepsOldCompartments(Broken):
    promise = "a resource is in the compartments that its newest version names"

    def _append(self, stored: Stored, owners: frozenset[str]) -> None:
        history = self._history.get((stored.type, stored.id))
        super()._append(stored, owners | history[-1].owners if history else owners)


class CutsFinerThanShown(Broken):
    promise = "a cut is taken at the precision that is shown"

    async def cut(self, precision: Precision) -> Instant:  # noqa: ARG002
        return Instant(await super().cut(Precision.MICROSECONDS) | 1)


class CutsRoundedUp(Broken):
    promise = "each write after a cut has a later lastUpdated"

    async def cut(self, precision: Precision) -> Instant:
        return Instant(await super().cut(precision) + precision.value)


class CreepsWhileTheClockIsBehind(Broken):
    """Rounds each cut down, also one that nobody's clock will reach for minutes."""

    promise = "what was written before a cut is in it while the clock is set back"

    async def cut(self, precision: Precision) -> Instant:
        found = floor(max(self._clock(), self._last.given), precision)
        self._last.given = max(self._last.given, found)
        return found


class CutsInThePast(Broken):
    promise = "what was written before a cut at full precision is in it"

    async def cut(self, precision: Precision) -> Instant:
        return Instant(await super().cut(precision) - 60_000_000)


class ForgetsItsCuts(Broken):
    """Stamps writes by a clock that stands still."""

    promise = "each write after a cut has a later lastUpdated"

    def __init__(self) -> None:
        stopped = system_clock()
        super().__init__(clock=lambda: stopped)

    def _tick(self) -> Instant:
        return self._clock()


class LosesTheEdgesOfSlices(Broken):
    promise = "slices hold each resource once"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        ranges = await super().slices(query, target_bytes)
        return [replace(found, range=f"{int(found.range.split('-')[0]) + 1}-{found.range.split('-')[1]}") for found in ranges]


class OverlapsSlices(Broken):
    promise = "slices hold each resource once"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        ranges = await super().slices(query, target_bytes)
        return [replace(found, range=f"0-{found.range.split('-')[1]}") for found in ranges]


class SlicesWithoutLooking(Broken):
    promise = "slices are about as large as asked"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        return await super().slices(query, target_bytes * 1_000)


class NeverSeesAChange(Broken):
    promise = "what changed has another fingerprint"

    async def fingerprint(self, query: Query) -> str | None:
        return f"{query.type} {query.range}"


class CountsTheResources(Broken):
    """As if as many resources were the same ones."""

    promise = "what changed has another fingerprint"

    async def fingerprint(self, query: Query) -> str | None:
        return str(sum([page.count async for page in self.pages(query, None)]))


class LooksAtWhatIsThereNow(Broken):
    promise = "what is changed after a cut has no other fingerprint as of it"

    async def fingerprint(self, query: Query) -> str | None:
        return await super().fingerprint(replace(query, as_of=Instant(2**62), window=Window()))


class NeverSays(Broken):
    promise = "what was not changed after the cut has a fingerprint"

    async def fingerprint(self, query: Query) -> str | None:  # noqa: ARG002
        return None


class NamesTheCut(Broken):
    promise = "what did not change has the same fingerprint as of a later cut"

    async def fingerprint(self, query: Query) -> str | None:
        return f"{await super().fingerprint(query)} {query.as_of}"


class KeepsTheFormerRanges(Broken):
    promise = "ranges near former ones hold each resource once"

    async def slices_near(self, query: Query, target_bytes: int, former: Sequence[str]) -> Sequence[Range]:
        return [Range(each, 1) for each in former] or await super().slices(query, target_bytes)


class ForgetsTheFormerRanges(Broken):
    promise = "all ranges but the last stay as they are when a type grows"

    async def slices_near(self, query: Query, target_bytes: int, former: Sequence[str]) -> Sequence[Range]:  # noqa: ARG002
        grown = sum([page.count async for page in self.pages(query, None)]) > 60
        return await super().slices(query, target_bytes + 700 * grown)


class Changed(Broken):
    """Answers another question about changed types than the one that was asked."""

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:
        raise AssertionError(types, window, as_of)

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,
        rights: str,  # noqa: ARG002
    ) -> frozenset[str]:
        return self.told(types, window, as_of)


class ForgetsDeletedTypes(Changed):
    """Looks at what lives, so that a type of which something was only deleted has not changed."""

    promise = "a type in which something was written or deleted is named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:
        living = [each.stored for each in self._versions if each.held(as_of) and not each.stored.deleted]
        return types & {stored.type for stored in living if stored.last_updated > (window.since or 0)}


class KnowsNewResourcesOnly(Changed):
    """Looks at first versions."""

    promise = "a type in which something was written or deleted is named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:  # noqa: ARG002
        first = [each.stored for each in self._versions if each.stored.version == 1]
        return types & {stored.type for stored in first if stored.last_updated > (window.since or 0)}


class TakesTheEndForTheNewest(Changed):
    """Looks at the newest change of each type, and leaves the type out if that is behind the window."""

    promise = "what a window holds is of a type that is named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:  # noqa: ARG002
        newest = {each.stored.type: each.stored.last_updated for each in self._versions}
        since, until = window.since or 0, window.until or 2**62
        return types & {type_ for type_, instant in newest.items() if since < instant <= until}


class NamesAllTypes(Changed):
    promise = "a type of which there never was anything is not named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:  # noqa: ARG002
        return types


class NamesAllThatItHolds(Changed):
    promise = "a type that did not change is not named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:  # noqa: ARG002
        return types & {each.stored.type for each in self._versions}


class NamesTypesThatNobodyAskedFor(Changed):
    promise = "only types that were asked for are named"

    def told(self, types: frozenset[str], window: Window, as_of: Instant | None) -> frozenset[str]:  # noqa: ARG002
        return types | {"Group"}


class EstimatesWhatItWasAskedFor(Broken):
    promise = "estimates together are about the number of resources"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        return [replace(found, estimate=target_bytes) for found in await super().slices(query, target_bytes)]


class TellsWhatLivesAgain(Broken):
    promise = "what was created again is not among the deletions"

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:  # noqa: ARG002
        gone = [version.stored for version in self._versions if version.stored.deleted and version.stored.type == query.type]
        yield Deletions(tuple(dict.fromkeys(f"{stored.type}/{stored.id}" for stored in gone)), "")


class TellsDeletionsTwice(Broken):
    promise = "no deletion is told twice"

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().deletions(query, after):
            yield page
            yield page


class ForgetsAtOnce(Broken):
    promise = "what is forgotten was announced before, as long as a job may read"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        await super().forget(before, now=now, grace=grace)
        horizon = self._last.horizon
        assert horizon is not None
        removed = await super().forget(horizon.since, now=now, grace=0)
        self._last.horizon = horizon
        return removed


class NeverSettlesOnAHorizon(Broken):
    promise = "a horizon holds for as long as a job may read"

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        removed = await super().forget(before, now=now, grace=grace)
        self._last.horizon = Horizon(before, now)
        return removed


class ForgetsSecondDeaths(Broken):
    promise = "applying each export in turn gives the storage at its cut"

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        died = Counter(f"{v.stored.type}/{v.stored.id}" for v in self._versions if v.stored.deleted)
        async for page in super().deletions(query, after):
            if first := tuple(reference for reference in page.references if died[reference] == 1):
                yield replace(page, references=first)


class LosesSomeOfWhatWasWrittenTogether(Broken):
    """Takes an instant for the name of one resource, when it is asked for what changed."""

    promise = "applying each export in turn gives the storage at its cut"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            lines = page.lines.splitlines(keepends=True)
            if query.window.since is not None and query.window.until is None:
                lines = list({json.loads(line)["meta"]["lastUpdated"]: line for line in lines}.values())
            yield replace(page, lines=b"".join(lines), count=len(lines))


class IgnoresTheWindowOfDeletions(Broken):
    promise = "deletions are those after since and up to until"

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        return super().deletions(replace(query, window=Window()), after)


class ReadsDeletionsOfNow(Broken):
    promise = "deletions are those after since and up to the cut"

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        return super().deletions(replace(query, as_of=None), after)


class ForgetsWhoseItWas(Broken):
    """Tells deletions by type alone."""

    promise = "a deletion is told only to whom the resource belonged"

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        selection = query.selection
        return super().deletions(replace(query, selection=Everything()) if selection != Everything() else query, after)


class TellsOnlyTheLastOwner(Broken):
    """Forgets where a resource was before it moved."""

    promise = "a deletion is told to each whose the resource was since then"

    def _selects(self, query: Query, version: _Version) -> bool:
        last = self._history[version.stored.type, version.stored.id][-2] if version.stored.deleted else version
        return super()._selects(query, last)


class ReadsMembersAtKickOff(Broken):
    """Reads all groups anew for each principal that is authorised, and not again until then."""

    promise = "who joined before the cut is a member at it, and who left is not"

    def __init__(self, *, clock: Clock = system_clock) -> None:
        super().__init__(clock=clock)
        self.kept: dict[str, frozenset[str] | None] = {}
        self.kicked_off = False

    async def authorise(self, principal: Principal) -> Authorisation:
        self.kicked_off = True
        return await super().authorise(principal)

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        if self.kicked_off and group_id in self.kept:
            return self.kept[group_id]
        self.kept[group_id] = await super().members(group_id, principal)
        return self.kept[group_id]


class TakesUnknownGroupsForEmpty(Broken):
    promise = "an unknown group is None"

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        return await super().members(group_id, principal) or frozenset()


class TakesEmptyGroupsForUnknown(Broken):
    promise = "a group without members is an empty set"

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        return await super().members(group_id, principal) or None


class RemembersOldMembers(Broken):
    promise = "members are those of now"

    def __init__(self, *, clock: Clock = system_clock) -> None:
        super().__init__(clock=clock)
        self.seen: set[str] = set()

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        self.seen |= await super().members(group_id, principal) or set()
        return frozenset(self.seen)


class GivesProvenanceForEachTarget(Broken):
    promise = "each Provenance of what is selected comes once"

    async def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        found = [
            page
            for target in targets
            async for page in MemoryResourceStore.provenance(self, query, [target], None, latest=latest)
        ]
        for number, page in enumerate(found, 1):
            if number > int(after or 0):
                yield replace(page, cursor=str(number))


class ChangesProvenance(Broken):
    """Asks for another Provenance than was wanted."""

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        raise AssertionError(query, targets, latest)

    async def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        query, targets, latest = self.changed(query, targets, latest)
        async for page in super().provenance(query, targets, after, latest=latest):
            yield page


class GivesProvenanceOfEverybody(ChangesProvenance):
    promise = "only of what lies in the compartments"

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return query, [replace(target, query=replace(target.query, selection=Everything())) for target in targets], latest


class GivesAllProvenanceForTheLatest(ChangesProvenance):
    promise = "of each resource the newest, and no other"

    def changed(
        self,
        query: Query,
        targets: Sequence[ProvenanceTarget],
        latest: bool,  # noqa: ARG002
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return query, targets, False


class IgnoresTheFiltersOfTargets(ChangesProvenance):
    promise = "what is not exported has no Provenance to come along"

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return query, [replace(target, filters=()) for target in targets], latest


class IgnoresTheWindowOfTargets(ChangesProvenance):
    promise = "however old: what it is about has changed"

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return query, [replace(target, query=replace(target.query, window=Window())) for target in targets], latest


class IgnoresTheWindowOfProvenance(ChangesProvenance):
    promise = "within its own window"

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return replace(query, window=Window()), targets, latest


class BelievesInPatients(Broken):
    promise = "those that name a patient, and no other"

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:  # noqa: ARG002
        return references


class KnowsNoPast(Broken):
    promise = "members are those of the instant"

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:  # noqa: ARG002
        return await super().members(group_id, principal) or frozenset()


class Unsorted(Broken):
    """Gives blocks in an order of its own."""

    async def in_order(self, queries: Sequence[Query]) -> list[Block]:
        raise AssertionError(queries)

    async def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        for number, block in enumerate(await self.in_order(queries), 1):
            if number > int(after or 0):
                yield replace(block, cursor=str(number))


class PutsThePatientLast(Unsorted):
    promise = "the patient comes first"

    async def in_order(self, queries: Sequence[Query]) -> list[Block]:
        found = [block async for block in MemoryResourceStore.blocks(self, queries, None)]
        return sorted(found, key=lambda block: (block.reference, block.type == "Patient"))


class GoesByTypes(Unsorted):
    promise = "the blocks of a patient come one after the other"

    async def in_order(self, queries: Sequence[Query]) -> list[Block]:
        return [block for query in queries async for block in MemoryResourceStore.blocks(self, [query], None)]


class MakesBlocksOfEverybody(Unsorted):
    promise = "a block is what lies in its patient's compartment"

    async def in_order(self, queries: Sequence[Query]) -> list[Block]:
        everyone = [replace(query, selection=EveryPatient()) for query in queries]
        return [block async for block in MemoryResourceStore.blocks(self, everyone, None)]


class NamesInAnotherOrder(Broken):
    promise = "those of the ids that live come, in the order of the ids"

    async def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        async for page in super().named(query, ids[::-1]):
            yield page


class NamesWhatIsThereNow(Broken):
    promise = "named resources are read as of the instant"

    async def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        async for page in super().named(replace(query, as_of=None), ids):
            yield page


class Naming(Broken):
    """Looks elsewhere for what names a resource."""

    def looked_at(self, query: Query) -> Query:
        raise AssertionError(query)

    async def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        async for page in super().naming([self.looked_at(query) for query in queries], reference):
            yield page


class FindsNamesOfEverybody(Naming):
    promise = "only resources of the selection are found"

    def looked_at(self, query: Query) -> Query:
        return replace(query, selection=Everything())


class FindsNamesOfNow(Naming):
    promise = "what names a resource is read as of the instant"

    def looked_at(self, query: Query) -> Query:
        return replace(query, as_of=None)


class FindsNoNames(Naming):
    promise = "each resource that names the reference is found"

    def looked_at(self, query: Query) -> Query:
        return replace(query, selection=Compartments(frozenset()))


class TakesNoPatientForAll(Asking):
    promise = "no patient's is what no patient owns"

    def asked(self, query: Query, after: str | None) -> Query:  # noqa: ARG002
        return replace(query, selection=Everything()) if query.selection == NoPatient() else query


class TellsNoPatientOfAllDeletions(Broken):
    promise = "a deletion is no patient's if the resource ever was"

    def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        return super().deletions(replace(query, selection=Everything()) if query.selection == NoPatient() else query, after)


class TellsNothingThatLeft(Broken):
    promise = "all that lived in the selection and lives outside of it has left"

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().left(replace(query, window=Window()), after):
            yield page


class TellsAllThatChangedOutside(Broken):
    """Forgets to ask where a resource was before."""

    promise = "only what lived in the selection and lives outside of it has left"

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        inside = {version.stored.id for _, version in self._living(replace(query, window=Window()))}
        changed = {version.stored.id for _, version in self._living(replace(query, selection=Everything()))}
        outside = sorted(changed - inside)
        if outside and after is None:
            yield Deletions(tuple(f"{query.type}/{id_}" for id_ in outside), "end")


class TellsEachTimeThatItLeft(Broken):
    promise = "what left is told once"

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        async for page in super().left(query, after):
            yield replace(page, references=page.references * 2)


class TakesAllThatChangedForEntered(ChangesProvenance):
    promise = "old Provenance comes with what entered the selection, alone"

    def changed(
        self, query: Query, targets: Sequence[ProvenanceTarget], latest: bool
    ) -> tuple[Query, Sequence[ProvenanceTarget], bool]:
        return query, [replace(target, entered=False) for target in targets], latest


def _all(kind: type[Broken]) -> Iterator[type[Broken]]:
    for broken in kind.__subclasses__():
        if "promise" in vars(broken):
            yield broken
        yield from _all(broken)


BROKEN = sorted(_all(Broken), key=lambda broken: broken.__name__)


class _Suite(ResourceStoreSuite, StoredTextSuite):
    broken: ClassVar[type[Broken]]

    @pytest.fixture
    def store(self) -> Broken:
        return self.broken()

    @pytest.fixture
    def writer(self, store: Broken) -> Broken:
        return store

    @pytest.fixture
    def set_clock(self, store: Broken) -> Callable[[float], None]:
        clock = store._clock

        def set_clock(seconds: float) -> None:
            store._clock = lambda: after(clock(), seconds)

        return set_clock


def _suite(broken: type[Broken]) -> type[Any]:
    return type(f"Test{broken.__name__}", (_Suite,), {"broken": broken, "__module__": __name__})


globals().update({f"Test{broken.__name__}": _suite(broken) for broken in BROKEN})
