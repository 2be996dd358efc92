"""Which of PostgreSQL's errors pass by themselves."""

import psycopg

from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["PoolerUnfit", "PostgresBusy", "in_words", "is_temporary", "unfit_pooler"]

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


class PoolerUnfit(RuntimeError):  # noqa: N818 - an outcome, told to the operator in one sentence
    """The connection pooler before PostgreSQL cannot be used as it is set up. The message says why, and what to do."""


_POOLERS = {
    "statement pooling": (
        "the connection pooler before PostgreSQL gives each statement another connection, and this package needs transactions:"
        " set pool_mode = transaction for this database in PgBouncer, or give the DSN of the server itself"
    ),
    "unsupported startup parameter": (
        "the connection pooler before PostgreSQL refuses an option of the DSN ({error}): leave `options` out of the DSN and set"
        " them for the role (ALTER ROLE ... SET ...), or name it in PgBouncer's ignore_startup_parameters"
    ),
}
"""By what PgBouncer says. It has one SQLSTATE for all of its errors, most of which pass by themselves."""


def unfit_pooler(error: psycopg.Error) -> str | None:
    """What to do about a pooler that refuses what every step needs; None if the error says nothing of that."""
    said = in_words(error)
    return next((sentence.format(error=said) for part, sentence in _POOLERS.items() if part in said), None)


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
