"""`PostgresCuts`: exact cuts of a PostgreSQL whose writers commit in any order, without a lock that writers take.

For hosts with versioned tables of their own. A version is written once, by one transaction, and its row keeps

- the *stamp*: `meta.lastUpdated`, in microseconds. `bulk_instant()` gives a good one, but any number will do;
- the *writer*: `pg_current_xact_id()`, the 64-bit id of the transaction that wrote the row, as a column default.

A stamp is chosen before the commit, and another transaction may commit between the two. So the stamps that lie before an
instant do not say what was visible at it. PostgreSQL itself knows: `pg_current_snapshot()` lists the transactions that had not
ended. A *cut* is a row of the table `bulk_cut`: an instant and the snapshot that was taken for it.

**What an export holds.** A snapshot *sees* a version if it sees the commit of its writer (`pg_visible_in_snapshot`). The
*visible instant* of a version is its stamp or, if that is later, the microsecond after the last cut that did not see the
version:

    visible(v) = max(stamp(v), 1 + max(instant(c) for each cut c that does not see v))

Wherever the laws say `lastUpdated`, an export uses the visible instant: the state at an instant T is, of each resource, the
highest version number with visible(v) <= T, and a window holds the versions with since < visible(v) <= until.

**Why that loses and doubles nothing.** Cuts are taken one at a time, with growing instants, so a later cut sees all that an
earlier one saw (a commit is final). The cuts that do not see v are therefore the first ones, up to some cut, and:

1. visible(v) <= T if and only if stamp(v) <= T and v is seen by the first cut whose instant is T or later. *If*: that cut and
   all later ones see v, so each cut that does not has an instant before T. *Only if*: had it not seen v, visible(v) would be
   later than its instant. `Seen.includes` is this condition. No list of cuts is walked.
2. The set S(T) of versions with visible(v) <= T never changes once a cut at T or later is recorded: a snapshot's answer about a
   transaction is final, rows of a rolled-back transaction are never read, and no cut is ever added before the last one. So
   pages, slices and retries read the same rows (law 5), in short statements; no database transaction stays open for an export.
3. For cuts T1 < T2, S(T1) is a part of S(T2). If the newest version of a resource differs between them, the newest of S(T2) is
   not in S(T1), so it lies in the window (T1, T2] and is exported. If it is the same, it lies in S(T1) and is not exported. So
   the exports tell each net change once (law 3). The same holds if the next export starts at an `_until` before the cut, or at
   any other instant, since 1 and 2 hold for every instant.

Nothing in this depends on clocks, on the order of stamps, or on how long a transaction runs.

**What the client sees.** `transactionTime` is the instant of the cut. The lines are as the host stores them, so a version whose
writer was slow (*late*) comes in the next export with a `lastUpdated` at or before its `_since`. To make that rare, `cut`
chooses its instant, then waits until the transactions have ended that may hold an earlier stamp, up to `patience` seconds, and
only then takes the snapshot. Those are the transactions that called `bulk_instant()`: it assigns the transaction id before it
reads the clock, and leaves a lock on `bulk_cut` behind that conflicts with no reader or writer. `cut` waits for nobody who
began after its instant was chosen, and writers never wait for a cut. While the clock is set back, the instant of a cut lies ahead
of it, so a writer that begins before the cut is recorded may be late, too. The row of the cut counts the transactions that it
did not wait for any longer (`unfinished`), and the manifest of the export says how many they were.

| Writer | Is exported |
| --- | --- |
| commits while a cut waits for it | by the export of this cut |
| is slower than `patience`, or prepared for days | by the first whose cut sees its commit; manifests before it say so |
| rolls back, to a savepoint or whole | never |
| chose its stamp without `bulk_instant()` | by the first whose cut sees its commit; no cut waits for it |

**Limits.** A version that is superseded before a cut sees it is in no export, as law 3 wants it. Transaction ids belong to a
cluster of PostgreSQL: a physical backup or `pg_upgrade` keeps them, `pg_restore` and logical replication do not. `cut` notices
by the system identifier, and raises until `adopt` was called. A standby can be read: it shows a cut only after all that the cut
sees. Keep the rows of `bulk_cut`, of some 100 bytes, as long as a client may chain from them.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

try:
    import psycopg
    from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
except ModuleNotFoundError as error:
    raise ImportError("PostgresCuts needs psycopg: pip install 'fhir-bulk-middleware[postgres]'") from error

from fhir_bulk_middleware.contract.query import Unfinished
from fhir_bulk_middleware.instant import Instant, Precision, latest_cut
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["CUT_SCHEMA", "PostgresCuts", "Seen"]

_log = logging.getLogger("fhir_bulk_middleware")

CUT_SCHEMA = """
CREATE FUNCTION bulk_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;
CREATE TABLE bulk_cut (
    instant bigint PRIMARY KEY,
    snapshot pg_snapshot NOT NULL,
    cluster bigint NOT NULL,
    unfinished integer NOT NULL DEFAULT 0,
    recorded bigint NOT NULL DEFAULT bulk_clock()
);
CREATE FUNCTION bulk_instant(least_instant bigint DEFAULT 0) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN greatest(least_instant, (SELECT max(instant) + 1 FROM bulk_cut), bulk_clock());
END
$$;
"""
"""The tables and functions (PostgreSQL 14 or later). Instants are microseconds since 1970.

