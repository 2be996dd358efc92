"""Adapters over the clinic's tables that are each broken in one way that authors' are, and the sentence that tells it.

The clinics of `broken_clinics.py`, which the kit catches, are among them.
"""

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import broken_clinics
from clinic import SCHEMA, Clinic, shown

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import (
    Authorisation,
    Block,
    Compartments,
    Deletions,
    EveryPatient,
    Everything,
    Page,
    ProvenanceTarget,
    Query,
    Range,
    Window,
)
from fhir_bulk_middleware.contract.removal import Current
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant, Precision
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

__all__ = ["BROKEN", "OF_THE_KIT", "Sliced", "Telling", "fill", "made"]

CHOSEN: Any = None
"""Makes the adapter that is checked; the tests set it."""


def made() -> object:
    """The factory that the command line names."""
    return CHOSEN()


def fill(path: Path, *, microseconds: bool = False) -> None:
    """A clinic of a week: patients whose ids are alike, observations by each link, many of one instant, some rows deleted."""
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
        for number, id_ in enumerate(("1", "10", "2", "b", "Ba", "c", "C", "d", "gone")):
            deleted = "2026-03-07 12:00:00.500" if id_ == "gone" else None
            row = (id_, f"of {id_}", f"2026-03-0{number % 3 + 1} 08:00:00.{'123456' if microseconds else '123'}", deleted)
            database.execute("INSERT INTO patient VALUES (?, ?, ?, ?)", row)
        links = [("1", None), ("10", None), (None, "2"), ("b", "c"), ("c", None), (None, None), ("2", "2"), ("Ba", None)]
        for number in range(96):
            patient, performer = links[number % len(links)]
            id_ = f"{'aB'[number % 2]}{number}"
            at = f"2026-03-0{number // 24 + 1} 09:30:15.{'654321' if microseconds else '654'}"
            database.execute("INSERT INTO observation VALUES (?, ?, ?, ?, ?, ?)", (id_, patient, performer, "weight", at, None))
        database.execute("UPDATE observation SET deleted = '2026-03-07 12:00:00.500' WHERE id IN ('a0', 'B1')")
    database.close()


class Variant(Clinic):
    """A clinic that is broken in one way.

    Attributes:
        check: the check that fails.
        says: a part of the sentence of the fault.
        rewritten: texts of SQL statements, and what stands there instead.
    """

    check: ClassVar[str]
    says: ClassVar[str]
    rewritten: ClassVar[dict[str, str]] = {}

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._database = cast("sqlite3.Connection", _Rewriting(self._database, self.rewritten))


class _Rewriting:
    def __init__(self, database: sqlite3.Connection, rewritten: dict[str, str]) -> None:
        self._database, self._rewritten = database, rewritten

    def execute(self, statement: str, values: object) -> sqlite3.Cursor:
        for old, new in self._rewritten.items():
            statement = statement.replace(old, new)
        return self._database.execute(statement, cast("dict[str, str]", values))

    def close(self) -> None:
        self._database.close()


# --- Order and cursors ---


class IsUnsorted(Variant):
    check, says = "order", "came in two orders"
    rewritten: ClassVar = {"ORDER BY t.updated, t.id LIMIT": "ORDER BY random() LIMIT"}


class SortsWithoutCase(Variant):
    check, says = "cursors", "a resource is"
    rewritten: ClassVar = {"ORDER BY t.updated, t.id": "ORDER BY t.updated, t.id COLLATE NOCASE"}


class RepeatsTheLastOfAPage(Variant):
    check, says = "cursors", "a resource is repeated or moved"
    behind = "(t.updated, t.id) >= (:updated, :id)"


class StampsTheTimeOfReading(Variant):
    check, says = "order", "was read twice and differs"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b'"meta":{', b'"meta":{"source":"#%d",' % time.perf_counter_ns())


# --- Pages and lines ---


