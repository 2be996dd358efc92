"""Adds the mount's part to the host's response to `GET [base]/metadata`.

Only a 200 with a CapabilityStatement in JSON, plain or gzipped, is amended, up to a size. All other responses pass unchanged:
other resources, formats, codings and statuses, and bodies that do not parse.

The path needs no token, so the work is bounded (law 38): amended bodies are cached by the host's body, one statement is amended
at a time, in a thread, and none above the size or the number of waiting requests in `fhir_bulk_middleware.caps`.
"""

import asyncio
import gzip
import hashlib
import json
import logging
import re
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, NoReturn

import anyio
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_bulk_middleware.caps import STATEMENT_BYTES, STATEMENTS_BYTES, STATEMENTS_WAITING
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.discovery.capability import Capability
from fhir_bulk_middleware.fhir.nesting import deeper_than
from fhir_bulk_middleware.http.routes import whole

__all__ = ["MetadataRoute"]

_log = logging.getLogger("fhir_bulk_middleware")

_JSON: Final = frozenset({b"application/fhir+json", b"application/json", b"application/json+fhir"})
_DEPTH: Final = 200
_STALE: Final = frozenset(
    {b"etag", b"last-modified", b"content-md5", b"digest", b"repr-digest", b"content-digest", b"accept-ranges"}
)
"""Headers that describe the host's bytes. Without validators clients request the whole body again and get the amended one."""

_MARK = "\udc00"  # precedes the digits of a number; a lone surrogate cannot occur in valid text
_MARKED = re.compile(f'"{_MARK}([^"]*)"')
_GZIP_WINDOW: Final = 31  # zlib's `wbits` for gzip
_SEEN = "fhir_bulk_middleware.metadata"
_MOST_KNOWN: Final = 64
_LONGEST_LENGTH: Final = 18
_TOO_LARGE: Final = "the host's CapabilityStatement goes out as it is: it has more than %d bytes"


class MetadataRoute(Route):
    """A route for `GET` and `HEAD` of one path that calls the host and amends its response.

    It is placed before the host, or first among the host's routes. In the latter case the host routes the request a second time,
    with a mark in the scope that makes this route skip it.

    Args:
        path: the path of the host's CapabilityStatement.
        host: the host's application.
        capability: amends the statement.
    """

    def __init__(self, path: str, host: ASGIApp, capability: Capability) -> None:
        super().__init__(path, _Amending(host, capability), methods=["GET"])
        self.path_regex = whole(self.path_regex)
        self.mark = path[path.rindex("/") :]
        """A substring of the path, for a fast pre-check."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for GET and HEAD of the path, NONE for all other requests."""
        if scope["type"] != "http" or _SEEN in scope:
            return Match.NONE, {}
        match, child = super().matches(scope)
        return (match, child) if match is Match.FULL else (Match.NONE, {})


class _Amending:
    """The ASGI application behind the route."""

    def __init__(self, host: ASGIApp, capability: Capability) -> None:
        self._host = host
        self._amended = _Amended(capability)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Without this extension the host cannot have the server send a file directly, which would bypass the amendment.
        extensions = {name: value for name, value in scope.get("extensions", {}).items() if not name.startswith(_BYPASSES)}
        # In place, as a router does it, so that outer middleware finds the host's route and endpoint in the scope.
        scope.update({_SEEN: True, "extensions": extensions})
        response = _Response(send, self._amended.of, head=scope["method"] == "HEAD")
        await self._host(scope, receive, response.send)


class _Amended:
    """Cache of amended bodies by the digest of the host's body."""

    def __init__(self, capability: Capability) -> None:
        self._capability = capability
        self._known: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._size = 0
        self._turn = anyio.Lock()
        self._waiting = 0

    async def of(self, body: bytes, *, gzipped: bool) -> bytes | None:
        """The amended body; None if the body must not change."""
        digest = hashlib.sha256(b"gzip " + body if gzipped else body).digest()
        if digest in self._known:
            self._known.move_to_end(digest)
            return self._known[digest]
        if self._waiting >= STATEMENTS_WAITING:
            _log.warning("the host's CapabilityStatement goes out as it is: %d others are being amended", self._waiting)
            return None
        self._waiting += 1
        try:
            async with self._turn:
                if digest not in self._known:
                    self._remember(digest, await asyncio.to_thread(self._amend, body, gzipped=gzipped))
                return self._known.get(digest)
        finally:
            self._waiting -= 1

    def _remember(self, digest: bytes, amended: bytes | None) -> None:
        self._known[digest] = amended
        self._size += len(amended or b"")
        while self._size > STATEMENTS_BYTES or len(self._known) > _MOST_KNOWN:
            _, oldest = self._known.popitem(last=False)
            self._size -= len(oldest or b"")

    def _amend(self, body: bytes, *, gzipped: bool) -> bytes | None:
        try:
            plain = _unpacked(body) if gzipped else body
            text = plain.decode("utf-8-sig")
            if deeper_than(text, _DEPTH):
                raise ValueError(f"it is nested deeper than {_DEPTH}")
            statement = json.loads(text, parse_float=lambda digits: _MARK + digits, parse_constant=_no_constant)
            if not isinstance(statement, dict) or statement.get("resourceType") != "CapabilityStatement":
                return None
            amended = _text(self._capability.amend(statement), text).encode()
        except (ValueError, zlib.error) as error:
            _log.warning("the host's CapabilityStatement goes out as it is: %s", error)
            return None
        return gzip.compress(amended, compresslevel=6, mtime=0) if gzipped else amended


