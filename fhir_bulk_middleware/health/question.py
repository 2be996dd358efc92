"""A question to a store that may hang: asked once at a time, with a limited wait, and remembered for some seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Question", "Unanswered"]

T = TypeVar("T")


class Unanswered(Exception):  # noqa: N818 - an outcome, told to the operator
    """There is no answer yet. The question stays asked: a store that hangs holds one thread, not one for each probe."""


class Question(Generic[T]):
    """A question that any number of callers may ask.

    Args:
        ask: asks it; may raise anything.
        keep: seconds for which an answer, or an exception, is good.
        patience: seconds that a caller waits for an answer, counted from when it was asked.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, keep: float, patience: float) -> None:
        self._ask = ask
        self._keep = keep
        self._patience = patience
        self._asked: asyncio.Future[T] | None = None
        self._at = 0.0

    async def answer(self) -> T:
        """The answer, at most `keep` seconds old.

        Raises:
            Unanswered: there was no answer in time.
            Exception: what asking raised.
        """
        loop = asyncio.get_running_loop()
        asked = self._asked
        if asked is None or asked.get_loop() is not loop or (asked.done() and loop.time() - self._at >= self._keep):
            self._at = loop.time()
            asked = self._asked = asyncio.ensure_future(self._ask())
            asked.add_done_callback(_look)
        done, _ = await asyncio.wait([asked], timeout=max(0.0, self._at + self._patience - loop.time()))
        if not done or asked.cancelled():
            raise Unanswered
        return asked.result()


def _look(asked: asyncio.Future[T]) -> None:
    """Retrieve the exception, since nobody may ask again."""
    if not asked.cancelled():
        asked.exception()
