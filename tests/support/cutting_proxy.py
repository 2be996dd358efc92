"""A proxy in front of PostgreSQL that cuts connections at commits, freezes, or invents process numbers, as a test says."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from enum import Enum, auto

from psycopg.conninfo import conninfo_to_dict, make_conninfo

__all__ = ["Cut", "CuttingProxy"]

_COMMIT = b"COMMIT\x00"
_BACKEND_KEY = re.compile(rb"(K\x00\x00[\x00\x01].).{4}(?=.{4,256}?Z\x00\x00\x00\x05)", re.DOTALL)
"""The message before the first ReadyForQuery that has the process number."""


class Cut(Enum):
    """Where a connection is cut."""

    BEFORE = auto()
    """The server never receives the commit."""
    AFTER = auto()
    """The server commits, and the client never receives the answer."""
    FREEZE_BEFORE = auto()
    """The server never receives the commit, and the proxy is frozen from then on."""
    FREEZE_AFTER = auto()
    """The server commits, and the proxy is frozen from then on."""


class CuttingProxy:
    """Forwards connections, but for commits that it has a cut for.

    Attributes:
        cuts: those to come; each commit takes the first.
        made: how many were made.
        received: what clients sent.
        dsn: leads through the proxy.
        thawed: set while the proxy is not frozen. While it is, all connections stay, new ones are accepted, and nothing is passed
            on, as by a server whose processes are stopped.
        invents: whether clients are told another process number than that of their server process, as by a pooler.
    """

    def __init__(self, dsn: str) -> None:
        self._to = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.cuts: list[Cut] = []
        self.made = 0
        self.received = bytearray()
        self.thawed = threading.Event()
        self.thawed.set()
        self.invents = False
        port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")

    @contextlib.contextmanager
    def running(self) -> Iterator["CuttingProxy"]:
        """Serve while the context is open."""
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.thawed.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._upstream() as server:  # which may be away
            answers = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            answers.start()
            try:
                self._forward(client, server, answers)
            finally:  # to close it is not enough while `answers` reads from it
                server.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, server: socket.socket, answers: threading.Thread) -> None:
        while data := client.recv(65_536):
            self.received += data
            self.thawed.wait()
            cut = self._cut_at(data)
            match cut:
                case None:
                    server.sendall(data)
                case Cut.FREEZE_AFTER:
                    self.thawed.clear()
                    server.sendall(data)
                case Cut.FREEZE_BEFORE:
                    self.thawed.clear()
                    self.thawed.wait()
                    return  # it rolls back
                case Cut.AFTER:
                    client.shutdown(socket.SHUT_RDWR)  # nothing reaches the client any more
                    server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
                    answers.join()
                    return
                case Cut.BEFORE:
                    client.shutdown(socket.SHUT_RDWR)
                    return

    def _cut_at(self, data: bytes) -> Cut | None:
        """The cut for what a client sent, if it is a commit that has one."""
        if _COMMIT in data:
            with contextlib.suppress(IndexError):
                cut = self.cuts.pop(0)
                self.made += 1
                return cut
        return None

    def _pass_on(self, server: socket.socket, client: socket.socket) -> None:
        gone = False
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                self.thawed.wait()
                if self.invents:
                    data = _BACKEND_KEY.sub(b"\\g<1>\x00\x00\x00\x01", data)
                if not gone:
                    try:
                        client.sendall(data)
                    except OSError:
                        gone = True
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)  # also after a reset, which a killed server leaves behind

    def _upstream(self) -> socket.socket:
        host, port = self._to.get("host", "127.0.0.1"), self._to.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(f"{host}/.s.PGSQL.{port}")
        except OSError:  # it is away
            upstream.close()
            raise
        return upstream
