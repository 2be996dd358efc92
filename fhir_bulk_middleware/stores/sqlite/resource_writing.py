"""Writes versions of resources in SQLite, all of a transaction at one instant."""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fhir_bulk_middleware.instant import Clock, Instant, Precision, latest_cut, render
from fhir_bulk_middleware.stores.digests import digest_of_owners
from fhir_bulk_middleware.stores.drafts import Draft
from fhir_bulk_middleware.stores.sqlite.resource_postings import Postings, register
from fhir_bulk_middleware.stores.sqlite.resource_schema import BLOCK_BITS, CURRENT, clock_row, first_of, next_of
from fhir_bulk_middleware.stores.versioned import Stored, VersionConflict

__all__ = ["STAMP_BITS", "Writing", "cut"]

STAMP_BITS = 63
"""Of the stamp of an extent: what a signed integer of SQLite holds."""


_INSERT = "INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS = 1_000
"""How many rows wait to be written together."""

_COLUMNS = "seq, version, last_updated, deleted, in_patient, owners, size"
_NEWEST = f"SELECT {_COLUMNS} FROM resource WHERE id = ? AND seq BETWEEN ? AND ? ORDER BY seq DESC LIMIT 1"  # noqa: S608 - ours
_EXPECTED = (
    f"SELECT resource.id, {_COLUMNS} FROM json_each(?) AS asked"  # noqa: S608 - our own words
    " CROSS JOIN resource ON resource.id = asked.value AND seq BETWEEN ? AND ? ORDER BY seq"
)


@dataclass(frozen=True, slots=True)
class _Version:
    seq: int
    number: int
    last_updated: Instant
    deleted: bool
    in_patient: bool
    owners: int
    size: int


@dataclass(frozen=True, slots=True)
class _Owners:
    """A set of compartments, with the numbers of their owners."""

    digest: int
    in_patient: bool
    numbers: tuple[int, ...]


_NOBODY = _Owners(0, in_patient=False, numbers=())

_Expected = dict[str, _Version | None]


def _version(row: Sequence[int]) -> _Version:
    seq, number, last_updated, deleted, in_patient, owners, size = row
    return _Version(seq, number, Instant(last_updated), bool(deleted), bool(in_patient), owners, size)


def cut(connection: sqlite3.Connection, clock: Clock, precision: Precision) -> Instant:
    """Fix a cut (law 1), in a write transaction: no other write is open, and every later one gets a later instant (law 4)."""
    last = clock_row(connection)
    found = latest_cut(clock(), last, precision)
    connection.execute("UPDATE clock SET last = ?", (max(last, found),))
    return found


