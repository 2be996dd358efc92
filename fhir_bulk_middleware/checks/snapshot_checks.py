"""Checks of `SupportsSnapshot`: the storage's clock, its cuts, and reads as of an instant."""

from dataclasses import replace
from typing import cast

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe
from fhir_bulk_middleware.checks.window_checks import edges_of, shown
from fhir_bulk_middleware.contract.query import Window
from fhir_bulk_middleware.contract.storage import SupportsSnapshot
from fhir_bulk_middleware.instant import Precision, seconds_between, system_clock

__all__ = ["as_of_edges", "clock_and_cut"]

_APART = 300.0
_LATE = 60.0
_EDGES = 2


async def clock_and_cut(probe: Probe, notes: Notes) -> None:
    """`now` is near this machine's clock; cuts are whole multiples, do not go back, and are not later than `now`."""
    storage = cast("SupportsSnapshot", probe.adapter)
    before = await probe.call("now", storage.now())
    apart = seconds_between(system_clock(), before)
    if abs(apart) > _APART:
        notes.fault(
            f"now() is {apart / 3600:+.2f} hours from this machine's clock.",
            "Return microseconds since 1970-01-01T00:00:00Z: `from_datetime` of an aware datetime; or set one of the clocks.",
        )
    last = probe.cut or before
    for precision in Precision:
        cut = await probe.call("cut", storage.cut(precision))
        now = await probe.call("now", storage.now())
        notes.saw("cuts")
        if cut % precision.value:
            notes.fault(
                f"cut({precision.name}) is {shown(cut)}, which has more digits.",
                "Floor the cut to the precision: `latest_cut` does.",
            )
        if cut > now and precision is Precision.MICROSECONDS:
            notes.fault(
                f"cut({precision.name}) is {shown(cut)}, later than now(), {shown(now)}.", "A cut is never later than the clock."
            )
        if seconds_between(cut, now) > _LATE + precision.value / 1_000_000:
            notes.gap(
                f"cut({precision.name}) lies {seconds_between(cut, now):.0f} s before now().",
                "Look for a transaction that has been open since then: exports cannot show anything later.",
            )
        if precision is Precision.MICROSECONDS and cut < last:
            notes.fault(f"cut went back from {shown(last)} to {shown(cut)}.", "A cut is never earlier than one before (law 4).")


async def as_of_edges(probe: Probe, notes: Notes) -> None:
    """A resource is there as of its lastUpdated, and not in that version a microsecond earlier."""
    for type_, walk in (await probe.sound()).items():
        for edge in edges_of(walk.records, _EDGES):
            notes.saw("instants")
            at = {record.digest: record for record in walk.records if record.instant == edge}
            then = await probe.read(probe.query(type_, since=edge - 1, until=edge, as_of=edge))
            lost = next((record for digest, record in at.items() if digest not in set(then.digests)), None)
            if lost is not None and then.complete:
                notes.fault(
                    f"{lost.reference}, with lastUpdated {shown(edge)}, is not there as of {shown(edge)}.",
                    "A version is valid from its lastUpdated on, inclusive: valid_from <= as_of < valid_until.",
                )
            earlier = probe.query(type_, as_of=edge - 1)
            before = await probe.read(replace(earlier, window=Window(earlier.as_of)))
            early = next((record for record in before.records if record.digest in at), None)
            if early is not None:
                notes.fault(
                    f"{early.reference}, with lastUpdated {shown(edge)}, is there as of {shown(edge - 1)}.",
                    "Compare `Query.as_of` to the microsecond: valid_from <= as_of < valid_until.",
                )
