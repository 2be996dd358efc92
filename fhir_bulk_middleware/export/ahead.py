"""One step ahead: what blocks is done in a thread while the result before it is still on its way to the client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

import anyio

__all__ = ["ahead"]

T = TypeVar("T")


async def ahead(step: Callable[[], T | None]) -> AsyncIterator[T]:
    """The results of a step, called again and again in a thread, until it is None or raises.

    Whoever takes a result has the next one made meanwhile. At most two results are in memory; steps never overlap, and none runs
    any more when the iterator is closed.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, step)
    try:
        while (result := await asyncio.shield(future)) is not None:
            future = loop.run_in_executor(None, step)
            yield result
    finally:
        with anyio.CancelScope(shield=True), suppress(Exception):  # of a step that nobody wants any more
            await future
