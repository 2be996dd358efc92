"""`fhir-bulk serve` as a process of its own, for as long as the demo wants it.

A process and not a thread: what the demo measures is a server that shares no interpreter with its client, as in real life.
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State

__all__ = ["Server", "server_process"]

_STOPPING: Final = 20
_LOG_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs.

    Attributes:
        url: the URL of its base path.
        log: the file with what it has to say.
    """

    url: str
    log: Path
    _process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait until it ends.

        A second at a time: a Ctrl-C that comes just before the system call that waits does not interrupt it.
        """
        while self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)

    def last_words(self) -> str:
        """What it said last."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


@contextlib.contextmanager
def server_process(state: State, port: int, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """Run a server on loopback while the context is open.

    Its socket is open before it starts, so nobody has to guess when it listens: a request waits until it is answered. The
    server ends when this process does, however that comes about.

    Raises:
        Complaint: the port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise Complaint(f"port {port} can not be used: {error.strerror}") from error
        listener.listen(128)
        port = listener.getsockname()[1]
        process = _start(state, listener.fileno(), arguments)
    try:
        yield Server(f"http://127.0.0.1:{port}/fhir", state.server_log, process)
    finally:
        _stop(process)


def _start(state: State, fd: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "serve", "--dir", str(state.folder)]
    state.make()
    with state.server_log.open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - ourselves
            [*command, "--fd", str(fd), "--until-eof", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[fd],
            start_new_session=True,  # a Ctrl-C is for us; we then tell the server
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
