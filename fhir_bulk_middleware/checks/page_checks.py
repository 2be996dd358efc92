"""Checks of pages: their form and size, their lines, their order, and their cursors."""

from collections import Counter, defaultdict

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe, Reading
from fhir_bulk_middleware.checks.record import Record
from fhir_bulk_middleware.contract.query import Query
from fhir_bulk_middleware.instant import Instant, system_clock

__all__ = ["canonical_lines", "cursors", "page_form", "repeatable", "single_occurrence"]

_SMALL_PAGE = 2_000
_SMALL_READ = 100
_STEPS = 25
_TIES = 40
_ATTEMPTS = 3
_WHOLE_ORDER = "Give the order a last column that is unique, and compare the cursor with the whole order: (updated, id) > (?, ?)."


async def page_form(probe: Probe, notes: Notes) -> None:
    """Pages are `Page`s of the asked size, large and small."""
    for type_ in probe.types:
        whole = await probe.walk(type_)
        small = await probe.read(probe.query(type_, page_bytes=_SMALL_PAGE), most=_SMALL_READ)
        for reading in (whole, small):
            notes.saw("pages", len(reading.cursors))
            if reading.fault is not None:
                notes.fault(reading.fault.what, reading.fault.do)


async def canonical_lines(probe: Probe, notes: Notes) -> None:
    """Lines are compact JSON with an id; a lastUpdated is an instant."""
    for type_ in probe.types:
        reading = await probe.walk(type_)
        notes.saw("resources", len(reading.records))
        for fault in reading.line_faults:
            notes.fault(fault.what, fault.do)


async def single_occurrence(probe: Probe, notes: Notes) -> None:
    """No resource comes twice in a type."""
    for type_, reading in (await probe.sound()).items():
        notes.saw("resources", len(reading.records))
        for id_ in reading.repeated:
            notes.fault(
                f"{type_}/{id_} comes more than once when all of {type_} is read.",
                "Read each resource once: a join that finds several rows for one needs EXISTS (...) or DISTINCT in its place.",
            )


async def repeatable(probe: Probe, notes: Notes) -> None:
    """The same query gives the same lines in the same order."""
    for type_, first in (await probe.sound()).items():
        begun = system_clock()
        again = [first]
        while len(again) <= _ATTEMPTS:
            again.append(await probe.read(probe.query(type_)))
            if _same(again[-2], again[-1], None if probe.cut is not None else begun):
                break
        else:
            _differs(type_, again[-2], again[-1], notes, exact=probe.cut is not None)
        notes.saw("resources", len(again[-1].records))


def _same(first: Reading, second: Reading, begun: Instant | None) -> bool:
    """Whether two readings agree; without snapshots, in what both have and what did not change since they began."""
    size = min(len(first.records), len(second.records))
    if begun is None:
        return first.complete == second.complete and first.digests == second.digests
    if first.digests[:size] == second.digests[:size]:
        return True
    both = frozenset(first.ids) & frozenset(second.ids)
    kept = [[each.digest for each in part.records if each.id in both and (each.instant or 0) < begun] for part in (first, second)]
    return kept[0] == kept[1] and Counter(first.ids).keys() != Counter(second.ids).keys()


def _differs(type_: str, first: Reading, second: Reading, notes: Notes, *, exact: bool) -> None:
    if sorted(first.digests) == sorted(second.digests):
        return notes.fault(
            f"{type_} was read twice and came in two orders.",
            "Order the rows by columns that are unique together, such as ORDER BY updated, id.",
        )
    texts = {record.id: record.digest for record in first.records}
    other = next((each.id for each in second.records if texts.get(each.id, each.digest) != each.digest), None)
    what = (
        f"{type_} was read twice and gave different resources" if other is None else f"{type_}/{other} was read twice and differs"
    )
    return notes.fault(
        f"{what}, {'as of one cut' if exact else 'although nothing says that it changed'}.",
        "Read the versions of `Query.as_of`, and put nothing into a line that changes from read to read."
        if exact
        else "Put nothing into a line that changes from read to read; order the rows by columns that are unique together.",
    )


async def cursors(probe: Probe, notes: Notes) -> None:
    """Reading on from a cursor gives the rest: page by page, also between resources of one instant."""
    for type_, reading in (await probe.sound()).items():
        size = max(record.size for record in reading.records[:_STEPS])
        for page_bytes in (1, 3 * size):
            query = probe.query(type_, page_bytes=page_bytes)
            expected = await probe.read(query, most=_STEPS)
            await _step(probe, notes, query, expected)
        tied = _most_tied(reading.records)
        if tied is not None:
            query = probe.query(type_, since=tied - 1, until=tied, page_bytes=1)
            expected = await probe.read(query, most=_TIES)
            await _step(probe, notes, query, expected)


async def _step(probe: Probe, notes: Notes, query: Query, expected: Reading) -> None:
    """Read each page with a call of its own, from the cursor of the page before."""
    found: list[Record] = []
    after: str | None = None
    wanted = len(expected.records)
    while len(found) < wanted:
        page = await probe.read(query, after, pages=1)
        if not page.cursors:
            break
        found += page.records
        after = page.cursors[-1][1]
        notes.saw("pages")
    if [each.digest for each in found[:wanted]] == expected.digests:
        return
    place = next((n for n, each in enumerate(found[:wanted]) if each.digest != expected.records[n].digest), len(found))
    before = expected.records[place - 1].reference if place else "the start"
    lacks = place >= len(found) or expected.records[place].id not in {each.id for each in found}
    notes.fault(
        f"Read from the cursor behind {before}, {query.type} goes on with"
        f" {found[place].reference if place < len(found) else 'nothing'}, and with {expected.records[place].reference} when it is"
        f" read in one go: {'a resource is skipped' if lacks else 'a resource is repeated or moved'}.",
        _WHOLE_ORDER,
    )


def _most_tied(records: list[Record]) -> Instant | None:
    """The instant that most resources have, if more than one have it."""
    tied: defaultdict[Instant, int] = defaultdict(int)
    for record in records:
        if record.instant is not None:
            tied[record.instant] += 1
    most = max(tied, key=lambda instant: tied[instant], default=None)
    return most if most is not None and tied[most] > 1 else None
