"""Which of PostgreSQL's errors pass by themselves."""

import psycopg

from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["PostgresBusy", "in_words", "is_temporary"]

_RETRY_AFTER = 5
_LONGEST = 300

_TEMPORARY_CLASSES = frozenset({"08", "40", "53", "57"})
"""Connection exceptions; rollbacks for serialization and deadlocks; too many connections, no memory or space; shutdown, crash,
and cancelled statements."""

_TEMPORARY = frozenset({"25006", "25P03", "55P03"})
"""A server that became a standby by a failover, a transaction that was idle for too long, a lock that was not free in time."""


class PostgresBusy(Refused):
    """PostgreSQL could not be reached or could not answer in time. A retry may succeed a moment later."""

    def __init__(self) -> None:
        super().__init__(Reason.BUSY, "The server is busy; try again in a moment.", retry_after=_RETRY_AFTER)


def is_temporary(error: psycopg.Error) -> bool:
    """Whether the same step may succeed later: the server or its connection failed, not the statement.

    The client library names no SQLSTATE for a connection that was refused or lost.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in _TEMPORARY_CLASSES or error.sqlstate in _TEMPORARY


def in_words(error: Exception) -> str:
    """The message on one line. It names host and database, and no password."""
    return " ".join(str(error).split())[:_LONGEST]
