"""Lists of references beside the parts of a job: what exported lines name, and what the context of a job holds.

A list is text in the output store, one `Type/id` on each line. It is no file of the export: no manifest names it, and it is
discarded when the job is completed.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fhir_bulk_middleware.contract.output_store import OutputSink, OutputStore
from fhir_bulk_middleware.export.context.reference_scan import ReferenceScan
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["ListWriter", "PartReferences", "StoredList", "batches"]

_IN_MEMORY = 20_000
"""References of a part that are collected before they are written, so that memory does not grow with the part."""


@dataclass(frozen=True, slots=True)
class StoredList:
    """A part of a list in the output store: `length` bytes from offset `start` under `key`."""

    key: str
    start: int
    length: int


class ListWriter:
    """Writes one list; an asynchronous context, which discards what was not sealed. Without lines there is no list.

    Args:
        outputs: the output store.
        key: the key of the list.
    """

    def __init__(self, outputs: OutputStore, key: str) -> None:
        self._outputs = outputs
        self.key = key
        """Where the list stands."""
        self._stack = AsyncExitStack()
        self._sink: OutputSink | None = None
        self.size = 0
        """Bytes written so far."""

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def write(self, references: Iterable[bytes]) -> None:
        """Append references."""
        lines = b"\n".join((*references, b""))
        if not lines:
            return
        if self._sink is None:
            self._sink = await self._stack.enter_async_context(self._outputs.create(self.key))
        await self._sink.write(lines)
        self.size += len(lines)

    async def seal(self) -> StoredList | None:
        """Make the list durable; None if nothing was written."""
        if self._sink is None:
            return None
        await self._sink.seal()
        return StoredList(self.key, 0, self.size)


class PartReferences(ListWriter):
    """Collects the references in the lines of one part, while it is written.

    Args:
        scan: finds them; None to collect nothing.
        outputs: the output store.
        key: the key of the list.
    """

    def __init__(self, scan: ReferenceScan | None, outputs: OutputStore, key: str) -> None:
        super().__init__(outputs, key)
        self._scan = scan
        self._found: set[bytes] = set()

    async def collect(self, lines: bytes) -> None:
        """Add the references in some lines."""
        if self._scan is not None:
            self._found |= self._scan.of(lines)
            if len(self._found) > _IN_MEMORY:
                await self._spill()

    async def seal(self) -> StoredList | None:
        """Make the list durable; None if the lines hold no reference. A reference may stand in it more than once."""
        await self._spill()
        return await super().seal()

    async def _spill(self) -> None:
        await self.write(sorted(self._found))
        self._found.clear()


async def batches(outputs: OutputStore, listed: StoredList, size: int) -> AsyncIterator[list[str]]:
    """The lines of a stored list, so many at a time."""
    rest, batch = b"", list[str]()
    async with closing(outputs.read(listed.key, listed.start, listed.length)) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            batch += [line.decode() for line in lines]
            while len(batch) >= size:
                yield batch[:size]
                del batch[:size]
    if batch:
        yield batch
