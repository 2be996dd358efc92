"""Tells the background part of a server that the process was asked to stop, before the server waits for open requests.

ASGI servers answer SIGTERM and SIGINT by waiting for the requests that are open, and send `lifespan.shutdown` afterwards. A
request that waits for something has to be told earlier, or it delays the stop.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["told_of_stop"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_of_stop(tell: Callable[[], None]) -> Generator[None]:
    """Call `tell` in the running event loop when a stop signal comes, and pass the signal on to the handler that was there.

    Signals without a handler in Python keep their effect: then there is no server that waits. Outside of the main thread, where
    no handlers can be set, nothing is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    ours = {number: handler for number in _SIGNALS if (handler := _chained(number, loop, tell)) is not None}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:  # else somebody chained theirs behind it, which has to stay
                signal.signal(number, before[number])


def _chained(
    number: signal.Signals, loop: asyncio.AbstractEventLoop, tell: Callable[[], None]
) -> Callable[[int, FrameType | None], None] | None:
    """A handler that tells and calls the present one; None if that is not a function."""
    present = signal.getsignal(number)
    if not callable(present):
        return None

    def handler(received: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell)
        present(received, frame)

    return handler
