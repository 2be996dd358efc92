"""Which assertions were used: each counts once (SE-23)."""

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
    """Remembers assertions for as long as they are good."""

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Note a use; False if it was used before. Of several at the same time, in whatever process, one is the first.

        Raises:
            Refused: `BUSY`, if the client has more unexpired assertions than are remembered; nothing is forgotten for that.
        """
        ...


class MemoryReplayLog:
    """Remembers in this process; for a server with one process.

    Args:
        most: unexpired assertions of one client.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._used: dict[str, dict[str, Instant]] = {}

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Note a use; see `ReplayLog`."""
        used = self._used.setdefault(client_id, {})
        if used.get(jti, now) > now:
            return False
        # The oldest use stands first, and all are good for minutes: so none is kept much longer than it is good.
        while used and used[oldest := next(iter(used))] <= now:
            del used[oldest]
        if len(used) >= self._most:
            used = self._used[client_id] = _unexpired(used, now)
        if len(used) >= self._most:
            raise _full()
        used.pop(jti, None)  # so that it moves to the young end
        used[jti] = until
        return True

    def remembered(self) -> int:
        """How many uses are remembered."""
        return sum(map(len, self._used.values()))


class SQLiteReplayLog:
    """Remembers in a SQLite file, for all processes on it.

    Args:
        path: the file.
        most: unexpired assertions of one client.
    """

    def __init__(self, path: str | PathLike[str], most: int = _MOST) -> None:
        self._most = most
        self._database = Database(Path(path), [_SCHEMA], synchronous="FULL")

    def remembered(self) -> int:
        """How many uses are remembered."""
        (count,) = self._database.reader.execute("SELECT count(*) FROM used").fetchone()
        return int(count)

    async def first_use(self, client_id: str, jti: str, until: Instant, now: Instant) -> bool:
        """Note a use; see `ReplayLog`."""
        # Of one size whatever a client sends; and no jti of one client is another's.
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
