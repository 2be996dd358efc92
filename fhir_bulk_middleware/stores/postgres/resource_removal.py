"""Removes resources in PostgreSQL: one, all matches of criteria, or a frozen batch, each in one write transaction.

Nothing is locked but the resources that are removed. Whether the matches of criteria are still all matches is asked after they
are locked, of what was written since they were looked for. What another transaction commits after that comes after the removal.
"""

import copy
from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

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
from fhir_bulk_middleware.stores.postgres import outbox
from fhir_bulk_middleware.stores.postgres.resource_criteria import CriteriaIndex
from fhir_bulk_middleware.stores.postgres.resource_steps import fitting
from fhir_bulk_middleware.stores.postgres.resource_types import first_of
from fhir_bulk_middleware.stores.postgres.resource_view import Database
from fhir_bulk_middleware.stores.postgres.resource_writing import CURRENT, Writing
from fhir_bulk_middleware.stores.postgres.session import Session
from fhir_bulk_middleware.stores.removal_journal import ids_of

__all__ = ["Found", "Removing", "end_run", "find"]

_Row = tuple[int, bytes, int, bytes]
"""Key, id, number and text of a version."""

_ROWS = 1_000

_MARK = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_CURRENT = fitting(
    "seq, id, number, json",
    f"""
        SELECT * FROM $resource AS r
        WHERE type = %(type)s AND ended = {CURRENT} AND NOT deleted AND seq > %(after)s {{more}} ORDER BY seq LIMIT {_ROWS}
    """,  # noqa: S608 - constants of ours only
)
_WITH_IDS = "AND id = ANY(%(ids)s::text[])"
_WITH_KEYS = "AND seq = ANY(%(keys)s::bigint[])"
_SINCE = "AND writer >= %(mark)s::xid8"
_RUN_LOCK = "SELECT pg_advisory_xact_lock{shared}(hashtextextended(%(name)s, 0))"
_ENDED = "SELECT cancelled FROM $resource_removal_run WHERE run = %(run)s"
_JOURNALLED = "SELECT outcomes FROM $resource_removal WHERE run = %(run)s AND number = %(number)s"


class Found:
    """The matches of a target, by id, in the order in which they were found.

    Attributes:
        versions: the matches.
        mark: the id of a transaction. All that was committed by an earlier one was seen.
    """

    def __init__(self, target: Target, base_urls: Collection[str]) -> None:
        self.versions: dict[str, Version] = {}
        self.mark = ""
        self._filters = Filters(target.filters, target.type, base_urls)

    def add(self, rows: Sequence[_Row]) -> list[str]:
        """Add those of the current versions that match; the ids of matches that are new."""
        new = []
        for _, id_, number, text in rows:
            key = id_.decode()
            if not self._filters.passes(text):
                self.versions.pop(key, None)
                continue
            if self.versions.get(key) != (version := Version(key, str(number))):
                new.append(key)
                self.versions[key] = version
        return new

    def copy(self) -> "Found":
        """The same matches, for a transaction that may be repeated."""
        again = copy.copy(self)
        again.versions = {**self.versions}
        return again

    def matches(self, at_most: int) -> Matches:
        """The matches as a host gets them."""
        return Matches(len(self.versions), tuple(self.versions.values())[:at_most], self.mark)


async def find(database: Database, target: Target, base_urls: Collection[str], criteria: CriteriaIndex) -> Found:
    """The matches, in short statements: what is written meanwhile is found or not, and is found by `Removing` in any case."""
    found = Found(target, base_urls)
    found.mark = await database.connections.read(lambda session: session.one(_MARK))
    number = await database.types.number(target.type)
    if number is not None:
        async for rows in _current(database, number, target, criteria):
            found.add(rows)
    return found


async def _current(database: Database, number: int, target: Target, criteria: CriteriaIndex) -> AsyncIterator[list[_Row]]:
    """The current versions that may match."""
    keys = await criteria.fewest(target.filters, target.type, number, (first_of(number) + 1, first_of(number + 1) - 1))
    text, after = _CURRENT.format(more="" if keys is None else _WITH_KEYS), 0
    while keys is None or keys:
        some = None if keys is None else keys[:_ROWS]
        values = {"type": number, "after": after, "keys": some}
        rows: list[_Row] = await database.connections.read(partial(Session.lines, text=text, values=values))
        yield rows
        if rows:
            after = rows[-1][0]
        elif some:
            after = some[-1]
        else:
            return
        keys = None if keys is None else keys[bisect_right(keys, after) :]


