"""Watches an event loop from a thread, and logs where it hangs (law 43)."""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["watched"]

_log = logging.getLogger("fhir_bulk_middleware")


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """While the context is open, log the stack of the running loop once it has not responded for `seconds`."""
    loop, ident, over = asyncio.get_running_loop(), threading.get_ident(), threading.Event()

    def ask() -> None:
        while not over.wait(seconds / 2):
            alive = threading.Event()
            with suppress(RuntimeError):  # the loop is closed, and this thread about to end
                loop.call_soon_threadsafe(alive.set)
                if not alive.wait(seconds):
                    _log.critical("%s", _standstill(seconds, ident))
                    while not alive.wait(seconds) and not over.is_set():
                        pass

    thread = threading.Thread(target=ask, name="standstill", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _standstill(seconds: float, ident: int) -> str:
    frame = sys._current_frames().get(ident)  # noqa: SLF001 - as faulthandler and debuggers do
    where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
    return (
        f"the server's loop has stood still for {seconds:g} seconds. Exports run in it, and an adapter that blocks"
        " holds it up: give it a recipe (SupportsWorkerProcess), so that it works in a process of its own."
        f" It stands at\n{where}"
    )