class IgnoresTheSizeOfPages(Variant):
    check, says = "pages", "bytes in"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(replace(query, page_bytes=1_000_000), after):
            yield page


class WritesBlanks(Variant):
    check, says = "lines", "is written with blanks"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b',"meta"', b', "meta"')


class EscapesSlashes(Variant):
    check, says = "lines", "in characters that are escaped without need"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b"Patient/", b"Patient\\/")


class PrettyPrints(Variant):
    check, says = "pages", "is malformed"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return json.dumps(json.loads(super().line(type_, row)), indent=1).encode() + b"\n"


class GivesAnotherType(Variant):
    check, says = "pages", "a line is a resource of another type"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b"Observation", b"Condition", 1)


class ForgetsIds(Variant):
    check, says = "lines", "has no id"

    def line(self, type_: str, row: tuple[Any, ...]) -> bytes:
        return super().line(type_, row).replace(b'"id":', b'"identity":', 1)


class CountsWrongly(Variant):
    check, says = "pages", "lines and says that there are"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            yield replace(page, count=page.count + 1)


class BreaksDown(Variant):
    check, says = "pages", "ConnectionError in pages, broken_adapters.py line"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            yield page
            raise ConnectionError("the connection was closed")


# --- Time ---


class ForgetsTheZone(Variant):
    check, says = "lines", "is no FHIR instant"

    def instant(self, updated: str) -> str:
        return super().instant(updated).removesuffix("Z")


class SaysTomorrow(Variant):
    check, says = "time", "hours after this machine's clock"

    def instant(self, updated: str) -> str:
        return super().instant(updated).replace("2026", "2126")


class CutsMicrosecondsOff(Variant):
    """Its columns have microseconds, and it shows them; the bounds of a window have milliseconds."""

    check, says = "edges", "it comes if the window ends a millisecond later"


class ShowsFewerDigits(Variant):
    """Its columns have microseconds, and it shows milliseconds."""

    check, says = "edges", "is not in the window that ends then"

    def instant(self, updated: str) -> str:
        return f"{super().instant(updated)[:23]}Z"


# --- Selections ---


class ForgetsThePerformerOfEverybody(Variant):
    check, says = "every patient", "lies in a patient's compartment by Observation.performer"
    rewritten: ClassVar = {" OR performer_id IS NOT NULL": ""}


class ComparesWithoutCase(Variant):
    check, says = "compartments", "holds Patient/"
    rewritten: ClassVar = {"(SELECT value FROM": "(SELECT value COLLATE NOCASE FROM", "t.id IN": "t.id COLLATE NOCASE IN"}


class MatchesBeginnings(Variant):
    check, says = "compartments", "The compartment of Patient/1 holds Patient/10"
    links: ClassVar = {"Patient": ("substr(t.id, 1, 1)",), "Observation": ("patient_id", "performer_id")}


class ForgetsBrackets(Variant):
    check, says = "nobody", "comes when the selection is empty"

    def selected(self, query: Query) -> str:
        return super().selected(query).strip("()") + " OR 0" if isinstance(query.selection, EveryPatient) else self._of(query)

    def _of(self, query: Query) -> str:
        found = super().selected(query)
        return f"{found} OR patient_id = '1'" if query.type == "Observation" and found != "1" else found


class TakesNobodyForEverybody(Variant):
    check, says = "nobody", "comes when the selection is empty"

    def selected(self, query: Query) -> str:
        return "1" if query.selection == Compartments(frozenset()) else super().selected(query)


class GivesSharedOnesTwice(Variant):
    """One query for each owner."""

    check, says = "together", "comes more than once when"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        owners = sorted(query.selection.references) if isinstance(query.selection, Compartments) else []
        queries = [replace(query, selection=Compartments(frozenset({owner}))) for owner in owners]
        for number, each in enumerate(queries or [query]):
            async for page in super().pages(each, after):
                yield replace(page, cursor=f"{page.cursor}{' ' * number}")


