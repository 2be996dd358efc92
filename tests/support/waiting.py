"""Waiting for a condition instead of for time."""

import time
from collections.abc import Awaitable, Callable

import anyio

PATIENCE = 200.0
"""Seconds that a test waits for what takes a moment, also on a machine with a load of 20; below the time limit of a test."""


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if holds is True or (not isinstance(holds, bool) and await holds):
            return
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await anyio.sleep(0.003)