_BYPASSES = ("http.response.pathsend", "http.response.zerocopysend")


class _Response:
    """One response of the host; buffered if it may be amendable, else passed on."""

    def __init__(self, send: Send, amend: Callable[..., Awaitable[bytes | None]], *, head: bool) -> None:
        self._send = send
        self._amend = amend
        self._head = head
        self._start: Message | None = None
        self._gzipped = False
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """Handle one ASGI message of the host."""
        if message["type"] == "http.response.start" and _amendable(message):
            self._gzipped = _header(message, b"content-encoding") == b"gzip"
            self._start = message
        elif self._start is None:
            await self._send(message)
        elif message["type"] != "http.response.body":
            await self._let_go()
            await self._send(message)
        else:
            await self._hold(message)

    async def _hold(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            if len(self._body) > STATEMENT_BYTES:
                _log.warning(_TOO_LARGE, STATEMENT_BYTES)
                await self._let_go(more=True)
            return
        amended = None
        if len(self._body) > STATEMENT_BYTES:
            _log.warning(_TOO_LARGE, STATEMENT_BYTES)
        elif not self._head:
            amended = await self._amend(bytes(self._body), gzipped=self._gzipped)
        if self._head and self._start is not None:
            # Its length and validators describe a body that a GET would not return.
            self._start = _restated(self._start, None)
        elif amended is not None and self._start is not None:
            self._start = _restated(self._start, len(amended))
            self._body[:] = amended
        await self._let_go()

    async def _let_go(self, *, more: bool = False) -> None:
        start, self._start = self._start, None
        if start is not None:
            await self._send(start)
            await self._send({"type": "http.response.body", "body": bytes(self._body), "more_body": more})
        self._body.clear()


def _amendable(start: Message) -> bool:
    """Whether the response may be a CapabilityStatement in JSON."""
    media_type, _, parameters = _header(start, b"content-type").lower().partition(b";")
    length = _header(start, b"content-length")
    return (
        start["status"] == HTTPStatus.OK
        and media_type.strip() in _JSON
        and (b"charset" not in parameters or b"utf-8" in parameters)
        and _header(start, b"content-encoding").lower() in {b"", b"identity", b"gzip"}
        and not start.get("trailers", False)
        and _fits(length)
    )


def _fits(length: bytes) -> bool:
    if not length.isdigit() or (len(length) <= _LONGEST_LENGTH and int(length) <= STATEMENT_BYTES):
        return True
    _log.warning(_TOO_LARGE, STATEMENT_BYTES)
    return False


def _restated(start: Message, length: int | None) -> Message:
    """The start message for a body of this length; None means an unknown length."""
    headers = [(name, value) for name, value in _headers(start) if name not in _STALE and name != b"content-length"]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {**start, "headers": headers}


def _headers(start: Message) -> Iterable[tuple[bytes, bytes]]:
    return ((bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ()))


def _header(start: Message, wanted: bytes) -> bytes:
    return next((value.strip() for name, value in _headers(start) if name == wanted), b"")


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    plain = unpacker.decompress(body, STATEMENT_BYTES)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("gzipped in more than one piece, cut short, or too large")
    return plain


def _text(statement: dict[str, Any], original: str) -> str:
    """The statement as JSON; numbers keep their digits."""
    text = compact_json(statement)
    if _MARK not in text:
        return text
    if r"\udc00" in original.lower():
        raise ValueError("it has a number with decimals, and half a surrogate pair")
    return _MARKED.sub(r"\1", text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
