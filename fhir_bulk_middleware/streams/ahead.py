"""Reads ahead in a thread while the consumer handles the previous result."""

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
    """Call `step` repeatedly in a thread, and yield its results until one is None.

    The next four results are made while the consumer handles the current four, so at most eight are in memory. Steps never
    overlap. No step runs any more once the iterator is closed.
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
    """Run `work` in a thread during the context. Its result, or its exception, is in the future after the context."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        yield future
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.gather(future, return_exceptions=True)
