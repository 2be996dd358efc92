"""Removes resources in SQLite: one, all matches of criteria, or a frozen batch, each in one write transaction."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.removal import (
    AlreadyDeleted,
    Batch,
    Current,
    Matches,
    NeverExisted,
    Removal,
    Removed,
    Tally,
    Target,
    Version,
    VersionMismatch,
    batch_outcome,
)
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores import removal_journal as journal
from fhir_bulk_middleware.stores.criteria_lookups import CriteriaLookups
from fhir_bulk_middleware.stores.sqlite import outbox
from fhir_bulk_middleware.stores.sqlite.resource_candidates import candidates
from fhir_bulk_middleware.stores.sqlite.resource_reading import empty_keys
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT, first_of, next_of, number_of
from fhir_bulk_middleware.stores.sqlite.resource_writing import Writing

__all__ = ["Removing", "end_run", "find"]


_FOUND = "found"


def find(
    connection: sqlite3.Connection, target: Target, base_urls: Collection[str], lookups: CriteriaLookups, at_most: int
) -> Matches:
    """The matches in one read transaction; the mark is the key of the last version that was read."""
    connection.execute("BEGIN")
    try:
        number = number_of(connection, target.type)
        if number is None:
            return Matches(0, (), "0")
        last = next_of(connection, number) - 1
        count = 0
        versions: list[Version] = []
        for version in _matching(connection, (first_of(number) + 1, last), target, base_urls, lookups):
            count += 1
            if count <= at_most:
                versions.append(version)
        return Matches(count, tuple(versions), str(last))
    finally:
        connection.rollback()


class Removing:
    """One write transaction that removes resources, and reads in the same transaction what it decides by.

    Args:
        connection: in a write transaction.
        writing: writes in the same transaction.
        base_urls: the base URLs under which absolute references lead to this store.
        lookups: what can be looked up for criteria.
        note: the note to record the removals under; empty to record nothing.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        writing: Writing,
        base_urls: Collection[str],
        lookups: CriteriaLookups,
        note: str = "",
    ) -> None:
        self._connection = connection
        self._writing = writing
        self._base_urls = base_urls
        self._lookups = lookups
        self._note = note
        self._removed: list[Current] = []

    def one(self, type_: str, id_: str, if_version: Collection[str] | None) -> Removal:
        """Remove a resource if it is at one of the versions; see `SupportsDelete.remove`."""
        newest = _newest(self._connection, type_, id_)
        if newest is None:
            return NeverExisted()
        version, deleted = newest
        if deleted:
            return AlreadyDeleted(str(version - 1))
        if if_version is not None and str(version) not in if_version:
            return VersionMismatch()
        return Removed(self._delete(type_, id_))

    def all(self, target: Target, matches: Matches) -> Sequence[Current] | None:
        """Remove the matches if they have not changed.

        Everything that changed since has a newer version, above the mark. So it is enough to search there for further matches,
        and to check that each match has its version.
        """
        if matches.count != len(matches.versions):
            raise ValueError("to remove all matches, all of them must have been found")
        number = number_of(self._connection, target.type)
        if number is None or any(self._matching(number, int(matches.mark), target)):
            return None
        if any(_newest(self._connection, target.type, match.id) != (int(match.version), False) for match in matches.versions):
            return None
        return [self._delete(target.type, match.id) for match in matches.versions]

    def matching(self, target: Target, at_most: int, if_version: frozenset[str] | None) -> Sequence[Current] | Matches:
        """Find and remove; see `SupportsLockedDelete`."""
        number = number_of(self._connection, target.type)
        if number is None:
            return Matches(0, ())
        found = list(self._matching(number, first_of(number), target))
        matches = Matches(len(found), tuple(found[:at_most]))
        if not matches.removable(if_version):
            return matches
        return [self._delete(target.type, match.id) for match in matches.versions]

    def batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """Remove a frozen batch and journal it, unless it is in the journal or the run has ended."""
        if self._connection.execute("SELECT 1 FROM removal_run WHERE run = ?", (batch.id.run,)).fetchone() is not None:
            return None
        place = (batch.id.run, batch.id.number)
        row = self._connection.execute("SELECT outcomes FROM removal_batch WHERE run = ? AND number = ?", place).fetchone()
        if row is not None:
            return journal.outcomes(row[0])
        outcomes = [batch_outcome(self.one(batch.type, frozen.id, {frozen.version})) for frozen in batch.versions]
        self._connection.execute("INSERT INTO removal_batch VALUES (?, ?, ?)", (*place, journal.letters(outcomes)))
        return outcomes

    def finish(self) -> None:
        """Report the removals in the transaction that makes them (law 37)."""
        if self._note and self._removed:
            ids = [resource.id for resource in self._removed]
            outbox.add(self._connection, self._note, self._writing.instant, self._removed[0].type, ids)

    def _matching(self, number: int, after: int, target: Target) -> Iterator[Version]:
        between = after + 1, next_of(self._connection, number) - 1
        return _matching(self._connection, between, target, self._base_urls, self._lookups)

    def _delete(self, type_: str, id_: str) -> Current:
        removed = self._writing.delete(type_, id_)
        if removed is None:
            raise RuntimeError(f"{type_}/{id_} went away within a transaction")
        self._removed.append(removed.as_current())
        return self._removed[-1]


def end_run(connection: sqlite3.Connection, run: str, *, cancelled: bool) -> Tally:
    """End a run and count its journal."""
    connection.execute("INSERT OR IGNORE INTO removal_run (run, cancelled) VALUES (?, ?)", (run, cancelled))
    (by_cancel,) = connection.execute("SELECT cancelled FROM removal_run WHERE run = ?", (run,)).fetchone()
    rows = connection.execute("SELECT outcomes FROM removal_batch WHERE run = ?", (run,)).fetchall()
    return Tally.of(journal.outcomes("".join(letters for (letters,) in rows)), cancelled=bool(by_cancel))


def _newest(connection: sqlite3.Connection, type_: str, id_: str) -> tuple[int, bool] | None:
    """The newest version of a resource, and whether it is a deletion."""
    number = number_of(connection, type_)
    if number is None:
        return None
    row = connection.execute(
        "SELECT version, deleted FROM resource WHERE id = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT 1",
        (id_, first_of(number), first_of(number + 1)),
    ).fetchone()
    return None if row is None else (int(row[0]), bool(row[1]))


def _matching(
    connection: sqlite3.Connection,
    between: tuple[int, int],
    target: Target,
    base_urls: Collection[str],
    lookups: CriteriaLookups,
) -> Iterator[Version]:
    """Current versions between two keys that meet the target: of all, or of the candidates that an index finds."""
    filters = Filters(target.filters, target.type, base_urls)
    source = "resource"
    if (found := candidates(connection, lookups, target.filters, target.type, between)) is not None:
        empty_keys(connection, _FOUND)
        found.collect(connection, _FOUND, *between)
        source = f"temp.{_FOUND} CROSS JOIN resource USING (seq)"
    rows = connection.execute(
        f"SELECT id, version, CAST(json AS BLOB) FROM {source} WHERE seq BETWEEN ? AND ?"  # noqa: S608 - our own words
        f" AND valid_to = {CURRENT} AND deleted = 0 ORDER BY seq",
        between,
    )
    for id_, version, text in rows:
        if filters.passes(text):
            yield Version(id_, str(version))
