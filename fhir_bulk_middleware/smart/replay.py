"""Logs of used assertions, which make each valid once (SE-23)."""

import hashlib
import sqlite3
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Protocol

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.stores.sqlite.database import Database

__all__ = ["MemoryReplayLog", "ReplayLog", "SQLiteReplayLog"]

_MOST = 10_000
_RETRY_AFTER = 60
_SCHEMA = """
CREATE TABLE used (assertion BLOB PRIMARY KEY, client TEXT NOT NULL, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX used_until ON used (until);
CREATE INDEX used_client ON used (client)"""


class ReplayLog(Protocol):
    """Protocol of a log that remembers used assertions until they expire."""

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Record a use; False if the assertion was used before. Atomic: of concurrent uses in any processes one gets True.

        Raises:
            Refused: `BUSY`, if the client has too many unexpired assertions; no entry is dropped to make room.
        """
        ...


class MemoryReplayLog:
    """Replay log in memory, for a server with a single process.

    Args:
        most: maximum number of unexpired assertions of one client.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._used: dict[str, dict[str, Instant]] = {}

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Record a use; see `ReplayLog`."""
        used = self._used.setdefault(client_id, {})
        if used.get(jti, now) > now:
            return False
        # Ordered by first use, and lifetimes are minutes: no entry outlives its expiry for long.
        while used and used[oldest := next(iter(used))] <= now:
            del used[oldest]
        if len(used) >= self._most:
            used = self._used[client_id] = _unexpired(used, now)
        if len(used) >= self._most:
            raise _full()
        used.pop(jti, None)  # so that it moves to the end
        used[jti] = until
        return True

    def remembered(self) -> int:
        """The number of remembered uses."""
        return sum(map(len, self._used.values()))


class SQLiteReplayLog:
    """Replay log in a SQLite file, which processes can share.

    Args:
        path: the file.
        most: maximum number of unexpired assertions of one client.
    """

    def __init__(self, path: str | PathLike[str], most: int = _MOST) -> None:
        self._most = most
        self._database = Database(Path(path), [_SCHEMA], synchronous="FULL")

    def remembered(self) -> int:
        """The number of remembered uses."""
        (count,) = self._database.reader.execute("SELECT count(*) FROM used").fetchone()
        return int(count)

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Record a use; see `ReplayLog`."""
        # A digest of fixed size, over client and jti.
        assertion = hashlib.sha256(f"{len(client_id)}:{client_id}{jti}".encode()).digest()

        def note(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM used WHERE until <= ?", (now,))
            if connection.execute("SELECT 1 FROM used WHERE assertion = ?", (assertion,)).fetchone():
                return False
            (count,) = connection.execute("SELECT count(*) FROM used WHERE client = ?", (client_id,)).fetchone()
            if count >= self._most:
                raise _full()
            connection.execute("INSERT INTO used VALUES (?, ?, ?)", (assertion, client_id, until))
            return True

        return await self._database.write(note)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _unexpired(used: Mapping[str, Instant], now: Instant) -> dict[str, Instant]:
    return {jti: until for jti, until in used.items() if until > now}


def _full() -> Refused:
    return Refused(Reason.BUSY, "Too many assertions of this client are in use.", retry_after=_RETRY_AFTER)
