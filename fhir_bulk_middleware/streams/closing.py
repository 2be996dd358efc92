"""Closing an asynchronous iterator as soon as it is left, where it can be closed at all."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

__all__ = ["closing"]

T = TypeVar("T")


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """The iterator, closed on leaving if it is a generator.

    Adapters and stores may return any iterator; a generator that is merely dropped would keep its file or cursor open until
    the garbage collector finds it.
    """
    try:
        yield iterator
    finally:
        if isinstance(iterator, AsyncGenerator):
            with anyio.CancelScope(shield=True):  # it may have something to give back, also when its reader is stopped
                await iterator.aclose()
