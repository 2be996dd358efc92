"""Encodes a part for the output store, and reads plain bytes of a stored part from any offset."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from fhir_bulk_middleware.contract.job import Codec, Part
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.files import deflate
from fhir_bulk_middleware.streams.ahead import meanwhile
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["FLUSH_INTERVAL", "PartEncoder", "PartReader", "PartSummary", "default_codec"]

FLUSH_INTERVAL = 1024 * 1024
"""Plain bytes between two flush points of a gzipped part, at which inflating can begin (law 13)."""

_GZIP_HEADER = 10
_CHUNK = 256 * 1024
_TOGETHER = 8
"""Chunks that a thread inflates at once; starting a thread costs more than one chunk."""


def default_codec() -> Codec:
    """The codec of a new job: gzip if isal is installed, which makes it cheap, else plain (law 13)."""
    return Codec.GZIP if deflate.FAST else Codec.PLAIN


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Size, hash and flush points of an encoded part; fields as in `Part`.

    Attributes:
        size: bytes of the plain NDJSON.
        sha256: of the plain NDJSON, in hex.
        stored_size: bytes in the output store.
        flush_points: stored offsets at which inflating can begin, one for each started `FLUSH_INTERVAL` of plain bytes.
    """

    size: int
    sha256: str
    stored_size: int
    flush_points: tuple[int, ...]


class PartEncoder:
    """Encodes the pages of one part into the bytes to store.

    Size, hash and flush points depend on the plain bytes alone, not on their division into pages.
    """

    def __init__(self, codec: Codec) -> None:
        self._deflate = deflate.gzip_compressor() if codec is Codec.GZIP else None
        self._hash = hashlib.sha256()
        self._size = 0
        self._stored = 0
        self._points: list[int] = []

    @property
    def size(self) -> int:
        """Plain bytes so far."""
        return self._size

    @property
    def summary(self) -> PartSummary:
        """The summary of what was encoded so far; of the whole part after `finish`."""
        return PartSummary(self._size, self._hash.hexdigest(), self._stored, tuple(self._points))

    def encode(self, page: bytes) -> bytes:
        """The bytes to store for a page. May be empty, since the compressor buffers."""
        self._hash.update(page)
        if self._deflate is None:
            self._size += len(page)
            self._stored += len(page)
            return page
        pieces: list[bytes] = []
        rest = memoryview(page)
        while rest:
            into = self._size % FLUSH_INTERVAL
            if into == 0:
                self._begin_interval(pieces)
            piece, rest = rest[: FLUSH_INTERVAL - into], rest[FLUSH_INTERVAL - into :]
            self._size += len(piece)
            self._take(pieces, self._deflate.compress(piece))
        return b"".join(pieces)

    def finish(self) -> bytes:
        """The last bytes to store. Do not call `encode` after this."""
        if self._deflate is None:
            return b""
        last = self._deflate.flush()
        self._stored += len(last)
        return last

    def _begin_interval(self, pieces: list[bytes]) -> None:
        if self._size == 0:
            self._points.append(_GZIP_HEADER)
        elif self._deflate is not None:
            # Only if more follows, so that a part that ends on an interval has no flush point at its end.
            self._take(pieces, self._deflate.flush(zlib.Z_FULL_FLUSH))
            self._points.append(self._stored)

    def _take(self, pieces: list[bytes], piece: bytes) -> None:
        pieces.append(piece)
        self._stored += len(piece)


class PartReader:
    """Reads plain bytes of a sealed part, whatever its codec."""

    def __init__(self, outputs: OutputStore, part: Part) -> None:
        self._outputs = outputs
        self._part = part

    async def read(self, start: int, length: int) -> AsyncIterator[bytes]:
        """`length` plain bytes from `start`, in chunks of at most 256 kB. At most 6 MB are in memory.

        Raises:
            FileNotFoundError: on the first step, if the output store no longer has the part.
            OSError: the stored bytes are fewer than the part's row says, or cannot be inflated.
        """
        if length == 0:
            return
        if self._part.codec is Codec.PLAIN:
            source, skip = self._outputs.read(self._part.key, start, length), 0
        else:
            source, skip = self._inflated(start, start + length), start % FLUSH_INTERVAL
        left = length
        async with closing(source) as chunks:
            async for chunk in chunks:
                wanted = chunk[skip : skip + left] if skip or len(chunk) > left else chunk
                skip = max(0, skip - len(chunk))
                left -= len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return
        raise OSError(f"part {self._part.key} ends {left} bytes early")

    def _inflated(self, start: int, end: int) -> AsyncIterator[bytes]:
        """Plain bytes from the last flush point before `start`, to `end` or beyond it."""
        points = self._part.flush_points
        first, after = start // FLUSH_INTERVAL, -(-end // FLUSH_INTERVAL)
        begin, stop = points[first], points[after] if after < len(points) else self._part.stored_size
        stored = self._outputs.read(self._part.key, begin, stop - begin)
        return self._on_the_spot(stored) if deflate.FAST else self._ahead(stored)

    async def _on_the_spot(self, stored: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Inflate chunk by chunk in the event loop: with isal a chunk takes about as long as sending it."""
        inflate = deflate.raw_decompressor()
        async with closing(stored) as pieces:
            async for piece in pieces:
                for chunk in self._inflate(inflate, piece):
                    yield chunk
                    await asyncio.sleep(0)  # the event loop runs other tasks

    async def _ahead(self, stored: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Inflate several chunks at a time, in a thread, while the previous ones are being sent."""
        inflate = deflate.raw_decompressor()
        ready: list[bytes] = []
        async with closing(stored) as pieces:
            async for piece in pieces:
                inflating = self._inflate(inflate, piece)
                more = True
                while more:
                    async with meanwhile(partial(_some, inflating)) as following:
                        for chunk in ready:
                            yield chunk
                    ready = following.result()
                    more = len(ready) == _TOGETHER
        for chunk in ready:
            yield chunk

    def _inflate(self, inflate: deflate.Decompressor, piece: bytes) -> Iterator[bytes]:
        while not inflate.eof:
            try:
                chunk = inflate.decompress(piece, _CHUNK)
            except Exception as error:  # isal and zlib raise different classes
                raise OSError(f"part {self._part.key} cannot be inflated") from error
            yield chunk
            if inflate.needs_input:
                return
            piece = b""


def _some(chunks: Iterator[bytes]) -> list[bytes]:
    return list(islice(chunks, _TOGETHER))
