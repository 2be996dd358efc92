"""Closes an asynchronous iterator at the end of a context."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, TypeVar

import anyio

__all__ = ["closing"]

T = TypeVar("T")


class closing(Generic[T]):  # noqa: N801 - used like a function, as `contextlib.aclosing`
    """The iterator, which is closed at the end of the context if it is a generator.

    A generator that is only dropped keeps its file or cursor open until it is garbage-collected.
    """

    def __init__(self, iterator: AsyncIterator[T]) -> None:
        self._iterator = iterator

    async def __aenter__(self) -> AsyncIterator[T]:
        """The iterator."""
        return self._iterator

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        iterator = self._iterator
        # One that has ended has no frame and nothing to release: of most types there is nothing to read.
        if isinstance(iterator, AsyncGenerator) and getattr(iterator, "ag_frame", iterator) is not None:
            with anyio.CancelScope(shield=True):  # so that it can release resources although its reader was cancelled
                await iterator.aclose()
