"""A proxy in front of an object store that misbehaves as a test says."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto

from loopback import free_socket

__all__ = ["Fault", "FaultyProxy", "Plan", "Request"]


_SLOWLY = 1.0
_NOT_FOUND = (
    b'<?xml version="1.0" encoding="UTF-8"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Error>'
    b"<Key>%s</Key><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error></DeleteResult>"
)
_KEY = re.compile(rb"<Key>(.*?)</Key>")


class Fault(Enum):
    """How the proxy misbehaves on one request."""

    UNAVAILABLE = auto()
    """503, without asking the store."""
    ERROR_AFTER = auto()
    """The store carries it out, and the client is told 500."""
    CUT_UPLOAD = auto()
    """The connection ends after half of the body was read; the store gets nothing."""
    CUT_ANSWER = auto()
    """The connection ends after half of the answer."""
    DAMAGE = auto()
    """One byte of the body is changed on its way to the store."""
    SILENCE = auto()
    """Nothing is answered until the client goes away."""
    SLOW = auto()
    """The store is asked a second later."""
    ALREADY_GONE = auto()
    """Without asking the store, a deletion of several objects is answered as S3 does where one of them was not found."""
    HIDDEN = auto()
    """404, without asking the store."""


_UNASKED = {Fault.UNAVAILABLE: b"503 Slow Down", Fault.HIDDEN: b"404 Not Found"}
_EMPTY = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """A request, as a plan of faults sees it.

    Attributes:
        number: how many came before it.
        method: its method.
        target: its path and query.
        size: bytes of its body.
        headers: its headers, names in lower case.
    """

    number: int
    method: str
    target: str
    size: int
    headers: dict[str, str]


Plan = Callable[[Request], Fault | None]


class FaultyProxy:
    """Forwards requests, but for those that the plan gives a fault."""

    def __init__(self, address: str) -> None:
        self.plan: Plan = lambda _: None
        self.faults: list[tuple[Fault, Request]] = []
        self.requests = 0
        self.port = 0
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve on a free port.

        It accepts connections itself: `asyncio.Server` forgets to close one that it accepted just before it was closed.
        """
        loop, listener = asyncio.get_running_loop(), free_socket()
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        loop.add_reader(listener, self._accept, listener)
        try:
            yield
        finally:
            loop.remove_reader(listener)
            listener.close()
            await asyncio.sleep(0)  # in which those begin that were accepted last
            serving = [*self._serving]
            for each in serving:
                each.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):  # the client has gone
            client, _ = listener.accept()
            client.setblocking(False)
            serving = asyncio.create_task(self._serve(client))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()  # the client may be slow to read
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = [line.partition(": ") for line in lines[1:] if line]
        headers = {name.lower(): value for name, _, value in fields}
        method, target, _ = lines[0].split(" ", 2)
        size = int(headers.get("content-length", "0"))
        request = Request(self.requests, method, target, size, headers)
        self.requests += 1
        fault = self.plan(request)
        if fault is not None:
            self.faults.append((fault, request))
        if fault is Fault.CUT_UPLOAD:
            await reader.readexactly(size // 2)
            return
        body = bytearray(await reader.readexactly(size))
        if fault is Fault.SILENCE:
            await reader.read()  # until the client closes
            return
        if fault in _UNASKED:
            await _send(writer, _EMPTY % _UNASKED[fault])
            return
        if fault is Fault.ALREADY_GONE and (key := _KEY.search(body)):
            found = _NOT_FOUND % key[1]
            await _send(writer, b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n" % len(found))
            await _send(writer, b"Connection: close\r\n\r\n" + found)
            return
        if fault is Fault.SLOW:
            await asyncio.sleep(_SLOWLY)
        if fault is Fault.DAMAGE and body:
            body[len(body) // 2] ^= 1
        answer = await self._forwarded(head, bytes(body))
        if fault is Fault.ERROR_AFTER:
            answer = _EMPTY % b"500 Internal Server Error"
        if fault is Fault.CUT_ANSWER:
            at = answer.index(b"\r\n\r\n") + 4
            answer = answer[: at + (len(answer) - at) // 2]
        await _send(writer, answer)

    async def _forwarded(self, head: bytes, body: bytes) -> bytes:
        """The whole answer of the store, which closes the connection after it."""
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        lines[1:1] = [b"Connection: close"]
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            await _send(writer, b"\r\n".join(lines) + body)
            return await reader.read()
        finally:
            writer.close()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
