"""A real server on loopback, in a thread of its own, for as long as a test wants it, and a watchdog over its loop."""

import asyncio
import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVarTuple

import uvicorn

__all__ = ["LONGEST_TURN", "NO_TLS", "Watch", "WatchedLoop", "free_socket", "served"]

Ts = TypeVarTuple("Ts")

LONGEST_TURN = 0.05
"""Seconds of CPU time for which one request may hold the loop (law 38)."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For the `verify` of clients that are made often and speak plain HTTP: to load the authorities takes each of them 40 ms."""


class Watch:
    """The longest turns of a loop: how long one callback, such as a request from one await to the next, ran.

    It is the CPU time of the loop's own thread, so a busy machine does not make it longer; the garbage collector's time is
    left out, for it grows with all that the test process holds.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.what = ""
        self._collecting = 0.0
        self._since = 0.0
        self._thread = 0

    def collected(self, phase: str, _: object) -> None:
        """Told by the garbage collector, in whichever thread it runs."""
        if threading.get_ident() == self._thread:
            if phase == "start":
                self._since = time.thread_time()
            else:
                self._collecting += time.thread_time() - self._since

    def run(self, callback: Callable[..., object], *arguments: object) -> None:
        """Run a callback, and time it."""
        self._thread = threading.get_ident()
        before, collecting = time.thread_time(), self._collecting
        try:
            callback(*arguments)
        finally:
            used = time.thread_time() - before - (self._collecting - collecting)
            if used > self.longest:
                self.longest, self.what = used, repr(getattr(callback, "__self__", callback))[:300]


class WatchedLoop(asyncio.SelectorEventLoop):
    """A loop that times each of its callbacks."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        """As asyncio has it. Each step of a task comes by here."""
        return super().call_soon(self._watch.run, callback, *args, context=context)


def free_socket() -> socket.socket:
    """A socket that listens on a port of the system's choice: whoever connects waits until somebody serves it."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # with it asyncio sends a body without awaiting the head's acknowledgement
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@contextmanager
def served(
    app: Any,
    listener: socket.socket | None = None,
    *,
    longest: float | None = LONGEST_TURN,
    watch: Watch | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serve an application; its URL, without a slash at its end.

    Args:
        app: the application.
        listener: where it is served; None for a free port.
        longest: seconds of CPU time that one callback may take, else the test fails; None where it is not about that.
        watch: for who wants to know more.
        options: of uvicorn, such as `root_path`.
    """
    watch = watch or Watch()
    with listener or free_socket() as open_:
        given: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 5}
        config = uvicorn.Config(app, **(given | options))
        config.load()  # here, because it imports the server's protocols: the first turn of the loop would count that
        server = uvicorn.Server(config)

        async def serve() -> None:
            await server.serve(sockets=[open_])
            for connection in [*server.server_state.connections]:  # whose clients did not read all in the time that uvicorn gives
                connection.transport.abort()
            await asyncio.sleep(0)  # in which they are closed

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: WatchedLoop(watch)) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        gc.callbacks.append(watch.collected)
        thread.start()
        try:
            yield f"http://127.0.0.1:{open_.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            gc.callbacks.remove(watch.collected)
    if longest is not None:
        assert watch.longest <= longest, f"one callback held the loop for {watch.longest * 1000:.0f} ms: {watch.what}"
