"""One step ahead: what blocks is done in a thread while the result before it is still on its way to the client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import anyio

__all__ = ["ahead"]

T = TypeVar("T")
_TOGETHER = 4


async def ahead(step: Callable[[], T | None]) -> AsyncIterator[T]:
    """The results of a step, called again and again in a thread, until it is None or raises.

    Whoever takes a result has the next ones made meanwhile, some at a time, for a thread costs more than a step. At most eight
    results are in memory; steps never overlap, and none runs any more when the iterator is closed.
    """

    def several() -> list[T]:
        return list(islice(iter(step, None), _TOGETHER))

    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, several)
    try:
        while results := await asyncio.shield(future):
            future = loop.run_in_executor(None, several)
            for result in results:
                yield result
    finally:
        with anyio.CancelScope(shield=True), suppress(Exception):  # of a step that nobody wants any more
            await future
