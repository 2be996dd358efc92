"""The requests of the host table, as they go over the wire, and the raw answers to them."""

import socket
import struct
from dataclasses import dataclass

from waiting import PATIENCE

__all__ = ["REQUESTS", "Sent", "answered", "status"]

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_WEBSOCKET = (
    f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n"
    "Sec-WebSocket-Protocol: clinic\r\n"
)


@dataclass(frozen=True)
class Sent:
    """A request.

    Attributes:
        method: of the request.
        target: `{base}` stands for the path below which the host serves FHIR.
        headers: further lines of the head, each ended by CRLF.
        body: sent after the head.
        http: the version.
        after: sent when the head of the answer has arrived, if that is 101 or 200.
    """

    method: str
    target: str
    headers: str = ""
    body: bytes = b""
    http: str = "1.1"
    after: bytes = b""

    def __str__(self) -> str:
        return f"{self.method} {self.target} {' '.join(self.headers.split())}".strip()[:60]

    def head(self, base: str) -> bytes:
        """The head as it is sent. The connection is closed after the answer, but for WebSockets and keep-alive."""
        close = "" if "Connection:" in self.headers else "Connection: close\r\n"
        length = f"Content-Length: {len(self.body)}\r\n" if self.body and "chunked" not in self.headers else ""
        first = f"{self.method} {self.target.format(base=base)} HTTP/{self.http}\r\nHost: clinic.example\r\n"
        return f"{first}{close}{length}{self.headers}\r\n".encode()


def _frame(opcode: int, payload: bytes) -> bytes:
    """A masked WebSocket frame."""
    mask = b"mask"
    return struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload)) + mask + bytes(a ^ mask[i % 4] for i, a in enumerate(payload))


_SAID = _frame(1, b"hello") + _frame(8, struct.pack("!H", 4001))
_GOES_ON = {101, 200}
_JSON = "Content-Type: application/json\r\n"
_FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
_FHIR = "Content-Type: application/fhir+json\r\n"

REQUESTS = [
    # The host's own FHIR, deletes included (law 42)
    Sent("GET", "{base}/Patient"),
    Sent("GET", "{base}/Patient?name=a%20b&name=%C3%A9&empty="),
    Sent("GET", "{base}/Patient?family=x&kind=forbidden&_count=many"),
    Sent("GET", "{base}/Patient/1"),
    Sent("GET", "{base}/Patient/unknown"),
    Sent("HEAD", "{base}/Patient/1"),
    Sent("OPTIONS", "{base}/Patient/1"),
    Sent("PUT", "{base}/Patient/1", _FHIR, b'{"resourceType":"Patient","id":"1"}'),
    Sent("PATCH", "{base}/Patient/1"),
    Sent("POST", "{base}/Patient", _FHIR, b'{"resourceType":"Patient","active":true}'),
    Sent("POST", "{base}/Patient", _JSON, b'{"name":"a name"}'),
    Sent("POST", "{base}/Patient", _JSON, b"{not json"),
    Sent("POST", "{base}/Patient/_search", _FORM, b"family=x"),
    Sent("DELETE", "{base}/Patient/1"),
    Sent("DELETE", "{base}/Patient?name=x"),
    Sent("DELETE", "{base}/Binary/1"),
    Sent("POST", "{base}/$reindex"),
    Sent("GET", "{base}/$reindex"),
    Sent("GET", "{base}/Patient/a%2Fb"),
    Sent("GET", "{base}/Patient/%E2%82%AC%20%24export"),
    Sent("GET", "{base}/Patient/"),
    Sent("GET", "{base}"),
    Sent("GET", "{base}/Nothing/1"),
    # Elsewhere
    Sent("GET", "/"),
    Sent("GET", "/nothing/here?at=all"),
    Sent("GET", "//double//slashes"),
    Sent("DELETE", "/notes/7/%24export"),
    Sent("DELETE", "/nothing/here"),
    Sent("GET", "/docs"),
    Sent("GET", "/openapi.json"),
    Sent("GET", "/schema/openapi.json"),
    Sent("GET", "/state"),
    Sent("GET", "/moved"),
    Sent("GET", "/named"),
    Sent("GET", "/named/"),
    Sent("POST", "/nothing"),
    Sent("GET", "/nothing"),
    Sent("GET", "/cookies", "Cookie: a=b; c=d\r\nCookie: e=f\r\n"),
    Sent("GET", "/state", "X-Blocked: yes\r\n"),
    Sent("GET", "/fault"),
    # Bodies
    Sent("POST", "/echo?with=query", body=b"all of it " * 200_000),
    Sent("POST", "/echo", "Transfer-Encoding: chunked\r\n", b"5\r\nsome \r\n6\r\nchunks\r\n0\r\n\r\n"),
    Sent("POST", "/echo", "Expect: 100-continue\r\n", b"went on"),
    Sent("GET", "/stream"),
    Sent("GET", "/stream", "Accept-Encoding: gzip\r\n"),
    Sent("HEAD", "/stream"),
    Sent("GET", "/broken-stream"),
    Sent("GET", "/static/page.txt"),
    Sent("GET", "/static/page.txt", "Range: bytes=7-20\r\n"),
    Sent("GET", "/static/page.txt", "If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\n"),
    Sent("GET", "/static/other.txt"),
    # The connection
    Sent("GET", "{base}/Patient/1", http="1.0"),
    Sent("GET", "{base}/Patient/1", "Connection: keep-alive\r\n", after=Sent("GET", "/state").head("")),
    Sent("GET", "/talk", _WEBSOCKET, after=_SAID),
    Sent("GET", "{base}/$export", _WEBSOCKET),
    Sent("GET", "/nothing", _WEBSOCKET),
    Sent("GET", "/talk"),
]


def answered(port: int, sent: Sent, base: str) -> bytes:
    """All that the server sends until it closes the connection, or until the last chunk.

    Some close no connection after that: after a stream, Litestar waits for the client to go, and gunicorn for Litestar; granian
    keeps the connection of a WebSocket that it refused.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(sent.head(base) + sent.body)
        received = b""
        if sent.after:
            while b"\r\n\r\n" not in received:
                received += _more(connection)
            if status(received) in _GOES_ON:
                connection.sendall(sent.after)
        while not _ended(received) and (data := connection.recv(65536)):
            received += data
    return received


def _ended(received: bytes) -> bool:
    head = received.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        return received.endswith(b"\r\n0\r\n\r\n")
    return b"\r\ncontent-length: 0\r\n" in head and received.endswith(b"\r\n\r\n")


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection within the head of its answer")
    return data


def status(answer: bytes) -> int:
    """The status code of an answer; 0 if there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0
