"""Checks of `SupportsSlices`: ranges together hold each resource once, in the order of the pages."""

from dataclasses import replace
from typing import cast

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe, Reading
from fhir_bulk_middleware.contract.query import EveryPatient, Everything, Query, Range, Selection
from fhir_bulk_middleware.contract.returned import answered
from fhir_bulk_middleware.contract.storage import SupportsSlices

__all__ = ["slices"]

_PIECES = 4
_RANGES_AT_MOST = 100
_RANGE_BYTES = 4096


async def slices(probe: Probe, notes: Notes) -> None:
    """For small and large targets, and for all resources and every patient's."""
    for selection in (Everything(), EveryPatient()):
        for type_, whole in (await probe.sound(selection)).items():
            if not whole.complete:
                notes.gap(
                    f"{type_} has more than {probe.bounds.resources:,} resources.",
                    "Read more of it with --resources, or a test database.",
                )
                continue
            size = sum(record.size for record in whole.records)
            for target in (max(1, size // _PIECES), 2 * size):
                await _compare(probe, notes, probe.query(type_, selection), target, whole)


async def _compare(probe: Probe, notes: Notes, query: Query, target: int, whole: Reading) -> None:
    storage = cast("SupportsSlices", probe.adapter)
    ranges = [answered(each, Range, "slices (an entry)") for each in await probe.call("slices", storage.slices(query, target))]
    of = f"{query.type} ({_named(query.selection)}, {target:,} bytes each)"
    if len(ranges) > _RANGES_AT_MOST:
        notes.fault(
            f"slices of {of} gives {len(ranges)} ranges for {len(whole.records)} resources.",
            "Make ranges of about the target's size: each costs durable writes (law 44).",
        )
        return
    found = Reading()
    for each in ranges:
        notes.saw("ranges")
        if len(each.range.encode()) > _RANGE_BYTES or each.estimate < 0:
            notes.fault(f"A range of {of} is longer than 4 kB, or its estimate is negative.", "See `Range` in the contract.")
        part = await probe.read(replace(query, range=each.range))
        if part.fault is not None:
            notes.fault(f"A slice of {of}: {part.fault.what}", part.fault.do)
            return
        found.records += part.records
    if found.digests == whole.digests:
        return
    lost, more = sorted(set(whole.ids) - set(found.ids)), sorted(set(found.ids) - set(whole.ids))
    if lost:
        notes.fault(f"{query.type}/{lost[0]} is in no slice of {of}.", "Let each range begin exactly where the one before ends.")
    elif found.repeated:
        notes.fault(
            f"{query.type}/{found.repeated[0]} is in two slices of {of}.", "Include one end of a range, and exclude the other."
        )
    elif more:
        notes.fault(
            f"{query.type}/{more[0]} is in a slice of {of}, and not in the pages.", "Apply selection and window to ranges, too."
        )
    else:
        notes.fault(
            f"The slices of {of} have another order than the pages.", "Give ranges, and read them, in the order of `pages`."
        )


def _named(selection: Selection) -> str:
    return "every patient's" if isinstance(selection, EveryPatient) else "all"
