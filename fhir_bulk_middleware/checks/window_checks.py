"""Checks of time: windows at their edges, windows that follow each other, and `lastUpdated` against the clock."""

from collections import Counter
from itertools import pairwise

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe, Reading
from fhir_bulk_middleware.checks.record import Record
from fhir_bulk_middleware.instant import Instant, Precision, render, seconds_between, system_clock

__all__ = ["chained_windows", "edges_of", "last_updated", "shown", "window_edges"]

_EDGES = 4
_CLOCKS_APART = 300.0
_QUARTER = 900_000_000
_QUARTERS = 56
_MILLISECOND = 1_000
_NO_DATES = "Give each line meta.lastUpdated, by which `_since` is understood; clients and this check need it."

_CUT_OFF = "Compare microseconds: the bounds, or the lastUpdated that you show, are cut off or rounded, and the column is not."
_TOO_EARLY = "until is inclusive: compare with <=. If the column has more digits than lastUpdated shows, show all of them."


def shown(instant: int) -> str:
    """An instant with all its digits."""
    return render(Instant(instant), Precision.MICROSECONDS)


def edges_of(records: list[Record], most: int = _EDGES) -> list[Instant]:
    """Instants at which windows are tried: the first, the last, one with most resources, one with microseconds."""
    counts = Counter(record.instant for record in records if record.instant is not None)
    instants = sorted(counts)
    if not instants:
        return []
    fine = next((each for each in instants if each % _MILLISECOND), instants[len(instants) // 2])
    tied = max(instants, key=lambda instant: counts[instant])
    return [*dict.fromkeys([instants[-1], fine, tied, instants[0]])][:most]


async def last_updated(probe: Probe, notes: Notes) -> None:
    """`lastUpdated` lies neither in the future nor after the cut."""
    for reading in (await probe.sound()).values():
        now = system_clock()
        for record in reading.records:
            if record.instant is None:
                notes.gap(f"{record.type} has lines without meta.lastUpdated.", _NO_DATES)
                break
            notes.saw("resources")
            ahead = seconds_between(now, record.instant)
            if ahead > _CLOCKS_APART:
                notes.fault(
                    f"The lastUpdated of {record.reference} is {shown(record.instant)}, {ahead / 3600:.1f} hours after this"
                    " machine's clock.",
                    "Show UTC, or local time with its offset: a local time with Z at its end is another instant. A column of"
                    " local times is converted in SQL (examples/adapters.md, Local times).",
                )
                break
            if probe.cut is not None and record.instant > probe.cut:
                notes.fault(
                    f"The lastUpdated of {record.reference} is {shown(record.instant)}, after the cut {shown(probe.cut)}.",
                    "Leave out what changed after `Query.as_of` and `Window.until`.",
                )


async def window_edges(probe: Probe, notes: Notes) -> None:
    """At each edge: since is excluded, until is included, to the microsecond."""
    for type_, reading in (await probe.sound()).items():
        edges = edges_of(reading.records)
        if not edges:
            notes.gap(f"{type_} has no meta.lastUpdated.", _NO_DATES)
        for edge in edges:
            await _edge(probe, notes, type_, reading, edge)


async def _edge(probe: Probe, notes: Notes, type_: str, walk: Reading, edge: Instant) -> None:
    """Read the microsecond that ends at an edge, and the one that begins there."""
    notes.saw("windows", 2)
    at = [record for record in walk.records if record.instant == edge]
    exactly = await _window(probe, type_, edge - 1, edge)
    found, held = set(exactly.ids), set(walk.ids)
    lacking = next((record for record in at if record.id not in found), None)
    if lacking is not None and exactly.complete:
        what, do = await _why_missing(probe, type_, lacking, edge)
        notes.fault(f"{lacking.reference}, with lastUpdated {shown(edge)}, is not in the window that ends then: {what}.", do)
    for record in exactly.records:
        if record.instant is not None and record.instant != edge:
            notes.fault(
                f"{record.reference}, with lastUpdated {shown(record.instant)}, is in the window that ends at {shown(edge)} and"
                " begins a microsecond before.",
                "Compare lastUpdated with both ends of `Query.window`, at the precision that you show.",
            )
        elif walk.complete and record.id not in held:
            notes.fault(
                f"{record.reference} comes with a window, and not when all of {type_} is read.",
                "Where a batch ends within resources of one instant, the next must begin within them: (updated, id) > (?, ?).",
            )
    behind = await _window(probe, type_, edge, edge + 1)
    again = next((record for record in behind.records if record.instant == edge), None)
    if again is not None:
        notes.fault(
            f"{again.reference}, with lastUpdated {shown(edge)}, comes again in the window that begins then.",
            "since is exclusive: compare with >, at the precision that lastUpdated is shown with. If the column has more digits,"
            " show all of them.",
        )


async def _why_missing(probe: Probe, type_: str, lacking: Record, edge: Instant) -> tuple[str, str]:
    async def there(since: int, until: int) -> bool:
        return lacking.id in (await _window(probe, type_, since, until)).ids

    if await there(edge - 1, edge + 1):
        return "it comes if the window ends a microsecond later", "until is inclusive: compare with <=."
    if await there(edge - 1, edge + _MILLISECOND):
        return "it comes if the window ends a millisecond later", _CUT_OFF if edge % _MILLISECOND else _TOO_EARLY
    if await there(edge - Precision.SECONDS.value, edge + Precision.SECONDS.value):
        return (
            "it comes if the window is a second wider on each side",
            _CUT_OFF,
        )
    for quarters in sorted(range(-_QUARTERS, _QUARTERS + 1), key=abs):
        if await there(edge - 1 + quarters * _QUARTER, edge + quarters * _QUARTER):
            return (
                f"it comes if the window lies {quarters / 4:+g} hours away",
                "Compare in one time zone: the bounds or the lastUpdated that you show are in another one than the column.",
            )
    return "it comes in no window near it", "Compare the column that lastUpdated shows with both ends of `Query.window`."


async def _window(probe: Probe, type_: str, since: int, until: int) -> Reading:
    """What changed in a window; the cut does not limit it, since a storage may hold it in a shifted zone."""
    return await probe.read(probe.query(type_, since=since, until=until))


async def chained_windows(probe: Probe, notes: Notes) -> None:
    """Three windows that follow each other hold each resource once."""
    for type_, walk in (await probe.sound()).items():
        instants = sorted(record.instant for record in walk.records if record.instant is not None)
        if not walk.complete:
            notes.gap(
                f"{type_} has more than {probe.bounds.resources:,} resources.",
                "Read more of it with --resources, or a test database.",
            )
            continue
        if len(instants) < len(walk.records):
            notes.gap(f"{type_} has lines without meta.lastUpdated.", _NO_DATES)
            continue
        ends = [None, instants[len(instants) // 3], instants[len(instants) * 2 // 3], None]
        counts: Counter[str] = Counter()
        for since, until in pairwise(ends):
            counts.update((await probe.read(probe.query(type_, since=since, until=until))).ids)
            notes.saw("windows")
        ids = set(walk.ids)
        if lost := sorted(ids - counts.keys()):
            notes.fault(
                f"{type_}/{lost[0]} is in none of three windows that follow each other, and {type_} holds it.",
                "A bound that is None is no bound; a window holds since < lastUpdated <= until.",
            )
        twice = sorted(id_ for id_, count in counts.items() if count > 1 and walk.ids.count(id_) == 1)
        if twice:
            notes.fault(
                f"{type_}/{twice[0]} is in two of three windows that follow each other.",
                "A window holds since < lastUpdated <= until, so that the next one begins where it ends.",
            )