In `bulk_cut`, `unfinished` counts the transactions that the cut did not wait for, and `recorded` is the clock at that moment.
`bulk_instant(n)` is the stamp for a write: now, later than each recorded cut, and at least `n`, which a writer sets to one more
than the stamp of the version that it supersedes.
"""

_NOTHING = "1:1:"
"""A snapshot that sees no transaction."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
_IDS = 1 << 32

_CLUSTER = "SELECT system_identifier FROM pg_control_system()"
_TAKE = (
    "INSERT INTO bulk_cut SELECT %(instant)s, pg_current_snapshot(), system_identifier FROM pg_control_system()"
    " WHERE NOT EXISTS (SELECT 1 FROM bulk_cut WHERE instant >= %(instant)s) RETURNING snapshot::text"
)
_FOREIGN = f"SELECT cluster <> ({_CLUSTER}) FROM bulk_cut ORDER BY instant DESC LIMIT 1"  # noqa: S608 - literals only
_WRITERS = """
    SELECT (array_agg(own.transactionid::text ORDER BY age(own.transactionid) DESC))[1]
    FROM pg_locks AS stamped JOIN pg_locks AS own USING (virtualtransaction)
    WHERE stamped.locktype = 'relation' AND stamped.relation = 'bulk_cut'::regclass
    AND stamped.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock' AND own.granted GROUP BY virtualtransaction
"""
"""The ids of transactions, of 32 bits. With that of a transaction come those of its savepoints, which are younger."""
_COUNT = "UPDATE bulk_cut SET unfinished = %(unfinished)s WHERE instant = %(instant)s"
_DURABLY = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
_FIRST_FROM = "SELECT instant, snapshot::text FROM bulk_cut WHERE instant >= %s ORDER BY instant LIMIT 1"

_UNFINISHED = "SELECT unfinished, recorded FROM bulk_cut WHERE instant >= %(cut)s ORDER BY instant LIMIT 1"

_Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Which versions have a visible instant up to `instant`, as conditions for SQL.

    Attributes:
        instant: the instant.
        snapshot: of the first cut at `instant` or later; None if there is none, so all versions that can be read are seen.
    """

    instant: Instant
    snapshot: str | None

    def includes(self, stamp: Composable, writer: Composable) -> Composed:
        """The condition that a version was visible at the instant; false if its `writer` is NULL.

        Args:
            stamp: the column of its stamp.
            writer: the column of its transaction id.
        """
        if self.snapshot is None:
            return SQL("({} <= {})").format(stamp, Literal(self.instant))
        return SQL("({} <= {} AND pg_visible_in_snapshot({}, {}::pg_snapshot))").format(
            stamp, Literal(self.instant), writer, Literal(self.snapshot)
        )

    def excludes(self, stamp: Composable, writer: Composable) -> Composed:
        """The condition that a version became visible after the instant, in a form that can use an index on either column."""
        return SQL("({} > {} OR {})").format(stamp, Literal(self.instant), self.unseen(writer))

    def unseen(self, writer: Composable) -> Composed:
        """The condition that a version was not seen whatever its stamp is, in a form that can use an index on `writer`."""
        if self.snapshot is None:
            return Composed([SQL("false")])
        oldest = self.snapshot.partition(":")[0]
        return SQL("({} >= {}::xid8 AND NOT pg_visible_in_snapshot({}, {}::pg_snapshot))").format(
            writer, Literal(oldest), writer, Literal(self.snapshot)
        )


class PostgresCuts:
    """The cuts of a database with `CUT_SCHEMA`, for the methods of `SupportsSnapshot`.

    Args:
        connect: lends a connection in autocommit mode, as a context manager; it is called in threads.
        newest: an expression for the latest committed stamp, such as `(SELECT max(last_updated) FROM version)`, with an index.
            It keeps cuts from lying before answered writes while the clock is set back (law 45).
        patience: for how many seconds `cut` waits for writers that are under way.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[_Connection]], *, newest: Composable, patience: float = 5.0
    ) -> None:
        self._connect = connect
        self._clocks = SQL("SELECT bulk_clock(), greatest((SELECT max(instant) + 1 FROM bulk_cut), {}, 0)").format(newest)
        self._patience = patience

    async def now(self) -> Instant:
        """The clock of the database; never behind a cut or a committed stamp."""
        return Instant(max(await asyncio.to_thread(self._read_clocks)))

    async def cut(self, precision: Precision) -> Instant:
        """Fix a cut: wait for the writers under way, at most `patience` seconds, then record what is visible.

        Raises:
            RuntimeError: the database was restored into another cluster of PostgreSQL, and `adopt` was not called.
        """
        machine, last = await asyncio.to_thread(self._read_clocks)
        instant = latest_cut(machine, last, precision)
        waiting = await self._wait_for_writers()
        await asyncio.to_thread(self._record, instant, waiting)
        return instant

    async def unfinished(self, cut: Instant) -> Unfinished | None:
        """The transactions that a cut did not wait for, for `SupportsUnfinished`; None if it waited for all."""
        return await asyncio.to_thread(self._read_unfinished, cut)

    def as_of(self, instant: Instant) -> Seen:
        """What an export reads whose cut is `instant`; it does not change any more.

        Raises:
            Refused: `BUSY`, if no cut at this instant or later can be read here, as on a standby that is behind.
            RuntimeError: the cut was taken before the database was restored into another cluster.
        """
        seen = self.seen(instant)
        if seen.snapshot is None:
            raise Refused(Reason.BUSY, "The storage has not received this cut yet.", retry_after=1)
        if seen.snapshot == _NOTHING:
            raise RuntimeError("this cut was taken before the database was restored: let the client start a new export")
        return seen

    def seen(self, instant: Instant) -> Seen:
        """What was visible at an instant, such as the edge of a window."""
        with self._connect() as connection:
            row = connection.execute(_FIRST_FROM, (instant,)).fetchone()
        return Seen(instant, None if row is None else row[1])

    def adopt(self, writers: Iterable[tuple[str, str]]) -> None:
        """Make a database that was restored into another cluster chain again: the next export since any cut tells everything.

        Its old transaction ids mean nothing in this cluster. All versions count as written by the transaction of this call, and
        no earlier cut sees them. Call it once, while nothing writes; it rewrites the tables.

        Args:
            writers: each column of transaction ids, as table and column.
        """
        with self._connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE bulk_cut IN EXCLUSIVE MODE")
            for table, column in writers:
                update = SQL("UPDATE {0} SET {1} = pg_current_xact_id() WHERE {1} IS NOT NULL")
                connection.execute(update.format(Identifier(table), Identifier(column)))
            connection.execute(f"UPDATE bulk_cut SET snapshot = '{_NOTHING}', cluster = ({_CLUSTER})")  # noqa: S608 - literals

    async def _wait_for_writers(self) -> frozenset[str]:
        """Wait until all transactions have ended that may hold a stamp of before this call; those that have not in time."""
        ends, pause = time.monotonic() + self._patience, _SHORTEST_PAUSE
        waiting = began = await asyncio.to_thread(self._writers)
        while waiting and time.monotonic() < ends:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            waiting = began & await asyncio.to_thread(self._writers)
        return waiting

    def _writers(self) -> frozenset[str]:
        with self._connect() as connection:
            return frozenset(id_ for (id_,) in connection.execute(_WRITERS))

    def _read_clocks(self) -> tuple[Instant, Instant]:
        """The machine's clock, and the earliest instant that is neither before a cut nor before a committed stamp."""
        with self._connect() as connection:
            ((machine, last),) = connection.execute(self._clocks).fetchall()
        return Instant(machine), Instant(last)

    def _read_unfinished(self, cut: Instant) -> Unfinished | None:
        with self._connect() as connection:
            row = connection.execute(_UNFINISHED, {"cut": cut}).fetchone()
        return None if row is None or row[0] == 0 else Unfinished(*row)

    def _record(self, instant: Instant, waiting: frozenset[str]) -> None:
        """Record a cut. If one at this instant or later was recorded meanwhile, that one decides what is seen at this instant.

        READ COMMITTED, so that the snapshot is taken under the lock, and the snapshots of two cuts have the order of their
        instants. The lock conflicts with other cuts only. A cut is durable, and with it all that it sees.
        """
        with self._connect() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.execute(_DURABLY)
            connection.execute("LOCK TABLE bulk_cut IN EXCLUSIVE MODE")
            if connection.execute(_FOREIGN).fetchone() == (True,):
                raise RuntimeError(
                    "this database was restored into another cluster of PostgreSQL, whose transaction ids say nothing about its "
                    "cuts: call PostgresCuts.adopt once, while nothing writes"
                )
            taken = connection.execute(_TAKE, {"instant": instant}).fetchone()
            if taken is not None and (unfinished := _unseen(waiting, taken[0])):
                connection.execute(_COUNT, {"unfinished": unfinished, "instant": instant})
        if waiting and (left := self._read_unfinished(instant)) is not None:
            _log.warning(
                "an export does not wait any longer for %d transaction(s) that write, of ids %s: what they commit will be in the "
                "next export, with a lastUpdated before its _since",
                left.transactions,
                ", ".join(sorted(waiting)[:5]),
            )


def _unseen(ids: Collection[str], snapshot: str) -> int:
    """How many of these transactions had not ended in a snapshot. Their ids have 32 bits, those of a snapshot 64."""
    _, end, listed = snapshot.split(":")
    running = {int(each) % _IDS for each in listed.split(",") if each}
    return sum(int(each) in running or (int(each) - int(end)) % _IDS < _IDS // 2 for each in ids)