class Removing:
    """One write transaction that removes resources, and reads in the same transaction what it decides by.

    Args:
        session: in a write transaction.
        writing: writes in the same transaction.
        number: the number of the type.
        note: the note to record the removals under; empty to record nothing.
    """

    def __init__(self, session: Session, writing: Writing, number: int, note: str = "") -> None:
        self._session = session
        self._writing = writing
        self._number = number
        self._note = note
        self._removed: list[Current] = []

    def one(self, type_: str, id_: str, if_version: Collection[str] | None) -> Removal:
        """Remove a resource if it is at one of the versions; see `SupportsDelete.remove`."""
        self._writing.lock([(type_, id_)])
        newest = self._writing.newest((type_, id_))
        if newest is None:
            return NeverExisted()
        version, deleted = newest
        if deleted:
            return AlreadyDeleted(str(version - 1))
        if if_version is not None and str(version) not in if_version:
            return VersionMismatch()
        return Removed(self._delete(type_, id_))

    def all(self, target: Target, matches: Matches, base_urls: Collection[str]) -> Sequence[Current] | None:
        """Remove the matches if they have not changed."""
        if matches.count != len(matches.versions):
            raise ValueError("to remove all matches, all of them must have been found")
        found = Found(target, base_urls)
        found.versions, found.mark = {match.id: match for match in matches.versions}, matches.mark
        return self._remove(target, found) if self._unchanged(target, found) and not self._further(target, found) else None

    def matching(
        self, target: Target, found: Found, at_most: int, if_version: frozenset[str] | None
    ) -> Sequence[Current] | Matches:
        """Lock the matches and remove them; see `SupportsLockedDelete`.

        Those that changed since they were found are looked at again, until there is none that is not locked.
        """
        while True:
            if not self._unchanged(target, found) or self._further(target, found):
                continue
            matches = found.matches(at_most)
            return self._remove(target, found) if matches.removable(if_version) else matches

    def batch(self, batch: Batch) -> Sequence[DeleteOutcome] | None:
        """Remove a frozen batch and journal it, unless it is in the journal or the run has ended."""
        place = {"run": batch.id.run, "number": batch.id.number}
        _lock_run(self._session, batch.id.run, shared=True)
        if self._session.row(_ENDED, place) is not None:
            return None
        if (row := self._session.row(_JOURNALLED, place)) is not None:
            return journal.outcomes(row[0])
        self._writing.expect([(batch.type, frozen.id) for frozen in batch.versions], texts=True)
        outcomes = [batch_outcome(self.one(batch.type, frozen.id, {frozen.version})) for frozen in batch.versions]
        self._session.insert("resource_removal", [{**place, "outcomes": journal.letters(outcomes)}])
        return outcomes

    def finish(self) -> None:
        """Report the removals in the transaction that makes them (law 37)."""
        if self._note and self._removed:
            ids = [resource.id for resource in self._removed]
            outbox.add(self._session, self._note, self._writing.instant, self._removed[0].type, ids)

    def _unchanged(self, target: Target, found: Found) -> bool:
        """Lock the matches; whether each is at its version. Those that are not do not count as found any more."""
        self._writing.lock([(target.type, id_) for id_ in found.versions])
        changed = [
            id_
            for id_, match in found.versions.items()
            if self._writing.newest((target.type, id_)) != (int(match.version), False)
        ]
        for id_ in changed:
            del found.versions[id_]
        return not changed

    def _further(self, target: Target, found: Found) -> bool:
        """Look at what was written since the mark; whether there are matches that were not found before."""
        further, after = False, 0
        values = {"type": self._number, "mark": found.mark, "ids": ids_of(target)}
        text = _CURRENT.format(more=_SINCE if values["ids"] is None else f"{_SINCE} {_WITH_IDS}")
        while rows := self._session.lines(text, values | {"after": after}):
            further = bool(found.add(rows)) or further
            after = rows[-1][0]
        return further

    def _remove(self, target: Target, found: Found) -> Sequence[Current]:
        self._writing.expect([(target.type, id_) for id_ in found.versions], texts=True)
        return [self._delete(target.type, id_) for id_ in found.versions]

    def _delete(self, type_: str, id_: str) -> Current:
        removed = self._writing.delete(type_, id_)
        if removed is None:
            raise RuntimeError(f"{type_}/{id_} went away within a transaction")
        self._removed.append(removed.as_current())
        return self._removed[-1]


def end_run(session: Session, run: str, *, cancelled: bool) -> Tally:
    """End a run and count its journal."""
    _lock_run(session, run, shared=False)
    found = session.row(_ENDED, {"run": run})
    if found is None:
        session.insert("resource_removal_run", [{"run": run, "cancelled": cancelled}])
    rows = session.rows("SELECT outcomes FROM $resource_removal WHERE run = %(run)s", {"run": run})
    by_cancel = cancelled if found is None else bool(found[0])
    return Tally.of(journal.outcomes("".join(letters for (letters,) in rows)), cancelled=by_cancel)


def _lock_run(session: Session, run: str, *, shared: bool) -> None:
    """Lock a run until the transaction ends: batches share it, so that the end of the run waits for those under way."""
    name = f"{session.channel} removal {run}"
    session.row(_RUN_LOCK.format(shared="_shared" if shared else ""), {"name": name})
