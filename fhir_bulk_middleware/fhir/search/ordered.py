"""Tests of elements against dates, numbers and quantities with prefixes."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from fhir_bulk_middleware.fhir.definitions import TypedPath
from fhir_bulk_middleware.fhir.expression import Test
from fhir_bulk_middleware.fhir.search import decimals, spans
from fhir_bulk_middleware.fhir.search.decimals import Bounds, read_decimal
from fhir_bulk_middleware.fhir.search.values import DateValue, NumberValue, QuantityValue

_CURRENCIES = "urn:iso:std:iso:4217"


def date_test(values: Collection[DateValue], path: TypedPath) -> Test:
    """Whether the time of the element matches one of the dates."""
    each, type_ = [partial(spans.COMPARE[value.prefix], value.span) for value in values], path.type

    def test(node: Any) -> bool:
        found = spans.element_span(node, type_)
        return found is not None and any(matches(found) for matches in each)

    return test


def number_test(values: Collection[NumberValue]) -> Test:
    """Whether a decimal or integer element matches one of the numbers."""
    each = [(decimals.COMPARE[value.prefix], value.number) for value in values]

    def test(node: Any) -> bool:
        found = read_decimal(node)
        if found is None:
            return False
        bounds = decimals.exactly(found)
        return any(compare(asked, bounds) for compare, asked in each)

    return test


def quantity_test(values: Collection[QuantityValue], path: TypedPath) -> Test:
    """Whether a quantity element matches, in the same unit; units are not converted. SampledData never matches."""
    each = [(decimals.COMPARE[value.amount.prefix], value.amount.number, value) for value in values]

    def test(node: Any) -> bool:
        return any(
            (bounds := _bounds(node, path.type, value)) is not None and compare(asked, bounds) for compare, asked, value in each
        )

    return test


def _bounds(node: Any, type_: str, value: QuantityValue) -> Bounds | None:
    """The bounds of an element of a quantity type, or None if it has no value in the requested unit."""
    if not isinstance(node, Mapping) or type_ == "SampledData":
        return None
    if type_ == "Range":
        return _range_bounds(node, value)
    number = read_decimal(node.get("value"))
    if number is None or not (_in_currency(node, value) if type_ == "Money" else _in_unit(node, value)):
        return None
    return decimals.compared(number, str(node.get("comparator", "")))


def _range_bounds(node: Mapping[str, Any], value: QuantityValue) -> Bounds | None:
    sides = {side: node[side] for side in ("low", "high") if isinstance(node.get(side), Mapping)}
    known = {side: read_decimal(end.get("value")) for side, end in sides.items() if _in_unit(end, value)}
    if not known or len(known) < len(sides):
        return None
    return decimals.from_to(known.get("low"), known.get("high"))


def _in_unit(node: Mapping[str, Any], value: QuantityValue) -> bool:
    if value.code is None:
        return True
    if value.system is not None:
        return node.get("system") == value.system and node.get("code") == value.code
    return value.code in (node.get("code"), node.get("unit"))


def _in_currency(node: Mapping[str, Any], value: QuantityValue) -> bool:
    return value.code is None or (value.system in (None, _CURRENCIES) and node.get("currency") == value.code)
