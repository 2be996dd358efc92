"""A real server on loopback, in a thread of its own, for as long as a test wants it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["free_socket", "served"]


def free_socket() -> socket.socket:
    """A socket that listens on a port of the system's choice: whoever connects waits until somebody serves it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@contextmanager
def served(app: Any, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve an application; its URL, without a slash at its end."""
    with listener or free_socket() as open_:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [open_]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{open_.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
