"""Checks of `SupportsDeletions` and of what depends on it: the horizon, and what left a compartment."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import cast

from fhir_bulk_middleware.checks.compartment_checks import patients_to_read
from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe
from fhir_bulk_middleware.checks.window_checks import shown
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient
from fhir_bulk_middleware.contract.storage import SupportsDeletionHorizon, SupportsLeft
from fhir_bulk_middleware.export.page_form import PageForm
from fhir_bulk_middleware.instant import Precision, system_clock
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["deletion_edges", "deletions", "horizon", "left"]

_DAY = 86_400_000_000
_TYPES = 2
_FEW = 3
_WRITE = "Delete something on a test database and repeat the check, or run `DeletionsSuite` of the conformance kit."


async def deletions(probe: Probe, notes: Notes) -> None:
    """Deletions do not live, come once, and keep to window and selection."""
    now = probe.cut or system_clock()
    for type_ in probe.types:
        whole, complete = await probe.deletions(probe.query(type_))
        notes.saw("deletions", len(whole))
        walk = await probe.walk(type_)
        if twice := next((each for number, each in enumerate(whole) if each in whole[:number][-1000:]), None):
            notes.fault(f"{twice} comes twice among the deletions.", "Tell each deletion once.")
        for other in (each for each in whole if each.partition("/")[0] != type_):
            notes.fault(f"{other} comes among the deletions of {type_}.", "Tell deletions of `Query.type` only.")
        if living := sorted({f"{type_}/{id_}" for id_ in walk.ids} & set(whole)):
            notes.fault(
                f"{living[0]} is told as deleted, and comes with the resources of {type_}.",
                "Leave deleted rows out of `pages`; leave resources that were created again out of `deletions`.",
            )
        for since, until in ((now + _DAY, None), (None, 1)):
            if found := (await probe.deletions(probe.query(type_, since=since, until=until), most=1))[0]:
                notes.fault(
                    f"{found[0]} is told as deleted in a window that ends in 1970, or begins after now.",
                    "Compare the instant of the deletion: since < deleted <= until.",
                )
        if (await probe.deletions(probe.query(type_, Compartments(frozenset())), most=1))[0]:
            notes.fault(f"Deletions of {type_} come when the selection is empty.", "An empty selection has no deletions.")
        everyone, _ = await probe.deletions(probe.query(type_, EveryPatient()))
        if complete and (strange := sorted(set(everyone) - set(whole))):
            notes.fault(f"{strange[0]} is a deletion of every patient's, and not of all.", "Apply one condition to both.")
    if not notes.seen:
        notes.gap("No deletion was found.", _WRITE)


async def deletion_edges(probe: Probe, notes: Notes) -> None:
    """The instant of a deletion, found by halving windows, is the same by since and by until."""
    for type_ in probe.types:
        whole, complete = await probe.deletions(probe.query(type_))
        if not whole or not complete or notes.seen.total() >= _TYPES:
            continue
        first = whole[0]

        async def since(instant: int, type_: str = type_, first: str = first) -> bool:
            return first not in (await probe.deletions(probe.query(type_, since=instant)))[0]

        async def until(instant: int, type_: str = type_, first: str = first) -> bool:
            return first in (await probe.deletions(probe.query(type_, until=instant)))[0]

        last = (probe.cut or system_clock()) + _DAY
        if not await since(last) or not await until(last) or await until(1):
            continue  # `deletions` says so
        notes.saw("deletions")
        _compare(notes, first, await _halved(since, last), await _halved(until, last))
    if not notes.seen:
        notes.gap("No deletion was found whose instant could be determined.", _WRITE)


def _compare(notes: Notes, reference: str, by_since: int, by_until: int) -> None:
    """By since: the first instant from which on it is not told. By until: the first up to which it is."""
    if by_until > by_since:
        notes.fault(
            f"The deletion of {reference} is not in the window that ends at {shown(by_since)}, and not in the next one.",
            "until is inclusive: since < deleted <= until.",
        )
    elif 0 < by_since - by_until <= Precision.SECONDS.value:  # one that lies further was deleted more than once
        notes.fault(
            f"The deletion of {reference} is in the window that ends at {shown(by_until)}, and in the one that begins then.",
            "since is exclusive: since < deleted <= until, to the microsecond.",
        )


async def _halved(holds: Callable[[int], Awaitable[bool]], last: int) -> int:
    """The first instant from which on a condition holds, which does at `last`."""
    first = 0
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if await holds(middle) else (middle + 1, last)
    return last


async def horizon(probe: Probe, notes: Notes) -> None:
    """The horizon is an instant that is not in the future, and does not go back."""
    storage = cast("SupportsDeletionHorizon", probe.adapter)
    found = [await probe.call("deletions_known_since", storage.deletions_known_since()) for _ in range(2)]
    notes.saw("answers", len(found))
    for earlier, later in pairwise(found):
        if earlier is not None and (later is None or later < earlier):
            notes.fault("deletions_known_since went back.", "A horizon never goes back.")
    if any(each is not None and each > system_clock() + 60_000_000 for each in found):
        notes.fault("deletions_known_since lies in the future.", "Return microseconds since 1970-01-01T00:00:00Z.")


async def left(probe: Probe, notes: Notes) -> None:
    """What left a compartment lives, and does not lie in it; nothing left after the cut."""
    walks = await probe.sound()
    for patient in patients_to_read(walks, _FEW):
        for type_, walk in walks.items():
            records = {record.reference: record for record in walk.records}
            for since in (0, probe.cut or system_clock()):
                query = probe.query(type_, Compartments(frozenset({patient})), since=since)
                form = PageForm(type_, query.page_bytes, None)
                seen = 0
                async with closing(cast("SupportsLeft", probe.adapter).left(query, None)) as pages:
                    async for page in pages:
                        seen += len(page.references)
                        if seen > probe.bounds.resources:
                            break
                        form.check_deletions(page)
                        for each in page.references:
                            if each in records and patient in records[each].patients:
                                notes.fault(f"{each} is told to have left {patient}, and refers to it.", "See `SupportsLeft`.")
                            if since:
                                notes.fault(f"{each} is told to have left {patient} after the cut.", "Keep to `Query.window`.")
                notes.saw("lookups")
