"""Puts context into the blocks of organised output: each block has the context that its own lines name (FR-16, law 40)."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from fhir_bulk_middleware.export.context.closure import Closure
from fhir_bulk_middleware.export.context.context_reader import ContextReader
from fhir_bulk_middleware.export.context.context_round import BATCH, follow
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.export.organising import Portion
from fhir_bulk_middleware.export.page_form import MalformedPage
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["BlockContext"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where reading goes on.

    Attributes:
        before: the adapter's cursor before the current block; None at the start.
        at: the adapter's cursor after the last portion that was written; None at the start.
        done: how many context references of the block were read; None if the block's own lines are not finished.
    """

    before: str | None = None
    at: str | None = None
    done: int | None = None

    @classmethod
    def of(cls, cursor: str | None) -> "_Place":
        return cls() if cursor is None else cls(*json.loads(cursor))

    def __str__(self) -> str:
        return json.dumps([self.before, self.at, self.done], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class BlockContext:
    """Adds context to portions of organised output.

    Attributes:
        read: reads the portions behind a cursor of the adapter.
        reader: reads context.
        scan: finds what lines name.
        as_of: the instant of context.
    """

    read: Callable[[str | None], AsyncIterator[Portion]]
    reader: ContextReader
    scan: ReferenceScan
    as_of: Instant | None

    async def portions(self, cursor: str | None) -> AsyncIterator[Portion]:
        """The portions behind a cursor, with the context of each block at its end.

        A block that was written in part is read again from its beginning, since its earlier lines name context too.

        Raises:
            MalformedPage: the adapter divides a block otherwise than when it was read before.
        """
        begun = place = _Place.of(cursor)
        skipping, block, after = begun.at is not None, None, begun.before
        names = set[str]()
        async with closing(self.read(begun.before)) as source:
            async for portion in source:
                if block is not None and portion.block != block:
                    if skipping and begun.done is None:
                        raise MalformedPage(f"the block of {block}", "it is not divided as when it was read before", "block")
                    async for each in self._context(block, names, replace(place, done=begun.done or 0 if skipping else 0)):
                        yield each
                    skipping = False
                if portion.block != block:
                    block, names, place = portion.block, set(), _Place(after)
                names |= {reference.decode() for reference in self.scan.of(portion.lines)}
                after = portion.cursor
                place = replace(place, at=after)
                if not skipping:
                    yield replace(portion, cursor=str(place))
                elif begun.done is None and after == begun.at:
                    skipping = False
        if block is not None:
            async for each in self._context(block, names, replace(place, done=begun.done or 0 if skipping else 0)):
                yield each

    async def _context(self, block: str, names: set[str], place: _Place) -> AsyncIterator[Portion]:
        """The rest of a block's context."""
        if not names:
            return
        with Closure() as closure:
            closure.add(names)
            await follow(closure, self.reader, self.scan, self.as_of)
            before, done = 0, place.done or 0
            for type_ in closure.types():
                for ids in closure.ids(type_, BATCH):
                    rest = ids[max(0, done - before) :]
                    if rest:
                        async with closing(self.reader.read(type_, rest, self.as_of)) as pages:
                            async for named in pages:
                                if named.page.count:
                                    read = replace(place, done=before + ids.index(named.last) + 1)
                                    yield Portion(named.page.lines, named.page.count, named.page.count, str(read), block)
                    before += len(ids)