class Writing:
    """One write transaction. All its versions have one `lastUpdated`, later than every earlier write and cut (law 4).

    Args:
        connection: in a write transaction.
        clock: the clock; if it went back, the store continues from its latest instant.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._types: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._expected: dict[str, _Expected] = {}
        self._rows: list[tuple[object, ...]] = []
        self._owners: dict[frozenset[str], _Owners] = {frozenset(): _NOBODY}
        self._owner_numbers: dict[str, int] = {}
        self._lies_in: list[tuple[int, int]] = []
        self._targets: list[tuple[str, str, int]] = []
        self._names: list[tuple[int, int]] = []
        self._postings = Postings(connection)
        self._extents: dict[int, list[int]] = {}

    @cached_property
    def instant(self) -> Instant:
        """The instant of this transaction, fixed by its first write."""
        found = Instant(max(self._clock(), clock_row(self._connection) + 1))
        self._connection.execute("UPDATE clock SET last = ?", (found,))
        return found

    def continue_at(self, instant: Instant) -> None:
        """Write the next versions at an instant of the past, for a load that keeps `meta.lastUpdated`.

        Raises:
            ValueError: the instant is in the future, or the store has a later one.
        """
        if instant > self._clock():
            raise ValueError("meta.lastUpdated: lies in the future")
        last = clock_row(self._connection)
        if instant <= last:
            latest = render(last, Precision.MICROSECONDS)
            raise ValueError(
                f"meta.lastUpdated: is not later than {latest}, the store's latest instant; load history in order, and before"
                " anything else"
            )
        self._connection.execute("UPDATE clock SET last = ?", (instant,))
        self.instant = instant

    def expect(self, drafts: Iterable[Draft]) -> None:
        """Read the newest versions of many resources in one step, which are about to be written, each once.

        Of a resource that is written again, the version that this transaction wrote is read from the table.
        """
        by_type: dict[str, list[str]] = {}
        for new in drafts:
            by_type.setdefault(new.canonical.type, []).append(new.canonical.id)
        for type_, ids in by_type.items():
            expected: _Expected = dict.fromkeys(ids)
            first = first_of(self._type(type_))
            if self._next[type_] > first + 1:
                for id_, *row in self._connection.execute(_EXPECTED, (json.dumps(ids), first, self._next[type_])):
                    expected[id_] = _version(row)  # the last one is the newest
            self._expected[type_] = expected

    def put(self, new: Draft, if_match: int | None = None, *, absent: bool = False) -> Stored:
        """Write the next version of a resource, the first one if there is none.

        Args:
            new: the resource.
            if_match: the version that must be current and no deletion; None for any or none.
            absent: whether the resource must not exist, or be deleted.

        Raises:
            VersionConflict: `if_match` or `absent` does not hold.
        """
        type_, id_ = new.canonical.type, new.canonical.id
        current = self._current(type_, id_)
        exists = current is not None and not current.deleted
        if (absent and exists) or (if_match is not None and not (exists and current is not None and current.number == if_match)):
            raise VersionConflict(None if current is None else current.number)
        number, text = self._follow(current, new)
        return Stored(type_, id_, number, self.instant, text, deleted=False)

    def put_all(self, drafts: Iterable[Draft]) -> None:
        """As `put` without conditions, for many resources that are `expect`ed."""
        for new in drafts:
            self._follow(self._current(new.canonical.type, new.canonical.id), new)

    def delete(self, type_: str, id_: str, if_match: int | None = None) -> Stored | None:
        """Write the deletion of a resource. Its compartments are those of its versions before, where exports look (laws 27, 34).

        Returns:
            The version that was current, None if there was none.

        Raises:
            VersionConflict: `if_match` is not the current version, nor that of the last removal.
        """
        current = self._current(type_, id_)
        last = None if current is None else current.number - current.deleted
        if if_match is not None and if_match != last:
            raise VersionConflict(None if current is None else current.number)
        if current is None or current.deleted:
            return None
        text: bytes = self._connection.execute(
            "SELECT CAST(json AS BLOB) FROM resource WHERE seq = ?", (current.seq,)
        ).fetchone()[0]
        self._supersede(current)
        self._insert(type_, id_, b"", current.number + 1, _NOBODY, deleted=True, moved=False)
        self._flush()  # whoever removes reads in the same transaction
        return Stored(type_, id_, current.number, current.last_updated, text, deleted=False)

    def finish(self) -> None:
        """Write the collected rows; must be called before the transaction is committed."""
        self._flush()
        self._connection.executemany("INSERT INTO compartment VALUES (?, ?)", sorted(self._lies_in))
        self._connection.executemany("INSERT INTO target VALUES (?, ?, ?)", sorted(self._targets))
        self._connection.executemany("INSERT INTO naming VALUES (?, ?)", sorted(self._names))
        self._postings.write()
        # A block whose counts are the same as before is among them too, if one version took the place of another.
        changed = (self.instant, secrets.randbits(STAMP_BITS)) if self._extents else ()
        self._connection.executemany(
            "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " live = live + excluded.live, in_patient = in_patient + excluded.in_patient, size = size + excluded.size,"
            " changed = excluded.changed, stamp = excluded.stamp",
            [(block, *counts, *changed) for block, counts in sorted(self._extents.items())],
        )

    def _current(self, type_: str, id_: str) -> _Version | None:
        expected = self._expected.get(type_)
        if expected is not None and id_ in expected:
            return expected.pop(id_)
        first = first_of(self._type(type_))
        self._flush()
        row = self._connection.execute(_NEWEST, (id_, first, self._next[type_])).fetchone()
        return None if row is None else _version(row)

    def _type(self, type_: str) -> int:
        number = self._types.get(type_)
        if number is None:
            added = self._connection.execute("INSERT INTO type (name) VALUES (?) ON CONFLICT DO NOTHING", (type_,)).rowcount
            row = self._connection.execute("SELECT number FROM type WHERE name = ?", (type_,)).fetchone()
            number = self._types[type_] = int(row[0])
            if added:
                register(self._connection, number, type_)
            self._next[type_] = next_of(self._connection, number)
        return number

    def _follow(self, current: _Version | None, new: Draft) -> tuple[int, bytes]:
        """Write the version after the current one; returns its number and its text."""
        form, references, targets, names, keys, _ = new
        owners = self._owners.get(references) or self._owners_of(references)
        number, moved = 1, False
        if current is not None:
            number, moved = current.number + 1, current.deleted or current.owners != owners.digest
            self._supersede(current)
        text = form.text(number, self.instant)
        seq = self._insert(form.type, form.id, text, number, owners, deleted=False, moved=moved)
        self._lies_in += [(owner, seq) for owner in owners.numbers]
        if targets:
            self._targets += [(about, id_about, seq) for about, id_about in targets]
        if names:
            self._names += [(name, seq) for name in names]
        self._postings.add(seq, keys)
        return number, text

    def _supersede(self, version: _Version) -> None:
        self._connection.execute("UPDATE resource SET valid_to = ? WHERE seq = ?", (self.instant, version.seq))
        if not version.deleted:
            self._count(version.seq, -1, version.in_patient, version.size)

    def _insert(self, type_: str, id_: str, text: bytes, number: int, owners: _Owners, *, deleted: bool, moved: bool) -> int:
        """Collect a version's row; returns its key."""
        seq = self._next[type_]
        self._next[type_] = seq + 1
        size, line = len(text), text.decode()
        self._rows.append((seq, self.instant, CURRENT, deleted, owners.in_patient, moved, owners.digest, number, size, id_, line))
        if len(self._rows) >= _ROWS:
            self._flush()
        if not deleted:
            self._count(seq, 1, owners.in_patient, size)
        return seq

    def _flush(self) -> None:
        """Write the collected versions, so that they can be read."""
        if self._rows:
            self._connection.executemany(_INSERT, self._rows)
            self._rows.clear()

    def _owners_of(self, references: frozenset[str]) -> _Owners:
        in_patient = any(reference.startswith("Patient/") for reference in references)
        numbers = tuple(self._owner(reference) for reference in sorted(references))
        found = self._owners[references] = _Owners(digest_of_owners(references), in_patient, numbers)
        return found

    def _owner(self, reference: str) -> int:
        number = self._owner_numbers.get(reference)
        if number is None:
            self._connection.execute("INSERT INTO owner (reference) VALUES (?) ON CONFLICT DO NOTHING", (reference,))
            row = self._connection.execute("SELECT number FROM owner WHERE reference = ?", (reference,)).fetchone()
            number = self._owner_numbers[reference] = int(row[0])
        return number

    def _count(self, seq: int, live: int, in_patient: int, size: int) -> None:
        counts = self._extents.get(seq >> BLOCK_BITS)
        if counts is None:
            counts = self._extents[seq >> BLOCK_BITS] = [0, 0, 0]
        counts[0] += live
        counts[1] += live * in_patient
        counts[2] += live * size