# --- Deletions ---


class LeavesTheEndOfDeletionsOut(Variant):
    check, says = "deletion edges", "and not in the next one"
    rewritten: ClassVar = {"t.deleted <= :until": "t.deleted < :until"}


class TakesTheBeginningOfDeletionsIn(Variant):
    check, says = "deletion edges", "and in the one that begins then"
    rewritten: ClassVar = {"t.deleted > :since": "t.deleted >= :since"}


class TellsDeletionsTwice(Variant):
    check, says = "deletions", "comes twice among the deletions"

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        for cursor in ("x", "y"):
            async for page in super().deletions(query, after):
                yield replace(page, cursor=cursor)


class TellsDeletionsOfLivingRows(Variant):
    check, says = "deletions", "is told as deleted, and comes with the resources"
    rewritten: ClassVar = {"t.deleted > :since AND t.deleted <= :until": "t.updated > :since AND t.updated <= :until"}


# --- Rights, groups and places ---


class AllowsAnUnknownType(Variant):
    check, says = "authorise", "authorise allows Patients, which is no type of FHIR 4.0.1"

    async def authorise(self, principal: Principal) -> Authorisation:
        found = await super().authorise(principal)
        return replace(found, types=found.types | {"Patients"})


class AuthorisesByAList(Variant):
    check, says = "authorise", "must return Authorisation"

    async def authorise(self, principal: Principal) -> Authorisation:
        return cast("Authorisation", [*(await super().authorise(principal)).types])


class HasSynchronousPages(Variant):
    check, says = "methods", "is nothing for `async for`"

    async def pages(self, query: Query, after: str | None) -> Any:  # type: ignore[override] # the fault
        del query, after
        return []


class GivesBareIds(Variant):
    check, says = "groups", "is no reference such as Patient/123"

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        del principal
        return frozenset({"1", "2"}) if group_id == "everybody" else None


class KnowsEveryGroup(Variant):
    check, says = "groups", "An unknown group has members"

    async def members(self, group_id: str, principal: Principal) -> frozenset[str] | None:
        del group_id, principal
        return frozenset()


class BlocksTheServer(Variant):
    check, says = "event loop", "The adapter has no recipe(), so exports run in the server's event loop"
    recipe = None  # type: ignore[assignment]

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            if query.type == "Patient" and query.selection == Everything() and query.page_bytes > 100_000:
                time.sleep(0.2)  # noqa: ASYNC251 - the fault
            yield page


class BlocksTheKickOff(Variant):
    check, says = "event loop", "It runs in the server's event loop"

    async def authorise(self, principal: Principal) -> Authorisation:
        time.sleep(0.2)  # noqa: ASYNC251 - the fault
        return await super().authorise(principal)


class WorksElsewhere(Variant):
    check, says = "recipe", "reads other resources"

    def recipe(self) -> Recipe:
        return Recipe(f"{__name__}:_elsewhere", {})


def _elsewhere() -> Clinic:
    clinic = Clinic(":memory:")
    clinic._database.executescript(SCHEMA)
    return clinic


# --- Slices ---


class Sliced(Clinic):
    """A sound adapter that divides a type by day."""

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        """A range for each day; one for all days if that is not more than the target."""
        conditions = f"{self.lives} AND {self.window} AND {self.selected(query)}"
        statement = f"SELECT DISTINCT substr(t.updated, 1, 10) FROM {self.sources[query.type]} WHERE {conditions} ORDER BY 1"  # noqa: S608
        days = [day for (day,) in self._database.execute(statement, self.bounds(query))]
        return [Range(day, 10) for day in days] if target_bytes < 10_000 else [Range("", 100)] * bool(days)

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """Those of the day, if there is one."""
        async for page in super().pages(query, after):
            lines = [line for line in page.lines.splitlines(keepends=True) if self.day(query.range, line)]
            if lines:
                yield Page(b"".join(lines), len(lines), page.cursor)

    def day(self, range_: str, line: bytes) -> bool:
        """Whether a line is of a day."""
        return not range_ or f'"lastUpdated":"{range_}'.encode() in line


