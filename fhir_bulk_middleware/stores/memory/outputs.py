"""`MemoryOutputStore`: an output store in memory."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from fhir_bulk_middleware.contract.output_store import Link, OutputSink
from fhir_bulk_middleware.stores.output_keys import split_key

__all__ = ["MemoryOutputStore"]

_CHUNK = 256 * 1024


class MemoryOutputStore:
    """An `OutputStore` for tests and demonstrations; its parts end with the process."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}
        self._begun: dict[_Sink, str] = {}
        self._bound: str | None = None

    async def bind(self, store: str) -> bool:
        """See `OutputStore.bind`."""
        self._bound = self._bound or store
        return self._bound == store

    @asynccontextmanager
    async def create(self, key: str) -> AsyncGenerator[OutputSink]:
        """Begin a part."""
        split_key(key)
        sink = _Sink(self._parts, key)
        self._begun[sink] = key
        try:
            yield sink
        finally:
            del self._begun[sink]

    async def read(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `OutputStore.read`; chunks have at most 256 kB."""
        split_key(key)
        part = self._parts.get(key)
        if part is None:
            raise FileNotFoundError(f"there is no part {key}")
        for begin in range(start, min(start + length, len(part)), _CHUNK):
            yield part[begin : min(begin + _CHUNK, start + length)]

    async def discard(self, job_id: str, *, keep: Collection[str] = ()) -> None:
        """See `OutputStore.discard`."""
        for key in [key for key in self._parts if key.startswith(f"{job_id}/") and key not in keep]:
            del self._parts[key]
        for sink in [sink for sink, key in self._begun.items() if key.startswith(f"{job_id}/")]:
            sink.discarded = True

    async def link(self, links: Sequence[Link]) -> Collection[str]:
        """See `SupportsLinking`."""
        made = set()
        for source, key, stored_size in links:
            split_key(key)
            part = self._parts.get(source)
            if part is not None and len(part) == stored_size and key not in self._parts:
                self._parts[key] = part
                made.add(key)
        return made

    async def jobs(self) -> AsyncIterator[str]:
        """See `OutputStore.jobs`."""
        for job_id in {key.partition("/")[0] for key in [*self._parts, *self._begun.values()]}:
            yield job_id


class _Sink:
    def __init__(self, parts: dict[str, bytes], key: str) -> None:
        self._parts = parts
        self._key = key
        self._pieces: list[bytes] = []
        self.discarded = False

    async def write(self, data: bytes) -> None:
        self._pieces.append(bytes(data))

    async def seal(self) -> None:
        if self.discarded:
            raise FileNotFoundError(f"part {self._key} was discarded while it was written")
        self._parts[self._key] = b"".join(self._pieces)
