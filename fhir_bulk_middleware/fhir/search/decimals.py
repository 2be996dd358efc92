"""Decimal numbers with their written precision, and their comparison in searches. No binary floats."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from fhir_bulk_middleware.fhir.prefix import Prefix

_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{1,40})?)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_EXACT = Context(prec=2200)  # more digits than the sum of any two such numbers can have

Edge = tuple[Decimal, int]
"""A number and its side: 1 means just above the number, -1 just below, 0 the number itself."""

_ENDLESS = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Bounds:
    """A closed interval of numbers; for a plain number both bounds are equal."""

    low: Edge
    high: Edge


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a query with its implied range: `100` means 99.5 (included) to 100.5 (excluded), `100.0` 99.95 to 100.05."""

    value: Decimal
    low: Decimal
    high: Decimal

    @property
    def coarse(self) -> bool:
        """Whether its last significant digit is left of the ones, as in `1e2`."""
        return int(self.value.as_tuple().exponent) > 0


def read_number(text: str) -> Number | None:
    """Parse a number of a query; None if the text is not a number."""
    if not _NUMBER.fullmatch(text):
        return None
    value = Decimal(text)
    exponent = value.as_tuple().exponent
    half = Decimal((0, (5,), int(exponent) - 1))
    return Number(value, _EXACT.subtract(value, half), _EXACT.add(value, half))


def read_decimal(value: Any) -> Decimal | None:
    """The number in a parsed resource as a Decimal; a float is converted through its shortest text. None for other values."""
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return Decimal(repr(value)) if isinstance(value, float) else None


def exactly(number: Decimal) -> Bounds:
    """The bounds of a plain number."""
    return Bounds((number, 0), (number, 0))


def from_to(low: Decimal | None, high: Decimal | None) -> Bounds:
    """The bounds of a range; None means unbounded."""
    return Bounds((-_ENDLESS if low is None else low, 0), (_ENDLESS if high is None else high, 0))


def compared(number: Decimal, comparator: str) -> Bounds:
    """The bounds of a quantity with a comparator: `<5` means any number below 5."""
    bounds = {
        "<": Bounds((-_ENDLESS, 0), (number, -1)),
        "<=": Bounds((-_ENDLESS, 0), (number, 0)),
        ">": Bounds((number, 1), (_ENDLESS, 0)),
        ">=": Bounds((number, 0), (_ENDLESS, 0)),
    }
    return bounds.get(comparator, exactly(number))


def _within(asked: Number, found: Bounds) -> bool:
    return (asked.low, 0) <= found.low and found.high < (asked.high, 0)


def _near(asked: Number, found: Bounds) -> bool:
    margin = _EXACT.multiply(abs(asked.value), Decimal("0.1"))
    low = min(asked.low, _EXACT.subtract(asked.value, margin))
    high = max(asked.high, _EXACT.add(asked.value, margin))
    return found.low <= (high, 0) and found.high >= (low, 0)


COMPARE: Mapping[Prefix, Callable[[Number, Bounds], bool]] = {
    Prefix.EQ: _within,
    Prefix.NE: lambda asked, found: not _within(asked, found),
    Prefix.GT: lambda asked, found: found.high > (asked.value, 0),
    Prefix.LT: lambda asked, found: found.low < (asked.value, 0),
    Prefix.GE: lambda asked, found: found.high >= (asked.value, 0),
    Prefix.LE: lambda asked, found: found.low <= (asked.value, 0),
    Prefix.SA: lambda asked, found: found.low > (asked.value, 0),
    Prefix.EB: lambda asked, found: found.high < (asked.value, 0),
    Prefix.AP: _near,
}
"""The comparison of each prefix. Only `eq`, `ne` and `ap` use the precision of the number; `ap` allows a tenth of its value."""
