"""Serves sealed parts over HTTP: representations, conditions, ranges (section 4 of the requirements)."""

import asyncio
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fhir_bulk_middleware import instant
from fhir_bulk_middleware.contract.job import Codec, Part
from fhir_bulk_middleware.contract.output_store import OutputStore
from fhir_bulk_middleware.files.format import MEDIA_TYPE, SUFFIX
from fhir_bulk_middleware.files.part import PartReader
from fhir_bulk_middleware.http.disconnecting import disconnected
from fhir_bulk_middleware.http.ranges import ByteRange, UnsatisfiableRange, requested_ranges
from fhir_bulk_middleware.http.replies import FileStatus
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.streams.closing import closing

__all__ = ["Delivery"]

_CODING = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?", re.ASCII)
_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


@dataclass(frozen=True, slots=True)
class _Representation:
    """One of the two representations of a file, gzipped or plain. Each has its own strong ETag (law 13)."""

    part: Part
    gzipped: bool

    @property
    def size(self) -> int:
        return self.part.stored_size if self.gzipped else self.part.size

    @property
    def tag(self) -> str:
        return f"{self.part.sha256}-gzip" if self.gzipped else self.part.sha256

    def headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": MEDIA_TYPE,
            "ETag": f'"{self.tag}"',
            "Last-Modified": instant.http_date(self.part.sealed_at),
            "Accept-Ranges": "bytes",
            "Vary": "Accept-Encoding",
            "Cache-Control": "no-store, no-transform",
            "Content-Disposition": f'attachment; filename="{self.part.type}.{self.part.slice}-{self.part.number}{SUFFIX}"',
        }
        if self.gzipped:
            headers["Content-Encoding"] = "gzip"
        else:
            headers["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(self.part.sha256)).decode()}:"
        return headers


class Delivery:
    """Serves sealed parts.

    Args:
        outputs: the output store that has them.
    """

    def __init__(self, outputs: OutputStore) -> None:
        self._outputs = outputs

    async def response(self, request: Request, part: Part) -> Response:
        """200 with the file, 206 with ranges of it, or 304.

        Raises:
            Refused: `FILE_UNKNOWN`, if the output store no longer has it; `PRECONDITION_FAILED`; `RANGE_UNSATISFIABLE`.
        """
        accepts = _accepts_gzip(request.headers.getlist("accept-encoding"))
        shown = _Representation(part, gzipped=accepts and part.codec is Codec.GZIP)
        headers = shown.headers()
        if not _match(request, "if-match", shown.tag, weak=False, absent=True):
            raise Refused(Reason.PRECONDITION_FAILED, "This file has another ETag than If-Match names.", part="http.If-Match")
        if _unchanged(request, shown):
            headers.pop("Content-Disposition")
            return Response(None, FileStatus.UNCHANGED, headers)
        ranges = self._ranges(request, shown)
        if ranges is None:
            headers["Content-Length"] = str(shown.size)
            return await self._stream(request, shown, FileStatus.WHOLE, headers, [_Piece(b"", ByteRange(0, shown.size))])
        if len(ranges) == 1:
            headers |= {"Content-Range": ranges[0].content_range(shown.size), "Content-Length": str(ranges[0].length)}
            return await self._stream(request, shown, FileStatus.PARTIAL, headers, [_Piece(b"", ranges[0])])
        pieces, content_type = _multipart(ranges, shown.size, headers.pop("Content-Encoding", None))
        length = sum(len(piece.head) + piece.range.length for piece in pieces)
        headers |= {"Content-Type": content_type, "Content-Length": str(length)}
        return await self._stream(request, shown, FileStatus.PARTIAL, headers, pieces)

    async def abandon(self, response: Response) -> None:
        """Close the file of a response that will not be sent."""
        if isinstance(response, _FileResponse):
            await response.abandon()

    def _ranges(self, request: Request, shown: _Representation) -> tuple[ByteRange, ...] | None:
        header = request.headers.get("range")
        if header is None or request.method != "GET" or not _if_range(request, shown):
            return None
        try:
            return requested_ranges(header, shown.size)
        except UnsatisfiableRange:
            raise Refused(
                Reason.RANGE_UNSATISFIABLE, f"This file has {shown.size} bytes.", part="http.Range", size=shown.size
            ) from None

    async def _stream(
        self, request: Request, shown: _Representation, status: FileStatus, headers: dict[str, str], pieces: "list[_Piece]"
    ) -> Response:
        if request.method == "HEAD":
            return Response(None, status, headers)
        chunks = self._range(shown, pieces[0].range) if len(pieces) == 1 else self._pieces(shown, pieces)
        try:
            first = await anext(chunks, b"")  # before the status is sent, so that a missing file can be refused
        except FileNotFoundError:
            raise Refused(Reason.FILE_UNKNOWN) from None
        return _FileResponse(first, chunks, int(headers["Content-Length"]), status, headers)

    def _range(self, shown: _Representation, wanted: ByteRange) -> AsyncIterator[bytes]:
        if shown.gzipped:
            return self._outputs.read(shown.part.key, wanted.start, wanted.length)
        return PartReader(self._outputs, shown.part).read(wanted.start, wanted.length)

    async def _pieces(self, shown: _Representation, pieces: "list[_Piece]") -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece.head
            if piece.range.length:
                async with closing(self._range(shown, piece.range)) as chunks:
                    async for chunk in chunks:
                        yield chunk


@dataclass(frozen=True, slots=True)
class _Piece:
    """A head of the multipart body (or none), then a range of the file."""

    head: bytes
    range: ByteRange


class _FileResponse(Response):
    """A response that reads its body while sending it, and stops when the client disconnects.

    Args:
        first: the first chunk.
        chunks: the others.
        length: bytes of all chunks.
        status: of the response.
        headers: of the response.
    """

    def __init__(
        self, first: bytes, chunks: AsyncIterator[bytes], length: int, status: FileStatus, headers: dict[str, str]
    ) -> None:
        super().__init__(None, status, headers)
        self._first = first
        self._chunks = chunks
        self._left = length

    async def abandon(self) -> None:
        async with closing(self._chunks):
            pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._first) == self._left:  # all is read: there is nothing to stop, and nothing to hold open while it is sent
            await self.abandon()
            await self._send(send)
            return
        with anyio.CancelScope() as sending:

            def left(done: asyncio.Future[None]) -> None:
                if not done.cancelled():
                    done.exception()  # a server that raises here has lost its client too
                    sending.cancel()

            # A plain task: for a small file, a task group costs more than its bytes.
            gone = asyncio.ensure_future(disconnected(Request(scope, receive)))
            gone.add_done_callback(left)
            try:
                async with closing(self._chunks):
                    await self._send(send)
            finally:
                gone.cancel()

    async def _send(self, send: Send) -> None:
        """Send the response. The last chunk also ends it: a client may send its next request as soon as it has all bytes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send(self._body(self._first))
        if self._left <= 0:
            return
        async for chunk in self._chunks:
            await send(self._body(chunk))
            if self._left <= 0:
                return
        raise OSError(f"the file ends {self._left} bytes early")

    def _body(self, chunk: bytes) -> Message:
        self._left -= len(chunk)
        return {"type": "http.response.body", "body": chunk, "more_body": self._left > 0}


def _multipart(ranges: tuple[ByteRange, ...], size: int, coding: str | None) -> tuple[list[_Piece], str]:
    """The pieces of a `multipart/byteranges` body, and its media type.

    The coding stands in each part: the body that is made of them is not encoded, and a client that decoded it would fail.
    """
    boundary = secrets.token_hex(16)
    fixed = f"\r\n--{boundary}\r\nContent-Type: {MEDIA_TYPE}\r\n" + (f"Content-Encoding: {coding}\r\n" if coding else "")
    pieces = [_Piece(f"{fixed}Content-Range: {item.content_range(size)}\r\n\r\n".encode(), item) for item in ranges]
    pieces.append(_Piece(f"\r\n--{boundary}--\r\n".encode(), ByteRange(0, 0)))
    return pieces, f"multipart/byteranges; boundary={boundary}"


def _accepts_gzip(headers: list[str]) -> bool:
    """Whether the client accepts gzip. Without `Accept-Encoding` it gets the plain representation (FR-07)."""
    weights: dict[str, float] = {}
    for item in ",".join(headers).split(","):
        if match := _CODING.fullmatch(item):
            weights.setdefault(match[1].lower(), float(match[2] or 1))
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _match(request: Request, name: str, tag: str, *, weak: bool, absent: bool) -> bool:
    """Whether a header of entity tags contains `tag`; `absent` if there is no such header."""
    values = request.headers.getlist(name)
    if not values:
        return absent
    if any(value.strip() == "*" for value in values):
        return True
    return any(found == tag and (weak or not prefix) for value in values for prefix, found in _ETAG.findall(value))


def _unchanged(request: Request, shown: _Representation) -> bool:
    if "if-none-match" in request.headers:
        return _match(request, "if-none-match", shown.tag, weak=True, absent=False)
    since = request.headers.get("if-modified-since")
    moment = None if since is None else _date(since)
    return moment is not None and shown.part.sealed_at // 1_000_000 <= moment


def _if_range(request: Request, shown: _Representation) -> bool:
    """Whether `If-Range`, if there is one, has the strong ETag of this representation."""
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if match := _ETAG.fullmatch(condition.strip()):
        return not match[1] and match[2] == shown.tag
    return False  # a date: both representations have the same, so it is no strong validator


def _date(text: str) -> int | None:
    """An HTTP-date in seconds since the epoch; None if it is malformed."""
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
