"""The check of `SupportsChangedTypes`: what a window holds is of a type that is named."""

from typing import cast

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe
from fhir_bulk_middleware.checks.window_checks import edges_of, shown
from fhir_bulk_middleware.contract.query import Query
from fhir_bulk_middleware.contract.returned import references
from fhir_bulk_middleware.contract.storage import SupportsChangedTypes, SupportsDeletions
from fhir_bulk_middleware.instant import Instant, system_clock

__all__ = ["changed_types"]

_DAY = 86_400_000_000
_FEW = 2


async def changed_types(probe: Probe, notes: Notes) -> None:
    """For windows around resources, for deletions after the newest resource, and for a window that holds nothing."""
    for type_, walk in (await probe.sound()).items():
        for edge in edges_of(walk.records, _FEW):
            query = probe.query(type_, since=edge - 1, until=edge)
            if (await probe.read(query, pages=1)).records and type_ not in await _named(probe, notes, query):
                _left_out(notes, query, "resources")
    if isinstance(probe.adapter, SupportsDeletions):
        for type_ in probe.types:
            newest = max((each.instant or Instant(0) for each in (await probe.walk(type_)).records), default=None)
            query = probe.query(type_, since=newest)
            if (await probe.deletions(query, most=1))[0] and type_ not in await _named(probe, notes, query):
                _left_out(notes, query, "deletions")
    tomorrow = (probe.cut or system_clock()) + _DAY
    if idle := await _named(probe, notes, probe.query(probe.types[0], since=tomorrow)):
        notes.fault(
            f"changed_types names {min(idle)} for a window that begins tomorrow.",
            "Name types whose newest change is later than `window.since`: an export asks for each type that is named.",
        )


async def _named(probe: Probe, notes: Notes, query: Query) -> frozenset[str]:
    """The types that are named for the window of a query."""
    storage = cast("SupportsChangedTypes", probe.adapter)
    asked = storage.changed_types(frozenset(probe.types), query.window, as_of=query.as_of, rights=query.rights)
    notes.saw("windows")
    return references(await probe.call("changed_types", asked), "changed_types")


def _left_out(notes: Notes, query: Query, what: str) -> None:
    notes.fault(
        f"{query.type} has {what} since {shown(query.window.since or 0)}, and changed_types leaves it out.",
        "Name each type of which something was written, changed or deleted after `window.since`; naming too many does no harm.",
    )
