"""Group commit: records of several tasks are written together, so that no task waits for more than two writes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio.to_thread
from pydantic import JsonValue

__all__ = ["GroupCommit"]

Record = Mapping[str, JsonValue]


@dataclass(slots=True)
class _Waiting:
    record: Record
    taken: bool = False
    error: Exception | None = None


class GroupCommit:
    """Passes records to a blocking function in a thread, one call at a time, each with all waiting records.

    Only one thread is used for any number of tasks, so a hanging disk does not exhaust the thread pool.

    Args:
        write: writes all records or none, durably.
    """

    def __init__(self, write: Callable[[Sequence[Record]], None]) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def add(self, record: Record) -> None:
        """Add a record and wait until it is written. A task that is cancelled before its turn adds nothing.

        Raises:
            Exception: the exception of `write`.
        """
        mine = _Waiting(record)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.taken:
                    await self._write_all()
        finally:
            if not mine.taken:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error

    async def _write_all(self) -> None:
        batch, self._waiting = self._waiting, []
        for each in batch:
            each.taken = True
        try:
            await anyio.to_thread.run_sync(self._write, [each.record for each in batch])
        except Exception as error:  # noqa: BLE001 - raised in each task of the batch
            for each in batch:
                each.error = error
