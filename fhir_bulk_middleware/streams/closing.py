"""Closes an asynchronous iterator at the end of a context."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

__all__ = ["closing"]

T = TypeVar("T")


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """The iterator, which is closed at the end of the context if it is a generator.

    A generator that is only dropped keeps its file or cursor open until it is garbage-collected.
    """
    try:
        yield iterator
    finally:
        # One that has ended has no frame and nothing to release: of most types there is nothing to read.
        if isinstance(iterator, AsyncGenerator) and getattr(iterator, "ag_frame", iterator) is not None:
            with anyio.CancelScope(shield=True):  # so that it can release resources although its reader was cancelled
                await iterator.aclose()
