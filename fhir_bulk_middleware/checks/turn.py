"""Measures how long an awaitable takes, and how long it holds the event loop at a time."""

import time
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Timed"]

T = TypeVar("T")


class Timed(Generic[T]):
    """An awaitable that measures another while it is awaited.

    Attributes:
        seconds: from the first step to the last.
        longest: seconds of the longest step: between two of its returns to the event loop.
    """

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._awaitable = awaitable
        self.seconds = 0.0
        self.longest = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Await the other, step by step."""
        steps: Any = self._awaitable.__await__()
        begun = time.perf_counter()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            step = time.perf_counter()
            try:
                waited_for = next(steps) if sent is None and thrown is None else _resumed(steps, sent, thrown)
            except StopIteration as stop:
                value: T = stop.value
                return value
            finally:
                now = time.perf_counter()
                self.longest, self.seconds = max(self.longest, now - step), now - begun
            sent = thrown = None
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001 - the awaited one decides about it, cancellation included
                thrown = error


def _resumed(steps: Any, sent: Any, thrown: BaseException | None) -> Any:
    return steps.send(sent) if thrown is None else steps.throw(thrown)
