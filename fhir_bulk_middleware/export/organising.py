"""Output by patient: blocks that begin with a header line and stay in one file if they fit (FR-14, FR-15, law 22)."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Portion", "gathered", "header"]


@dataclass(frozen=True, slots=True)
class Portion:
    """Lines that go into one part together.

    Attributes:
        lines: NDJSON.
        count: number of lines.
        read: number of resources that were read from the adapter for them.
        cursor: the next portion begins after it.
        block: reference of the patient whose block this is, for organised output.
        together: in the first portion of a block, its size in bytes; of a block too long to read ahead, the size that was read.
        long: whether the block is longer than `together`.
        unreadable: references of resources that the storage could not give out (`Page.unreadable`).
    """

    lines: bytes
    count: int
    read: int
    cursor: str
    block: str | None = None
    together: int = 0
    long: bool = False
    unreadable: tuple[str, ...] = ()


def header(reference: str) -> bytes:
    """The header line of a patient's block (FR-14)."""
    document = {"resourceType": "Parameters", "parameter": [{"name": "header", "valueReference": {"reference": reference}}]}
    return compact_json(document).encode() + b"\n"


async def gathered(portions: AsyncIterator[Portion], limit: int) -> AsyncIterator[Portion]:
    """The same portions, with the size of each block in its first one.

    Reads each block ahead to its end, but no further than `limit` bytes.
    """
    waiting: deque[Portion] = deque()
    size, open_block = 0, None  # bytes waiting of the current block; the block that was too long to hold back
    async with closing(portions) as source:
        async for portion in source:
            if waiting and portion.block != waiting[0].block:
                for each in _with_size(waiting, size):
                    yield each
                size = 0
            if portion.block == open_block:  # the rest of a block that was too long to hold back
                yield portion
                continue
            waiting.append(portion)
            size += len(portion.lines)
            if size > limit:
                open_block = portion.block
                for each in _with_size(waiting, size, long=True):
                    yield each
                size = 0
    for each in _with_size(waiting, size):
        yield each


def _with_size(waiting: deque[Portion], size: int, *, long: bool = False) -> list[Portion]:
    """The waiting portions; the first that has lines gets the size of the block."""
    portions = list(waiting)
    waiting.clear()
    for place, portion in enumerate(portions):
        if portion.count:
            portions[place] = replace(portion, together=size, long=long)
            break
    return portions
