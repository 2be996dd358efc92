"""`WriteClock`: gives writers their instants, and exports their cuts, so that no write comes behind a cut (laws 1, 4 and 45)."""

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    bindparam,
    event,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fhir_bulk_middleware.instant import Clock, Instant, Precision, latest_cut, system_clock
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["WriteClock"]

_NAME = "bulk_clock"
_LOCK_OUT_WRITERS = text("SELECT pg_advisory_xact_lock(hashtext(:name))").bindparams(name=_NAME)
_LOCK_OUT_CUTS = text("SELECT pg_advisory_xact_lock_shared(hashtext(:name))").bindparams(name=_NAME)
_PATIENCE = text("SET LOCAL lock_timeout = '5s'")
_LOCK_NOT_AVAILABLE = "55P03"
_SERVER_CLOCK = literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)", BigInteger)


def _insert_zero(table: Table, connection: Connection, **_: object) -> None:
    connection.execute(table.insert().values(last=0))


class WriteClock:
    """The clock of a storage with a history.

    Each transaction that writes calls `stamp` before its first change, and writes the instant that it gets. A cut waits for the
    transactions that have stamped and not ended, and later ones get later instants. On PostgreSQL writers do not wait for each
    other; on SQLite they do, as always.

    A writer that does not stamp makes changes that exports may miss: the promise of `SupportsSnapshot` rests on all writers.

    Args:
        metadata: gets the table `bulk_clock`, which has one row; `create_all` makes both.
        clock: the machine's clock; None for the server's on PostgreSQL, and this machine's elsewhere.
    """

    def __init__(self, metadata: MetaData, clock: Clock | None = None) -> None:
        self._table = Table(_NAME, metadata, Column("last", BigInteger, nullable=False))
        event.listen(self._table, "after_create", _insert_zero)
        self._clock = clock

    async def stamp(self, connection: AsyncConnection) -> Instant:
        """The instant of a transaction, later than every cut that was given before.

        It may lie before that of the version that is replaced, if the machine's clock was set back, or if another transaction
        stamped later and was first. Then take a microsecond after that version.

        Args:
            connection: in the transaction (`writing`); on PostgreSQL at READ COMMITTED, its default.

        Raises:
            RuntimeError: the transaction is at another isolation level, at which it cannot see the last cut.
        """
        last = self._table.c.last
        if connection.dialect.name == "postgresql":
            await connection.execute(_LOCK_OUT_CUTS)
            level = func.current_setting("transaction_isolation")
            given, machine, found = (await connection.execute(select(last, self._machine(connection), level))).one()
            if found != "read committed":
                raise RuntimeError(f"a transaction that stamps runs at READ COMMITTED, and this one at {found.upper()}")
            return Instant(max(given + 1, machine))
        statement = self._table.update().values(last=func.max(last + 1, bindparam("machine", self._own()))).returning(last)
        return Instant((await connection.execute(statement)).scalar_one())

    async def now(self, engine: AsyncEngine) -> Instant:
        """The clock, never behind an instant or a cut that it gave (`SupportsSnapshot.now`)."""
        async with engine.connect() as connection:
            given, machine = (await connection.execute(select(self._table.c.last, self._machine(connection)))).one()
        return Instant(max(given, machine))

    async def cut(self, connection: AsyncConnection, precision: Precision, written: Instant) -> Instant:
        """Fix a cut (`SupportsSnapshot.cut`), in a transaction whose writers are locked out (`lock_out_writers`).

        Args:
            connection: in that transaction.
            precision: of the cut.
            written: the latest instant of a write.
        """
        given, machine = (await connection.execute(select(self._table.c.last, self._machine(connection)))).one()
        found = latest_cut(machine, Instant(max(given, written)), precision)
        await connection.execute(self._table.update().values(last=max(given, found)))
        return found

    async def lock_out_writers(self, connection: AsyncConnection) -> None:
        """Wait for transactions that have stamped, and keep others from stamping until this transaction ends.

        Raises:
            Refused: `BUSY`, if one did not end within 5 seconds.
        """
        if connection.dialect.name != "postgresql":
            return  # `writing` holds the lock of all writers
        await connection.execute(_PATIENCE)
        try:
            await connection.execute(_LOCK_OUT_WRITERS)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            raise Refused(Reason.BUSY, "A transaction that writes does not end.", retry_after=5) from error

    def _machine(self, connection: AsyncConnection) -> ColumnElement[int]:
        if self._clock is None and connection.dialect.name == "postgresql":
            return _SERVER_CLOCK
        return literal(self._own(), BigInteger)

    def _own(self) -> Instant:
        return (self._clock or system_clock)()
