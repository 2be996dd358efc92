"""Load on one URL, from a process of its own: `python -m tests.benchmarks.load PORT PATH TOKEN CONNECTIONS SECONDS CORE`.

Each connection sends its next request when the answer to the last one is complete. Raw sockets and one epoll: a client that costs
more than the server it measures would measure itself. It prints one line of JSON.
"""

import json
import os
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Load", "measure"]


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it.

    Attributes:
        rate: answers per second.
        p50: milliseconds.
        p99: milliseconds.
        status: of the last answer.
    """

    rate: float
    p50: float
    p99: float
    status: int


def measure(port: int, path: str, token: str, connections: int, seconds: float, *, spin: bool = False) -> Load:
    """Put load on a URL of this machine.

    Args:
        port: on loopback.
        path: with its query string.
        token: for the `Authorization` header; empty for none.
        connections: how many.
        seconds: how long.
        spin: never sleep, for a client that has a core of its own. Else the server pays for waking it with each answer, and the
            more, the slower it is, for a client that is always behind never sleeps.

    Raises:
        RuntimeError: the server closed a connection.
    """
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/fhir+json\r\n{authorization}\r\n".encode()
    status, ending = _first(port, request)
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    poll = select.epoll()
    receive: dict[int, Any] = {}
    send: dict[int, Any] = {}
    sent: dict[int, float] = {}
    clock, taken = time.perf_counter, []
    for connection in opened:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        receive[number], send[number] = connection.recv, connection.send
        poll.register(number, select.EPOLLIN)
        sent[number] = clock()
        connection.send(request)
    begun = now = clock()
    end, patience = begun + seconds, 0 if spin else 1
    while now < end:
        for number, _ in poll.poll(patience):
            data = receive[number](65536)
            now = clock()
            if data.endswith(ending):
                taken.append(now - sent[number])
                sent[number] = now
                send[number](request)
            elif not data:
                raise RuntimeError("the server closed a connection")
    poll.close()
    for connection in opened:
        connection.close()
    taken.sort()
    return Load(
        rate=len(taken) / (now - begun),
        p50=taken[len(taken) // 2] * 1000,
        p99=taken[len(taken) * 99 // 100] * 1000,
        status=status,
    )


def _first(port: int, request: bytes) -> tuple[int, bytes]:
    """The status of the answer, and the bytes by whose coming the next ones are known to be complete."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += connection.recv(65536)
    return int(head[9:12]), body[-32:] or b"\r\n\r\n"


if __name__ == "__main__":
    port, path, token, connections, seconds, core = sys.argv[1:]
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    print(json.dumps(asdict(measure(int(port), path, token, int(connections), float(seconds), spin=core != "-"))))  # noqa: T201
