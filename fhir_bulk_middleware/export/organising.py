"""Output by patient: blocks that begin with a header and stay in one file where they fit (FR-14, FR-15, law 22)."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Portion", "gathered", "header"]


@dataclass(frozen=True, slots=True)
class Portion:
    """Some lines that go into one part together.

    Attributes:
        lines: NDJSON.
        count: how many lines.
        read: how many resources were read for it.
        cursor: where the next portion begins.
        block: whose block it is in, for organised output.
        together: for the first portion of a block, about how many bytes the whole block has; of a block that is too long to be
            read ahead, as many as were read.
        long: whether the block is longer than `together`.
        unreadable: references of resources that could not be given out (`Page.unreadable`).
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
    """The line that begins a block (FR-14)."""
    document = {"resourceType": "Parameters", "parameter": [{"name": "header", "valueReference": {"reference": reference}}]}
    return compact_json(document).encode() + b"\n"


async def gathered(portions: AsyncIterator[Portion], limit: int) -> AsyncIterator[Portion]:
    """The same portions; the first one of each block says how long the block is.

    Blocks are read ahead to their ends, but no further than `limit` bytes.
    """
    waiting: deque[Portion] = deque()
    size, open_block = 0, None  # of the block that is being read; None once its length was told
    async with closing(portions) as source:
        async for portion in source:
            if waiting and portion.block != waiting[0].block:
                for told in _told(waiting, size):
                    yield told
                size = 0
            if portion.block == open_block:  # a block too long to be kept back flows on
                yield portion
                continue
            waiting.append(portion)
            size += len(portion.lines)
            if size > limit:
                open_block = portion.block
                for told in _told(waiting, size, long=True):
                    yield told
                size = 0
    for told in _told(waiting, size):
        yield told


def _told(waiting: deque[Portion], size: int, *, long: bool = False) -> list[Portion]:
    """The portions that waited, the first with lines with the length of all."""
    told = list(waiting)
    waiting.clear()
    for place, portion in enumerate(told):
        if portion.count:
            told[place] = replace(portion, together=size, long=long)
            break
    return told
