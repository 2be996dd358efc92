"""Parses the `Range` header (RFC 9110, section 14; FR-08)."""

import re
from dataclasses import dataclass

from fhir_bulk_middleware.caps import RANGES

__all__ = ["ByteRange", "UnsatisfiableRange", "requested_ranges"]

_SPEC = re.compile(r"[ \t]*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))[ \t]*", re.ASCII)


class UnsatisfiableRange(Exception):  # noqa: N818 - it has a status of its own, it is no fault
    """None of the requested ranges overlaps the representation."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes of a representation.

    Attributes:
        start: the offset of the first byte.
        length: number of bytes.
    """

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """The value of `Content-Range`."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def requested_ranges(header: str, size: int) -> tuple[ByteRange, ...] | None:
    """The ranges of a `Range` header, in its order.

    None if the header is to be ignored: another unit, malformed, more than 16 ranges, or ranges that together are larger than the
    whole representation.

    Raises:
        UnsatisfiableRange: the header is well formed, but no range overlaps the representation.
    """
    unit, separator, specs = header.partition("=")
    if unit.strip().lower() != "bytes" or not separator:
        return None
    items = [item for item in specs.split(",") if item.strip()]
    if not items or len(items) > RANGES:
        return None
    ranges: list[ByteRange] = []
    for item in items:
        match = _SPEC.fullmatch(item)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            start, end = max(size - int(suffix), 0), size
        else:
            start, end = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return None
        if start < end:
            ranges.append(ByteRange(start, end - start))
    if not ranges:
        raise UnsatisfiableRange
    if sum(item.length for item in ranges) > size:
        return None
    return tuple(ranges)
