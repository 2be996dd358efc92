"""Numbers with the precision they were written in."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware.fhir.prefix import Prefix, split_prefix
from fhir_bulk_middleware.fhir.search.decimals import COMPARE, compared, exactly, from_to, read_decimal, read_number

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("100", "99.5", "100.5"),
        ("100.00", "99.995", "100.005"),
        ("1.00e2", "99.5", "100.5"),
        ("2.0", "1.95", "2.05"),
        ("5.40e-3", "0.005395", "0.005405"),
        ("0", "-0.5", "0.5"),
        ("-5.4", "-5.45", "-5.35"),
        ("12345678901234567890.1234567890", "12345678901234567890.12345678895", "12345678901234567890.12345678905"),
    ],
)
def test_a_number_stands_for_what_its_digits_leave_open(text: str, low: str, high: str) -> None:
    number = read_number(text)
    assert number is not None
    assert (number.low, number.high) == (Decimal(low), Decimal(high))
    assert not number.coarse


@given(DECIMALS)
def test_the_range_is_one_unit_of_the_last_digit_around_the_number(value: Decimal) -> None:
    number = read_number(f"{value:f}")
    assert number is not None
    unit = Fraction(10) ** int(value.as_tuple().exponent)
    assert Fraction(number.high) - Fraction(number.low) == unit
    assert Fraction(number.high) + Fraction(number.low) == 2 * Fraction(value)


@given(DECIMALS, DECIMALS)
def test_plain_numbers_compare_exactly(asked: Decimal, found: Decimal) -> None:
    number = read_number(f"{asked:f}")
    assert number is not None
    holds = {prefix: COMPARE[prefix](number, exactly(found)) for prefix in Prefix}
    assert holds[Prefix.EQ] is (number.low <= found < number.high)
    assert holds[Prefix.NE] is not holds[Prefix.EQ]
    assert holds[Prefix.GT] is holds[Prefix.SA] is (found > asked)
    assert holds[Prefix.LT] is holds[Prefix.EB] is (found < asked)
    assert holds[Prefix.GE] is (found >= asked)
    assert holds[Prefix.LE] is (found <= asked)
    assert holds[Prefix.AP] >= holds[Prefix.EQ]


@given(DECIMALS, DECIMALS, DECIMALS)
def test_a_range_compares_by_its_ends(asked: Decimal, one: Decimal, other: Decimal) -> None:
    number, low, high = read_number(f"{asked:f}"), min(one, other), max(one, other)
    assert number is not None
    bounds = from_to(low, high)
    assert COMPARE[Prefix.GT](number, bounds) is (high > asked)
    assert COMPARE[Prefix.LT](number, bounds) is (low < asked)
    assert COMPARE[Prefix.SA](number, bounds) is (low > asked)
    assert COMPARE[Prefix.EB](number, bounds) is (high < asked)
    assert COMPARE[Prefix.EQ](number, bounds) is (number.low <= low and high < number.high)


@pytest.mark.parametrize(
    ("comparator", "prefix", "asked", "expected"),
    [
        ("<", Prefix.LT, "5", True),
        ("<", Prefix.LE, "5", True),
        ("<", Prefix.GE, "5", False),
        ("<", Prefix.GT, "4", True),
        ("<", Prefix.EB, "5", True),
        ("<=", Prefix.EB, "5", False),
        ("<=", Prefix.GE, "5", True),
        (">", Prefix.GT, "1000", True),
        (">", Prefix.SA, "5", True),
        (">=", Prefix.SA, "5", False),
        (">", Prefix.LE, "5", False),
        (">=", Prefix.LE, "5", True),
        ("<", Prefix.EQ, "5", False),
        ("<", Prefix.NE, "5", True),
        ("ad", Prefix.EQ, "5", True),
    ],
)
def test_a_recorded_comparison_is_the_range_it_says(comparator: str, prefix: Prefix, asked: str, expected: bool) -> None:
    number = read_number(asked)
    assert number is not None
    assert COMPARE[prefix](number, compared(Decimal(5), comparator)) is expected


def test_only_numbers_are_numbers() -> None:
    assert read_decimal(Decimal("1.10")) == Decimal("1.10")
    assert read_decimal(5) == Decimal(5)
    assert read_decimal(0.1) == Decimal("0.1")
    others: list[object] = [True, None, "5", {}, Decimal("NaN")]
    assert [read_decimal(other) for other in others] == [None] * len(others)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", (Prefix.EQ, "5")),
        ("ge5", (Prefix.GE, "5")),
        ("ap-5", (Prefix.AP, "-5")),
        ("xx5", (Prefix.EQ, "xx5")),
        ("", (Prefix.EQ, "")),
    ],
)
def test_a_prefix_is_split_off(text: str, expected: tuple[Prefix, str]) -> None:
    assert split_prefix(text) == expected
