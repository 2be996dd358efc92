"""Writing what several tasks have to say in one go, so that none of them waits for more than two writes."""

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
    """Hands records to a blocking function in a thread, one call at a time; a call takes all records that wait by then.

    However many tasks add records, one thread is busy with them, and a disk that hangs does not use up the others.

    Args:
        write: writes all records or none, and has them durable when it returns.
    """

    def __init__(self, write: Callable[[Sequence[Record]], None]) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def add(self, record: Record) -> None:
        """Add a record; returns when it is written. Whoever is cancelled before its turn adds nothing.

        Raises:
            Exception: what the function raised.
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
        except Exception as error:  # noqa: BLE001 - each of the batch raises it
            for each in batch:
                each.error = error
