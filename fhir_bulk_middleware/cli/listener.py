"""The socket of a server, opened before the server starts."""

import socket
from typing import Final

from fhir_bulk_middleware.cli.complaint import Complaint

__all__ = ["listening", "port_of"]

_BACKLOG: Final = 2048
_LAST_PORT: Final = 65_535


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    It listens and is not only bound, because Linux binds two sockets with `SO_REUSEADDR` to one port until one of them listens.
    It names its protocol, because asyncio sends the small segments of an accepted connection at once (`TCP_NODELAY`) only then:
    else a body waits up to 40 ms for the client to acknowledge the head of its answer.

    Args:
        host: a name or an IP address.
        port: 0 for any free port.

    Raises:
        Complaint: the address cannot be used.
    """
    if not 0 <= port <= _LAST_PORT:
        raise Complaint(f"--port {port}: a port is a number from 0 to {_LAST_PORT}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise Complaint(f"--host {host}: {_reason(error)}") from error
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        remedy = "Name another --port (0 for any free one), or end the program that uses this one."
        raise Complaint(f"port {port} of {host} cannot be used: {_reason(error)}. {remedy}") from error
    return listener


def port_of(listener: socket.socket) -> int:
    """The port at which a socket listens."""
    return int(listener.getsockname()[1])


def _reason(error: OSError | UnicodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
