"""What dates cover, and how they compare."""

import math
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.prefix import Prefix
from fhir_bulk_middleware.fhir.search.spans import COMPARE, Span, element_span, read_span

MOMENTS = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29))  # noqa: DTZ001 - made aware below
OFFSETS = st.integers(-14 * 60 + 1, 14 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ENDS = st.integers(0, 12)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    low = draw(ENDS)
    return Span(draw(st.sampled_from([low, low, -math.inf])), draw(st.sampled_from([low + 1, low + draw(ENDS) + 1, math.inf])))


def nanoseconds(moment: datetime) -> int:
    return ((moment - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)) * 1000 + 86_400_000_000_000


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("2024", ["2024-01-01", "2024-12-31T23:59:59.999Z"], ["2023-12-31", "2025-01-01T00:00:00Z"]),
        ("2024-02", ["2024-02-29"], ["2024-03-01", "2024-01-31"]),
        ("2024-12", ["2024-12-31"], ["2025-01-01"]),
        ("2024-12-31", ["2024-12-31T23:59Z"], ["2025-01-01T00:00Z"]),
        ("2024-01-01T10:00Z", ["2024-01-01T10:00:59.9Z", "2024-01-01T12:00+02:00"], ["2024-01-01T10:01Z"]),
        ("2024-01-01T10:00:00Z", ["2024-01-01T10:00:00.999999999Z"], ["2024-01-01T10:00:01Z"]),
        ("2024-01-01T10:00:00.1Z", ["2024-01-01T10:00:00.19Z"], ["2024-01-01T10:00:00.2Z", "2024-01-01T10:00:00Z"]),
        ("9999", ["9999-12-31T23:59:59Z"], ["9998"]),
        ("0001", ["0001-01-01"], ["0002"]),
        ("2016-12-31T23:59:60Z", ["2017-01-01T00:00:00Z"], ["2016-12-31T23:59:59Z"]),
    ],
)
def test_a_date_covers_what_its_precision_leaves_open(text: str, inside: list[str], outside: list[str]) -> None:
    whole = read_span(text)
    assert whole is not None
    for other in inside + outside:
        part = read_span(other)
        assert part is not None
        assert COMPARE[Prefix.EQ](whole, part) is (other in inside)


NO_DATES = [
    "24",
    "2024-",
    "2024-1",
    "2024-00",
    "2024-13",
    "2024-02-30",
    "2024-01-01T",
    "2024-01-01T10",
    "2024-01-01T10:60",
    "2024-01-01T10:00:61Z",
    "2024-01-01T10:00+15:00",
    "2024-01-01T10:00z",
    "٢٠٢٤",
]


@pytest.mark.parametrize("text", ["", "2024\n", "2024-01-01 10:00", *NO_DATES])
def test_anything_else_is_no_date(text: str) -> None:
    assert read_span(text) is None


@given(MOMENTS, OFFSETS)
def test_a_moment_is_where_the_calendar_says(naive: datetime, zone: timezone) -> None:
    moment = naive.replace(tzinfo=zone)
    span = read_span(moment.isoformat(timespec="microseconds"))
    assert span == Span(nanoseconds(moment), nanoseconds(moment) + 1000)


@given(MOMENTS)
def test_every_precision_contains_the_finer_ones(moment: datetime) -> None:
    text = moment.isoformat(timespec="microseconds")
    cuts = [read_span(text[:length]) for length in (4, 7, 10, 16, 19, 21, 23, 26)]
    for outer, inner in pairwise(cuts):
        assert outer is not None
        assert inner is not None
        assert COMPARE[Prefix.EQ](outer, inner)


@given(spans(), spans())
def test_prefixes_agree_with_each_other(asked: Span, found: Span) -> None:
    holds = {prefix: COMPARE[prefix](asked, found) for prefix in Prefix}
    assert holds[Prefix.NE] is not holds[Prefix.EQ]
    assert holds[Prefix.GE] is (holds[Prefix.GT] or holds[Prefix.EQ])
    assert holds[Prefix.LE] is (holds[Prefix.LT] or holds[Prefix.EQ])
    assert holds[Prefix.SA] <= holds[Prefix.GT] or found.high == asked.high == math.inf
    assert holds[Prefix.EB] <= holds[Prefix.LT] or found.low == asked.low == -math.inf
    assert holds[Prefix.AP] is not (holds[Prefix.SA] or holds[Prefix.EB])
    assert holds[Prefix.EQ] <= holds[Prefix.AP]


@given(spans(), spans())
def test_comparison_is_that_of_the_points_within(asked: Span, found: Span) -> None:
    points = [n / 2 for n in range(-4, 60)]
    inside = [p for p in points if found.low <= p < found.high]
    assert COMPARE[Prefix.EQ](asked, found) <= all(asked.low <= p < asked.high for p in inside)
    assert COMPARE[Prefix.GT](asked, found) >= any(p >= asked.high for p in inside)
    assert COMPARE[Prefix.LT](asked, found) >= any(p < asked.low for p in inside)
    assert COMPARE[Prefix.AP](asked, found) >= any(asked.low <= p < asked.high for p in inside)


def test_an_instant_is_a_point() -> None:
    span = element_span("2024-01-01T10:00:00.345Z", "instant")
    assert span is not None
    assert span.high - span.low == 1
