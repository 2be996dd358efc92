"""Hints through NOTIFY: that there may be work, and that a job has ended. Polls of workers and clients find both without them.

A hint is sent by the transaction that it is about, so nobody hears of what was rolled back. The session that listens is idle
between its statements and holds no snapshot, so it does not hold back vacuum.

A pooler such as PgBouncer lends a server connection for one transaction, and then gives it to others, LISTEN and all. It is
noticed by the process number that the protocol announces, which a pooler invents: the server says another one.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import psycopg

from fhir_bulk_middleware.stores.postgres.failures import in_words
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["listen", "tell_of_end", "tell_of_work"]

_log = logging.getLogger("fhir_bulk_middleware")

_WORK = "work"
_LOOK_SECONDS = 30.0
_PAUSE_SHORTEST, _PAUSE_LONGEST = 0.5, 30.0
_SILENT_SECONDS = 20.0

_THROUGH_A_POOLER = (
    "hints from PostgreSQL are not heard, because this DSN leads through a connection pooler, so work and polls wait up to a"
    " second: give the DSN of the server itself for them, PostgresJobStore(listen=...), or listen=False if that is meant so"
)


def tell_of_work(session: Session) -> None:
    """Tell all listeners, when this transaction commits, that there may be work."""
    session.row("SELECT pg_notify(%(channel)s, %(hint)s)", {"channel": session.channel, "hint": _WORK})


def tell_of_end(session: Session, job_id: str) -> None:
    """Tell all listeners, when this transaction commits, that a job has ended."""
    session.row("SELECT pg_notify(%(channel)s, %(hint)s)", {"channel": session.channel, "hint": job_id})


async def listen(chosen: Mapping[str, str], channel: str, *, work: Callable[[], None], ended: Callable[[str], None]) -> None:
    """Pass hints on until cancelled. A lost connection is made again; work that came meanwhile is looked for then."""
    pause = _PAUSE_SHORTEST
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                **chosen,  # type: ignore[arg-type] # libpq reads all options from text
                autocommit=True,
                prepare_threshold=None,
            )
            async with connection:
                if await _pooled(connection):
                    _log.warning("%s", _THROUGH_A_POOLER)
                    return
                await _answered(connection, f'LISTEN "{channel}"'.encode())
                work()
                pause = _PAUSE_SHORTEST
                while True:
                    async for hint in connection.notifies(timeout=_LOOK_SECONDS):
                        if hint.payload == _WORK:
                            work()
                        else:
                            ended(hint.payload)
                    await _answered(connection, b"SELECT 1")  # a connection that nobody uses does not notice that it is lost
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            if pause == _PAUSE_SHORTEST:
                _log.warning(
                    "hints from PostgreSQL are lost for a while, so work and polls wait up to a second: %s", in_words(error)
                )
        await anyio.sleep(pause)
        pause = min(2 * pause, _PAUSE_LONGEST)


async def _pooled(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler is between this process and the server."""
    row = await (await _answered(connection, b"SELECT pg_backend_pid()")).fetchone()
    return row is not None and row[0] != connection.info.backend_pid


async def _answered(connection: psycopg.AsyncConnection[Any], statement: bytes) -> psycopg.AsyncCursor[Any]:
    """Run a statement; TimeoutError if the server is silent, as one that is frozen."""
    with anyio.fail_after(_SILENT_SECONDS):
        return await connection.execute(statement)