class SlicedVariant(Sliced):
    """As `Variant`."""

    check: ClassVar[str] = "slices"
    says: ClassVar[str]


class LeavesADayOut(SlicedVariant):
    says = "is in no slice of"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        found = await super().slices(query, target_bytes)
        return found[1:] if len(found) > 1 else found


class OverlapsDays(SlicedVariant):
    says = "is in two slices of"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        found = await super().slices(query, target_bytes)
        return [*found, found[-1]] if len(found) > 1 else found


class SlicesBackwards(SlicedVariant):
    says = "have another order than the pages"

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:
        return (await super().slices(query, target_bytes))[::-1]


class GivesAnotherTypeInASlice(SlicedVariant):
    says = "a line is a resource of another type"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(query, after):
            yield replace(page, lines=page.lines.replace(b"Observation", b"Condition")) if query.range else page


# --- Changed types ---


class Telling(Clinic):
    """A sound adapter that tells which types changed."""

    times: tuple[str, ...] = ("updated", "deleted")

    async def changed_types(
        self,
        types: frozenset[str],
        window: Window,
        *,
        as_of: Instant | None,  # noqa: ARG002 - the tables have no history
        rights: str,  # noqa: ARG002 - everybody may read all
    ) -> frozenset[str]:
        """By the newest time of each table."""
        since = "" if window.since is None else shown(window.since)
        return frozenset(type_ for type_ in types if self.newest(type_) > since)

    def newest(self, type_: str) -> str:
        """The newest time of a type's table."""
        found = [self._database.execute(f"SELECT max({time}) FROM {type_.lower()}").fetchone()[0] for time in self.times]  # noqa: S608
        return max((time for time in found if time is not None), default="")


class TellingVariant(Telling):
    """As `Variant`."""

    check: ClassVar[str] = "changed types"
    says: ClassVar[str]


class ForgetsMarkedRows(TellingVariant):
    says = "has deletions since"
    times = ("updated",)


class LooksAtTheOldest(TellingVariant):
    says = "has resources since"

    def newest(self, type_: str) -> str:
        return str(self._database.execute(f"SELECT min(updated) FROM {type_.lower()}").fetchone()[0])  # noqa: S608


class NamesAllTypes(TellingVariant):
    says = "for a window that begins tomorrow"

    def newest(self, type_: str) -> str:
        return super().newest(type_) and "9"


# --- Snapshots ---


class SnapshotVariant(MemoryResourceStore):
    """As `Variant`, over a storage with snapshots."""

    check: ClassVar[str] = "clock"
    says: ClassVar[str]


class TellsLocalTime(SnapshotVariant):
    says = "now() is +2.00 hours from this machine's clock"

    async def now(self) -> Instant:
        return Instant(await super().now() + 7_200_000_000)


