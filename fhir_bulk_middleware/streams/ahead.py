"""One step ahead: what blocks is done in a thread while the result before it is still on its way to the client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import TypeVar

import anyio

__all__ = ["ahead", "meanwhile"]

T = TypeVar("T")
_TOGETHER = 4


async def ahead(step: Callable[[], T | None]) -> AsyncIterator[T]:
    """The results of a step, called again and again in a thread, until it is None or raises.

    Whoever takes a result has the next ones made meanwhile, some at a time, for a thread costs more than a step. At most eight
    results are in memory; steps never overlap, and none runs any more when the iterator is closed.
    """

    def several() -> list[T]:
        return list(islice(iter(step, None), _TOGETHER))

    results: list[T] = []
    while True:
        async with meanwhile(several) as following:
            for result in results:
                yield result
        results = following.result()
        if not results:
            return


@asynccontextmanager
async def meanwhile(work: Callable[[], T]) -> AsyncGenerator["asyncio.Future[T]"]:
    """Do something in a thread; it is done when the context is left, and raises when its result is asked for."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        yield future
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.gather(future, return_exceptions=True)
