"""Extents: about how many resources lie between two keys of a store, by which slices of about equal size are cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.contract.query import Range

__all__ = ["Extent", "cut_ranges"]


@dataclass(frozen=True, slots=True)
class Extent:
    """The versions of a type with neighbouring keys.

    Attributes:
        first: the lowest key.
        last: the highest key.
        live: about how many resources live there.
        size: about how many bytes they have.
    """

    first: int
    last: int
    live: float
    size: float


def cut_ranges(first_key: int, last_key: int, extents: Sequence[Extent], target_bytes: int) -> Sequence[Range]:
    """Cut a span where another share of its bytes is full; within an extent all versions count as equally large."""
    total = sum(extent.size for extent in extents)
    share = total / max(1, round(total / target_bytes))
    ranges, first, live, filled = [], first_key, 0.0, 0.0
    for extent in extents:
        begin, rest_live, rest_size = extent.first, extent.live, extent.size
        while share and filled + rest_size > share * 1.000001:  # not for the crumbs of floating point
            part = (share - filled) / rest_size
            end = begin + int(part * (extent.last - begin + 1))
            if end > first:
                ranges.append(Range(f"{first}-{end - 1}", round(live + rest_live * part)))
                first, live = end, 0.0
            begin, rest_live, rest_size, filled = end, rest_live * (1 - part), rest_size * (1 - part), 0.0
        live += rest_live
        filled += rest_size
    return (*ranges, Range(f"{first}-{last_key}", round(live)))
