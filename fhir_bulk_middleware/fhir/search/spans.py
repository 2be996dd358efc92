"""Time intervals of FHIR dates of any precision, and their comparison in searches.

Dates and times without an offset are read as UTC, in the query and in the resource. FHIR leaves the zone to the server, and a
stored query must mean the same on every machine.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from fhir_bulk_middleware.fhir.prefix import Prefix

_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
_DAY = 1440 * _MINUTE
_DECEMBER = 12
_USUAL = len("2000-01-01T00:00:00.000000000+00:00")

_TEXT = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>0[1-9]|1[0-2])(?:-(?P<day>\d\d)"
    r"(?:T(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d|60)(?:\.(?P<fraction>\d{1,9})\d*)?)?"
    r"(?P<offset>Z|[+-](?:0\d|1[0-4]):[0-5]\d)?)?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open interval from `low` to `high`, in nanoseconds since the year 1; infinite if unbounded."""

    low: float
    high: float


EVER = Span(-math.inf, math.inf)


def read_span(text: str) -> Span | None:
    """The interval of a date, dateTime or instant at its precision, down to nanoseconds; None if the text is none of these."""
    return _remembered(text) if len(text) <= _USUAL else _read(text)


def _read(text: str) -> Span | None:
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        first = date(int(year), int(month or 1), int(day or 1)).toordinal()
    except ValueError:
        return None
    if hour is None:
        return Span(first * _DAY, (first + 1 if day else _day_after(int(year), int(month or _DECEMBER))) * _DAY)
    low = first * _DAY + (int(hour) * 60 + int(minute)) * _MINUTE - _offset(offset)
    if second is None:
        return Span(low, low + _MINUTE)
    low += int(second) * _SECOND
    if fraction is None:
        return Span(low, low + _SECOND)
    unit = 10 ** (9 - len(fraction))
    low += int(fraction) * unit
    return Span(low, low + unit)


_remembered = lru_cache(maxsize=1_024)(_read)
"""Resources that were written together have the same times."""


def _day_after(year: int, month: int) -> int:
    """The ordinal of the first day after a month; works for the year 9999 too, where `date` overflows."""
    if month == _DECEMBER:
        return date(year, _DECEMBER, 31).toordinal() + 1
    return date(year, month + 1, 1).toordinal()


def _offset(text: str | None) -> int:
    if text is None or text == "Z":
        return 0
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return (-minutes if text[0] == "-" else minutes) * _MINUTE


def element_span(value: Any, type_: str) -> Span | None:
    """The interval of an element of this FHIR type, or None if it has no time.

    An instant is a point at any precision. A Period without a start or an end is unbounded on that side. For a Timing only the
    outer limits count: its events and its `boundsPeriod`.
    """
    if type_ == "Period":
        return _period(value)
    if type_ == "Timing":
        return _timing(value)
    span = read_span(value) if isinstance(value, str) else None
    if span is not None and type_ == "instant":
        return Span(span.low, span.low + 1)
    return span


def _period(value: Any) -> Span | None:
    if not isinstance(value, Mapping):
        return None
    start, end = value.get("start"), value.get("end")
    if start is None and end is None:
        return None
    low = EVER if start is None else element_span(start, "dateTime")
    high = EVER if end is None else element_span(end, "dateTime")
    return None if low is None or high is None else Span(low.low, high.high)


def _timing(value: Any) -> Span | None:
    if not isinstance(value, Mapping):
        return None
    repeat, events = value.get("repeat"), value.get("event")
    bounds = _period(repeat.get("boundsPeriod")) if isinstance(repeat, Mapping) else None
    spans = [element_span(event, "dateTime") for event in events] if isinstance(events, list) else []
    return _outer(span for span in [bounds, *spans] if span is not None)


def _outer(spans: Iterable[Span]) -> Span | None:
    known = list(spans)
    return Span(min(span.low for span in known), max(span.high for span in known)) if known else None


def _within(asked: Span, found: Span) -> bool:
    return asked.low <= found.low and found.high <= asked.high


COMPARE: Mapping[Prefix, Callable[[Span, Span], bool]] = {
    Prefix.EQ: _within,
    Prefix.NE: lambda asked, found: not _within(asked, found),
    Prefix.GT: lambda asked, found: found.high > asked.high,
    Prefix.LT: lambda asked, found: found.low < asked.low,
    Prefix.GE: lambda asked, found: found.high > asked.high or _within(asked, found),
    Prefix.LE: lambda asked, found: found.low < asked.low or _within(asked, found),
    Prefix.SA: lambda asked, found: found.low >= asked.high,
    Prefix.EB: lambda asked, found: found.high <= asked.low,
    Prefix.AP: lambda asked, found: found.low < asked.high and found.high > asked.low,
}
"""The comparison of each prefix, of the query's interval with the element's. `ap` means overlap, without a margin."""
