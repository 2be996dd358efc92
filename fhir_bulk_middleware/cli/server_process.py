"""Runs `fhir-bulk serve` as a child process for the demo.

A process and not a thread, so that the measured server does not share an interpreter with its client.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fhir_bulk_middleware.cli.listener import listening, port_of
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.environment import DATABASE, OUTPUTS

__all__ = ["Server", "server_process"]

_STOPPING: Final = 20
_LOG_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: the URL of its base path.
        log: its log file.
    """

    url: str
    log: Path
    _process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait until the server ends.

        It waits one second at a time, because a Ctrl-C just before the system call does not interrupt it.
        """
        while self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)

    def last_words(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


@contextlib.contextmanager
def server_process(state: State, port: int, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """Run a server on loopback while the context is open.

    Its socket is open before it starts, so requests can be sent at once and wait. The server ends when this process ends for any
    reason.

    Raises:
        Complaint: the port is in use.
    """
    with listening("127.0.0.1", port) as listener:
        port = port_of(listener)
        process = _start(state, listener.fileno(), arguments)
    try:
        yield Server(f"http://127.0.0.1:{port}/fhir", state.server_log, process)
    finally:
        _stop(process)


def _start(state: State, fd: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "serve", "--dir", str(state.folder)]
    state.make()
    with state.server_log.open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - starts this program
            [*command, "--fd", str(fd), "--until-eof", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[fd],
            env={name: value for name, value in os.environ.items() if name not in {DATABASE, OUTPUTS}},  # the demo has its own
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops the server
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
