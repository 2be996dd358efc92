"""The socket of a server, opened before the server starts."""

import socket

from fhir_bulk_middleware.cli.complaint import Complaint

__all__ = ["listening", "port_of"]

_BACKLOG = 2048


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    It listens at once and does not only bind: two sockets can be bound to one port until one of them listens.

    Args:
        host: a name or an IP address.
        port: 0 for any free port.

    Raises:
        Complaint: the address cannot be used; the message says why.
    """
    try:
        family, type_, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, type_, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise Complaint(f"--host {host}: {getattr(error, 'strerror', None) or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise Complaint(
            f"port {port} of {host} cannot be used: {reason}. Name another --port (0 for any free one), or stop the program that uses it."
        ) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """The port at which a socket listens."""
    return int(listener.getsockname()[1])
