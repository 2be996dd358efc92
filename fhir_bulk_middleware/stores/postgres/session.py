"""A connection to PostgreSQL, with statements that name tables by `$name`."""

import re
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.types.string import ByteaBinaryLoader

from fhir_bulk_middleware.stores.postgres.texts import from_stored, stored

__all__ = ["Session", "Tables", "options"]

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_KEEPALIVE = {"keepalives": "1", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
_MOST_STATEMENTS = 512
_SILENCE_MILLISECONDS = "30000"
_CONNECT_SECONDS = "5"

# Nothing is set for a session that a pooler may lend to others, so that each transaction may have another server connection. A
# process that is stopped within a transaction keeps its locks for ten seconds at most.
_BEGIN = b"""
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT pg_current_xact_id()::text, set_config('idle_in_transaction_session_timeout', '10s', true),
        set_config('lock_timeout', '10s', true), set_config('statement_timeout', '60s', true)
"""
_BEGIN_NAMED = """
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = '10s';
    SET LOCAL lock_timeout = '10s';
    SET LOCAL search_path TO "{}"
"""
_BEGIN_SNAPSHOT = b"""
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '10s'
"""
# A prepared statement keeps its plan, which may be made while a table is almost empty and serve when it has grown a thousand
# times. So plans use indexes from the beginning. Before PostgreSQL 18 one that has to read a whole table then counts as so
# expensive that it would be compiled (JIT). There is no row, and nothing is set, where the server has another process number than
# the protocol announced (`hints`).
_PLAN_WITH_INDEXES = """
    SELECT set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
        set_config('enable_mergejoin', 'off', false), set_config('jit', 'off', false)
    WHERE pg_backend_pid() = {}
"""
_REPEATED = 5
"""How often a connection has run a statement before it is prepared."""


def options(dsn: str) -> dict[str, str]:
    """The options of a connection: those of the DSN, with our defaults for what it leaves out.

    Raises:
        ValueError: the DSN cannot be read.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"dsn: {error}") from None
    ours = {
        **_KEEPALIVE,
        "tcp_user_timeout": _SILENCE_MILLISECONDS,
        "connect_timeout": _CONNECT_SECONDS,
        "target_session_attrs": "primary",
        "application_name": "fhir-bulk",
    }
    return ours | {name: str(value) for name, value in given.items() if value is not None}


class Tables:
    """The tables of one store in one schema of the database, for statements that write their names as `$job`.

    Args:
        schema: the name of the schema: lower-case letters, digits and underscores.
        names: the names of tables, sequences and functions.
        version_table: the table that records the version of these tables.
        scripts: the scripts that make them, one for each version (`schema`).
        store: the class of the store, for messages.

    Raises:
        ValueError: the name of the schema has another form.
    """

    def __init__(self, schema: str, names: Sequence[str], version_table: str, scripts: Sequence[str], store: str) -> None:
        if _SCHEMA.fullmatch(schema) is None:
            raise ValueError(f"schema: 1 to 63 lower-case letters, digits and underscores are required, not {schema!r}")
        self.schema = schema
        self.version_table = version_table
        self.scripts = tuple(scripts)
        self.store = store
        self._names = {name: f'"{schema}".{name}' for name in names}
        self._statements: dict[str, bytes] = {}

    def statement(self, text: str) -> bytes:
        """The statement, with the tables of this schema."""
        if (known := self._statements.get(text)) is None:
            if len(self._statements) >= _MOST_STATEMENTS:  # some have instants in them
                self._statements.clear()
            known = self._statements[text] = string.Template(text).substitute(self._names).encode()
        return known


class _Limited(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed when the server does not answer one statement in time.

    TCP does not notice a server that is frozen while its machine is not: the machine acknowledges what it receives.

    Attributes:
        limit: seconds for one statement, None to wait for ever.
    """

    limit: float | None = None

    def wait(self, gen: PQGen[RV], *more: Any, **named: Any) -> RV:
        """As in psycopg, which calls it for each statement. It comes back ten times a second where nothing was received."""
        return super().wait(gen if self.limit is None else self._until(gen, time.monotonic() + self.limit), *more, **named)

    def _until(self, gen: PQGen[RV], ends: float) -> PQGen[RV]:
        """The same steps, up to an instant of the monotonic clock."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > ends:
                    self.close()
                    raise psycopg.OperationalError("the server did not answer a statement in time")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: RV = done.value
            return result


class Session:
    """One connection, used by one thread at a time.

    Outside of `begin` and `commit` each statement is a transaction of its own. No statement is prepared before
    `prepare_repeated`.

    Args:
        chosen: of the connection (`options`).
        tables: the tables.

    Attributes:
        transaction: the id of the last transaction that `begin` began.

    Raises:
        psycopg.Error: the connection cannot be made.
    """

    def __init__(self, chosen: Mapping[str, str], tables: Tables) -> None:
        self._connection = _Limited.connect(
            **chosen,  # type: ignore[arg-type] # libpq reads all options from text
            autocommit=True,
            prepare_threshold=None,
        )
        self._tables = tables
        self.opened = self.used = time.monotonic()
        self.transaction = ""
        self._may_prepare = False

    @property
    def limit(self) -> float | None:
        """For how many seconds the server may be silent after a statement, before the connection is closed; None for ever."""
        return self._connection.limit

    @limit.setter
    def limit(self, seconds: float | None) -> None:
        self._connection.limit = seconds

    @property
    def channel(self) -> str:
        """The channel of hints about these tables."""
        return self._tables.schema

    @property
    def lost(self) -> bool:
        """Whether the connection is known to be closed or broken."""
        return self._connection.closed

    @property
    def between_transactions(self) -> bool:
        """Whether the connection is ready for a transaction."""
        return self._connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def prepare_repeated(self) -> None:
        """From now on prepare what is repeated, unless a pooler lends the connection to others; a second call does nothing.

        For statements that find their rows by indexes, since plans are made for that.
        """
        if not self._may_prepare:
            self._may_prepare = True
            statement = _PLAN_WITH_INDEXES.format(self._connection.info.backend_pid)
            if self._connection.execute(statement.encode()).rowcount:
                self._connection.prepare_threshold = _REPEATED

    def begin(self) -> str:
        """Begin a transaction; its id, by which `pg_xact_status` tells its outcome."""
        cursor = self._connection.execute(_BEGIN, prepare=False)
        while cursor.nextset():
            pass
        self.transaction = str(self._first(cursor.fetchone())[0])
        return self.transaction

    @contextmanager
    def named(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """The connection in a transaction in which names without a schema are those of ours; commits at the end."""
        self._connection.execute(_BEGIN_NAMED.format(self._tables.schema).encode(), prepare=False)
        yield self._connection
        self.commit()

    def begin_snapshot(self) -> None:
        """Begin a transaction that reads as of one instant."""
        self._connection.execute(_BEGIN_SNAPSHOT, prepare=False)

    def commit(self) -> None:
        """Commit, which is durable when this returns."""
        self._connection.execute(b"COMMIT", prepare=False)

    def rollback(self) -> None:
        """Roll back; a lost connection is rolled back by the server."""
        if not self.lost:
            self._connection.execute(b"ROLLBACK", prepare=False)

    def rows(self, text: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        found = self._execute(text, values).fetchall()
        return [tuple(map(from_stored, row)) for row in found]

    def row(self, text: str, values: Mapping[str, object] | None = None) -> tuple[Any, ...] | None:
        """The first row of a query, None if there is none."""
        found = self._execute(text, values).fetchone()
        return None if found is None else tuple(map(from_stored, found))

    def lines(self, text: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query, with text as the bytes that it is."""
        with self._connection.cursor(binary=True) as cursor:
            cursor.adapters.register_loader("text", ByteaBinaryLoader)
            return cursor.execute(self._tables.statement(text), None if values is None else _stored(values)).fetchall()

    def copy(self, into: str, rows: bytes) -> None:
        """Insert rows that are written as COPY reads them; `into` names table and columns."""
        with self._connection.cursor() as cursor, cursor.copy(self._tables.statement(f"COPY {into} FROM STDIN")) as copy:
            copy.write(rows)

    def one(self, text: str, values: Mapping[str, object] | None = None) -> Any:
        """The first column of the first row of a query that has one."""
        return self._first(self.row(text, values))[0]

    def change(self, text: str, values: Mapping[str, object] | None = None) -> int:
        """Run a statement; the number of rows that it changed."""
        return self._execute(text, values).rowcount

    def insert(self, table: str, records: Sequence[Mapping[str, object]]) -> None:
        """Insert records with the same names."""
        if not records:
            return
        names = tuple(records[0])
        places = ", ".join(f"%({name})s" for name in names)
        statement = self._tables.statement(f"INSERT INTO ${table} ({', '.join(names)}) VALUES ({places})")  # noqa: S608 - ours
        if len(records) == 1:  # executemany begins a pipeline, which costs as much as two statements
            self._connection.execute(statement, _stored(records[0]))
            return
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, [_stored(record) for record in records])

    def script(self, text: str) -> None:
        """Run several statements without values, as they are."""
        self._connection.execute(text.encode(), prepare=False)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _execute(self, text: str, values: Mapping[str, object] | None) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(self._tables.statement(text), None if values is None else _stored(values))

    @staticmethod
    def _first(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
        if row is None:
            raise LookupError("a query that has a row gave none")
        return row


def _stored(values: Mapping[str, object]) -> dict[str, object]:
    return {name: stored(value) for name, value in values.items()}
