"""Polls that are held open until there is something to tell (ST-09, law 19)."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio

from fhir_bulk_middleware.caps import HELD_POLLS, HELD_POLLS_OF_OWNER
from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.jobs.endings import Endings

__all__ = ["LOOK_SECONDS", "HeldPolls"]

LOOK_SECONDS = 1.0
"""Seconds after which a held poll reads its job without an announcement, because announcements may be lost."""


class HeldPolls:
    """The polls that one server process holds open, for a limited number of owners and polls (law 38).

    Args:
        endings: announces ended jobs.
    """

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._held: dict[Owner, int] = {}
        self._all = 0

    @property
    def count(self) -> int:
        """The number of polls that are held open now."""
        return self._all

    @contextmanager
    def awaiting(self, job_id: str) -> Generator[asyncio.Event]:
        """An event that is set when the job ends; to be entered before the job is read, so that no end is missed."""
        with self._endings.awaited(job_id) as woken:
            yield woken

    @contextmanager
    def place(self, owner: Owner) -> Generator[bool]:
        """Take a place for a poll of the owner; yields whether there was one."""
        count = self._held.get(owner, 0)
        if self._all >= HELD_POLLS or count >= HELD_POLLS_OF_OWNER:
            yield False
            return
        self._all += 1
        self._held[owner] = count + 1
        try:
            yield True
        finally:
            self._all -= 1
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

    @asynccontextmanager
    async def held(
        self, woken: asyncio.Event, seconds: float, gone: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Callable[[], Awaitable[bool]]]:
        """Hold a poll; yields a function that waits until the job should be read again, and returns False if it need not be.

        Args:
            woken: the event of `awaiting`.
            seconds: how long the poll may be held. At the end the job is read once more.
            gone: returns when the client has disconnected, which ends the hold.
        """
        end = anyio.current_time() + seconds
        client = asyncio.ensure_future(gone())

        def left(done: asyncio.Future[None]) -> None:
            if not done.cancelled():
                done.exception()  # a server that raises here has lost its client too
            woken.set()

        client.add_done_callback(left)

        async def again() -> bool:
            remaining = end - anyio.current_time()
            if remaining <= 0 or self._over(client):
                return False
            with anyio.move_on_after(min(remaining, LOOK_SECONDS)):
                await woken.wait()
            woken.clear()  # before the job is read: an announcement that comes meanwhile counts for the next time
            return not self._over(client)

        try:
            yield again
        finally:
            client.cancel()
            await asyncio.wait([client])  # it must not take a message from the answer that follows

    def _over(self, client: asyncio.Future[None]) -> bool:
        return self._endings.closing or client.done()
