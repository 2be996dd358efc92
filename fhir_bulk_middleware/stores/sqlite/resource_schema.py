"""The SQLite schema of resources, and the order of reads that follows from it.

A version's key, `seq`, has its type's number in the high bits and a counter in the low ones. SQLite stores the table in the order
of its key, and `lastUpdated` never goes back (law 4), so each type is one run of neighbouring rows in the order of `lastUpdated`.
An export of a type is one scan of that run; a window is a part of it, whose ends are found by bisection; neither needs an index.
Columns that are read before the text of a version come before it.

The column `owners` is a digest of a version's compartments. `moved` marks a version whose compartments are not those of the
version before it, so that what left a compartment is found without reading what only changed.

Further tables hold the compartments by owner, so that the cost of an export of some patients depends on their resources alone;
the targets of each Provenance; what names a resource that no patient owns (`resource_naming`); which versions have a value of an
indexed search parameter (`resource_postings`); and the extents, which count the current versions in each block of neighbouring
keys, so that slices of about equal size are cut without reading resources.

An extent also has the instant at which one of its current versions was last added or superseded (`changed`), and a random number
that each transaction that does so draws anew (`stamp`). If an extent has the same stamp as before, it was last changed by the
same transaction, so it holds the same versions: also in a file that was restored from a backup and then written differently. The
stamps of a range are its fingerprint as of a cut, if none of its extents was changed after the cut.
"""

import sqlite3

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite import horizon_table as horizon
from fhir_bulk_middleware.stores.sqlite import outbox

__all__ = [
    "BLOCK_BITS",
    "COUNTER_BITS",
    "CURRENT",
    "MIGRATIONS",
    "PAGE_SIZE",
    "clock_row",
    "first_after",
    "first_of",
    "next_of",
    "number_of",
]

CURRENT = (1 << 63) - 1
"""The `valid_to` of a version that was not superseded."""

BLOCK_BITS = 8
"""An extent covers 2 ** 8 neighbouring versions of a type."""

PAGE_SIZE = 16_384
"""Bytes of a page of the file. Resources are read a quarter faster than from pages of 4 kB, and the file is smaller."""

COUNTER_BITS = 40
"""The number of bits of `seq` below its type's number."""

MIGRATIONS = (
    """\
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (1, 0);
CREATE TABLE type (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE resource (
    seq INTEGER PRIMARY KEY,
    last_updated INTEGER NOT NULL,
    valid_to INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    in_patient INTEGER NOT NULL,
    moved INTEGER NOT NULL,
    owners INTEGER NOT NULL,
    version INTEGER NOT NULL,
    size INTEGER NOT NULL,
    id TEXT NOT NULL,
    json TEXT NOT NULL
) STRICT;
CREATE INDEX resource_id ON resource (id);
CREATE INDEX resource_deleted ON resource (seq) WHERE deleted = 1;
CREATE INDEX resource_outside ON resource (seq) WHERE in_patient = 0 AND deleted = 0;
CREATE INDEX resource_moved ON resource (seq) WHERE moved = 1;
CREATE TABLE owner (number INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE compartment (owner INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (owner, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE target (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (type, id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX target_seq ON target (seq);
CREATE TABLE naming (target INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (target, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE extent (
    block INTEGER PRIMARY KEY,
    live INTEGER NOT NULL,
    in_patient INTEGER NOT NULL,
    size INTEGER NOT NULL
) STRICT;
""".rstrip().removesuffix(";"),
    # The outcomes of asynchronous remove-alls, one letter for each resource of a batch; and the runs that ended.
    """\
CREATE TABLE removal_batch (
    run TEXT NOT NULL,
    number INTEGER NOT NULL,
    outcomes TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE removal_run (run TEXT PRIMARY KEY) STRICT, WITHOUT ROWID
""".rstrip(),
    # Whether a cancel ended a run, and reports of removals.
    f"""\
ALTER TABLE removal_run ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
{outbox.SCHEMA}
""".rstrip(),
    # The base URLs below which an absolute reference leads to this store; compartments and targets are computed with them.
    """\
CREATE TABLE base (url TEXT PRIMARY KEY) STRICT, WITHOUT ROWID
""".rstrip(),
    # The deletion horizon, and an index of versions that may be forgotten.
    f"""\
{horizon.SCHEMA};
CREATE INDEX resource_superseded ON resource (valid_to) WHERE valid_to < {CURRENT}
""".rstrip(),
    horizon.ANNOUNCED,
    # Which versions an extent holds. Each extent gets a stamp of its own, since the file may be a copy of another.
    """\
ALTER TABLE extent ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE extent ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0;
UPDATE extent SET changed = (SELECT last FROM clock), stamp = random()
""".rstrip(),
    # Which versions have a value of an indexed search parameter. Types that the file already has are not indexed.
    """\
CREATE TABLE posting_parameter (
    number INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (type, name)
) STRICT;
CREATE TABLE posting (
    parameter INTEGER NOT NULL,
    value INTEGER NOT NULL,
    block INTEGER NOT NULL,
    places BLOB NOT NULL,
    PRIMARY KEY (parameter, value, block)
) STRICT, WITHOUT ROWID
""".rstrip(),
)

# Bisection by `lastUpdated` between two keys, not all of which exist. One statement: one for each step takes three times as long.
# Without numbers after `?`, which some releases of Python 3.12 take for names, and warn.
_FIRST_AFTER = """
WITH RECURSIVE part (low, high) AS (
    SELECT ?, ?
    UNION ALL
    SELECT
        CASE WHEN last_updated <= ? THEN seq + 1 ELSE low END,
        CASE WHEN last_updated <= ? THEN high ELSE (low + high) / 2 END
    FROM part LEFT JOIN resource ON seq = (SELECT min(seq) FROM resource WHERE seq >= (low + high) / 2 AND seq < high)
    WHERE low < high
)
SELECT low FROM part WHERE low >= high
"""


def number_of(connection: sqlite3.Connection, type_: str) -> int | None:
    """The number of a type, None if no resource of the type was ever stored."""
    row = connection.execute("SELECT number FROM type WHERE name = ?", (type_,)).fetchone()
    return None if row is None else int(row[0])


def clock_row(connection: sqlite3.Connection) -> Instant:
    """The latest instant of a write or a cut."""
    return Instant(connection.execute("SELECT last FROM clock").fetchone()[0])


def first_of(number: int) -> int:
    """A number below every `seq` of the type."""
    return number << COUNTER_BITS


def next_of(connection: sqlite3.Connection, number: int) -> int:
    """The `seq` of the type's next version."""
    row = connection.execute(
        "SELECT max(seq) FROM resource WHERE seq BETWEEN ? AND ?", (first_of(number), first_of(number + 1) - 1)
    ).fetchone()
    return first_of(number) + 1 if row[0] is None else int(row[0]) + 1


def first_after(connection: sqlite3.Connection, number: int, instant: Instant, end: int | None = None) -> int:
    """The first `seq` of the type with a `lastUpdated` after `instant`; if there is none, `end` (by default `next_of`)."""
    low, high = first_of(number), next_of(connection, number) if end is None else end
    newest = connection.execute("SELECT last_updated FROM resource WHERE seq = ?", (high - 1,)).fetchone()
    if newest is None or newest[0] <= instant:
        return high  # the usual case: the cut was just made
    return int(connection.execute(_FIRST_AFTER, (low, high, instant, instant)).fetchone()[0])
