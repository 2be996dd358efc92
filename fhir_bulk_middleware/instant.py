"""Instants: points in time as whole microseconds since the epoch, UTC.

An integer orders, compares and stores exactly; a FHIR `instant` is its text form. The package keeps microseconds throughout;
a dialect decides how many decimals a client sees (law 1).
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import formatdate
from enum import Enum
from typing import NewType

__all__ = [
    "Clock",
    "Instant",
    "Precision",
    "after",
    "floor",
    "from_datetime",
    "http_date",
    "latest_cut",
    "parse",
    "render",
    "seconds_between",
    "system_clock",
    "to_datetime",
]

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01T00:00:00Z."""

Clock = Callable[[], Instant]
"""Returns the current instant. Always passed in, so that tests and stores choose the clock."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# FHIR `instant`: seconds and an offset are required. A blank before the offset is a "+" that was not percent-encoded (KO-64).
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}):(\d{2})(?:\.(\d{1,9}))?(Z|[+\- ]\d{2}:\d{2})",
    re.ASCII,
)


class Precision(Enum):
    """The precision of a shown instant; the value is the length of one unit in microseconds."""

    SECONDS = 1_000_000
    MILLISECONDS = 1_000
    MICROSECONDS = 1

    @property
    def timespec(self) -> str:
        """The `timespec` of `datetime.isoformat` for this precision."""
        return self.name.lower()


def system_clock() -> Instant:
    """The machine's own clock."""
    return Instant(time.time_ns() // 1_000)


def floor(instant: Instant, precision: Precision) -> Instant:
    """The latest instant at `precision` that is not later than `instant`."""
    return Instant(instant - instant % precision.value)


def latest_cut(machine: Instant, last: Instant, precision: Precision) -> Instant:
    """The cut for a store that uses the machine's clock but never goes behind an instant that it gave out (laws 1, 4).

    Normally the floor of the clock. If the machine's clock was set back, the store is ahead of it and stamps each write a
    microsecond after the last one. While it is ahead by more than a unit of the precision, the cut is rounded up: a floor would
    leave out writes that were answered before the cut (law 45). Later writes must be stamped after the cut.

    Args:
        machine: the machine's clock.
        last: the latest instant of a write or a cut.
        precision: of the cut.
    """
    if last - machine > precision.value:
        return Instant(-(-last // precision.value) * precision.value)
    return floor(max(machine, last), precision)


def after(instant: Instant, seconds: float) -> Instant:
    """The instant `seconds` later (earlier, if negative)."""
    return Instant(instant + round(seconds * 1_000_000))


def seconds_between(earlier: Instant, later: Instant) -> float:
    """Seconds from `earlier` to `later`."""
    return (later - earlier) / 1_000_000


def parse(text: str) -> Instant:
    """Parse a FHIR `instant` (KO-76).

    More than six decimals are cut off, not rounded: rounding up could skip a change (law 1).

    Raises:
        ValueError: `text` is no FHIR instant, or its day does not exist.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("not a FHIR instant: date, time with seconds and an offset are required")
    minutes, seconds, fraction, offset = match.groups()
    leap = seconds == "60"  # a leap second is the last moment of its minute to a clock that has none
    moment = datetime.fromisoformat(
        f"{minutes}:{'59' if leap else seconds}{'+00:00' if offset == 'Z' else offset.replace(' ', '+')}"
    )
    micros = 999_999 if leap else int((fraction or "0")[:6].ljust(6, "0"))
    return Instant((moment - _EPOCH) // _MICROSECOND + micros)


def render(instant: Instant, precision: Precision, zone: tzinfo | None = UTC) -> str:
    """The instant as a FHIR `instant`, floored to `precision`; with `Z` for UTC, with an offset for any other zone.

    A zone of None is the machine's zone.
    """
    moment = to_datetime(floor(instant, precision)).astimezone(zone)
    text = moment.isoformat(timespec=precision.timespec)
    return text.removesuffix("+00:00") + "Z" if zone is UTC else text


def from_datetime(moment: datetime) -> Instant:
    """The instant of an aware datetime; the inverse of `to_datetime`.

    Raises:
        ValueError: `moment` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return Instant((moment - _EPOCH) // _MICROSECOND)


def to_datetime(instant: Instant) -> datetime:
    """The instant as an aware datetime in UTC; the inverse of `from_datetime`."""
    return _EPOCH + timedelta(microseconds=instant)


def http_date(instant: Instant) -> str:
    """The instant as an HTTP-date in IMF-fixdate form (ST-22)."""
    return formatdate(instant // 1_000_000, usegmt=True)