class CutsWithTooManyDigits(SnapshotVariant):
    says = "which has more digits"

    async def cut(self, precision: Precision) -> Instant:
        del precision
        return Instant(await super().cut(Precision.MICROSECONDS) // 10 * 10 + 1)


class LeavesOutWhatChangedAtTheCut(SnapshotVariant):
    check, says = "as of", "is not there as of"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(replace(query, as_of=Instant((query.as_of or 1) - 1)), after):
            yield page


class ReadsOneInstantLater(SnapshotVariant):
    check, says = "as of", "is there as of"

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(replace(query, as_of=Instant((query.as_of or 0) + 1)), after):
            yield page


# --- Further protocols ---


class PublishesLess(SnapshotVariant):
    check, says = "types", "authorise allows Patient, and exportable_types does not list it"

    def exportable_types(self) -> frozenset[str]:
        return super().exportable_types() - {"Patient"}


class FindsEveryPatient(SnapshotVariant):
    check, says = "patients", "finds a patient whom there is not"

    async def patients(self, references: frozenset[str], principal: Principal) -> frozenset[str]:
        del principal
        return references


class NamesBackwards(SnapshotVariant):
    check, says = "named", "in another order"

    def named(self, query: Query, ids: Sequence[str]) -> AsyncIterator[Page]:
        return super().named(query, [*ids][::-1])


class ForgetsReferences(SnapshotVariant):
    check, says = "naming", "and naming() does not find it"

    def naming(self, queries: Sequence[Query], reference: str) -> AsyncIterator[Page]:
        return super().naming(queries, f"{reference}x")


class OrganisesHalf(SnapshotVariant):
    check, says = "blocks", "do not hold what its compartment holds"

    def blocks(self, queries: Sequence[Query], after: str | None) -> AsyncIterator[Block]:
        return super().blocks(queries[:1], after)


class ReadsNothing(SnapshotVariant):
    check, says = "current", "current() does not find"

    async def current(self, type_: str, id_: str) -> Current | None:
        del type_, id_
        return None


class WasAlwaysAMember(SnapshotVariant):
    check, says = "joining", "had members in 1970"

    async def members_at(self, group_id: str, principal: Principal, instant: Instant) -> frozenset[str]:
        del instant
        return await super().members(group_id, principal) or frozenset()


class ForgetsTheFuture(SnapshotVariant):
    check, says = "horizon", "lies in the future"

    async def deletions_known_since(self) -> Instant | None:
        return Instant(await self.now() + 3_600_000_000)


class LeavesWhatStays(SnapshotVariant):
    check, says = "left", "and refers to it"

    async def left(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        del after
        async for page in self.pages(replace(query, window=Window()), None):
            found = [f"{query.type}/{json.loads(line)['id']}" for line in page.lines.splitlines()]
            yield Deletions(tuple(found), page.cursor)


class TracesEverything(SnapshotVariant):
    check, says = "provenance", "comes for Patient and names none"

    def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        del targets, latest
        return self.pages(query, after)


class TracesNothing(SnapshotVariant):
    check, says = "provenance", "is about a Patient, and does not come for it"

    def provenance(
        self, query: Query, targets: Sequence[ProvenanceTarget], after: str | None, *, latest: bool
    ) -> AsyncIterator[Page]:
        del targets
        return super().provenance(query, [], after, latest=latest)


OF_THE_KIT = {
    broken_clinics.ForgetsThePerformer: (
        "compartments",
        "Observation.performer alone does not put a resource into the compartment",
    ),
    broken_clinics.TakesTheBeginningIn: ("edges", "comes again in the window that begins then"),
    broken_clinics.LeavesTheEndOut: ("edges", "it comes if the window ends a millisecond later"),
    broken_clinics.SkipsWhatHasTheCursorsTime: ("cursors", "a resource is skipped"),
    broken_clinics.ExportsDeletedRows: ("deletions", "is told as deleted, and comes with the resources of"),
    broken_clinics.JoinsTwice: ("once", "comes more than once when all of Observation is read"),
    broken_clinics.ForgetsThePerformersDeletedPatient: ("", ""),
    broken_clinics.ShowsLocalTimeAsUtc: ("edges", "it comes if the window lies -2 hours away"),
    broken_clinics.AsksInLocalTime: ("edges", "it comes if the window lies -2 hours away"),
    broken_clinics.TellsAllDeletions: ("deletions", "is told as deleted in a window that ends in 1970"),
    broken_clinics.LivesInLocalTime: ("", ""),
}
"""The broken clinics of the kit, and what tells them here. Empty: reads alone do not show it, and the kit, which writes, does."""

BROKEN: list[Any] = [
    each
    for base in (Variant, SlicedVariant, TellingVariant, SnapshotVariant)
    for each in sorted(base.__subclasses__(), key=lambda variant: variant.__name__)
]
