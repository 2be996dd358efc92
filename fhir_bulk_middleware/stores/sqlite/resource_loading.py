"""Writes batches of drafts into a resource store: at the instant of each batch, or at the instants that the resources have."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator

from fhir_bulk_middleware.instant import Clock, Instant, parse
from fhir_bulk_middleware.stores.sqlite.database import Database
from fhir_bulk_middleware.stores.sqlite.drafting import Drafted, MalformedLine
from fhir_bulk_middleware.stores.sqlite.resource_writing import Draft, Writing

__all__ = ["load_history", "load_now"]


def load_now(database: Database, clock: Clock, batches: Iterable[Drafted], progress: Callable[[int], None]) -> int:
    """Write each batch in a transaction, whose instant its resources get; return the number of resources."""
    kept = 0
    for batch in batches:
        # A type's rows are neighbours; within a transaction all have one instant.
        drafts = sorted((new for _, new in batch), key=_type)

        def write(connection: sqlite3.Connection, drafts: Iterable[Draft] = drafts) -> None:
            writing = Writing(connection, clock)
            for new in drafts:
                writing.put(new)
            writing.finish()

        database.write_here(write)
        kept += len(drafts)
        progress(kept)
    return kept


def load_history(
    database: Database, clock: Clock, batches: Iterable[Drafted], least: int, progress: Callable[[int], None]
) -> int:
    """Write resources at their own `meta.lastUpdated`, which must ascend; return the number of resources.

    A transaction has at least `least` resources, and all resources of an instant: two transactions never have the same one
    (law 4).

    Raises:
        MalformedLine: `meta.lastUpdated` is missing or malformed, lies in the future, or is not later than the store's latest
            instant.
    """
    history = _History(batches)
    kept = 0
    while history:
        kept += database.write_here(lambda connection: _write(connection, clock, history, least))
        progress(kept)
    return kept


class _History:
    """The drafts with their numbers and instants, with a look at the next one.

    Attributes:
        number: the number of the next line.
        new: its draft; None after the last one.
        instant: its instant.
    """

    number: int
    new: Draft | None
    instant: Instant

    def __init__(self, batches: Iterable[Drafted]) -> None:
        self._lines: Iterator[tuple[int, Draft]] = (line for batch in batches for line in batch)
        self.advance()

    def __bool__(self) -> bool:
        return self.new is not None

    def advance(self) -> None:
        """Go to the next line."""
        self.number, self.new = next(self._lines, (0, None))
        if self.new is not None:
            self.instant = self._instant(self.new.last_updated)

    def _instant(self, text: str | None) -> Instant:
        if text is None:
            raise MalformedLine(self.number, "meta.lastUpdated: is missing; without it a resource cannot keep it")
        try:
            return parse(text)
        except ValueError as error:
            raise MalformedLine(self.number, f"meta.lastUpdated: {error}") from None


def _write(connection: sqlite3.Connection, clock: Clock, history: _History, least: int) -> int:
    writing, written, instant = Writing(connection, clock), 0, None
    while history.new is not None and (written < least or history.instant == instant):
        if history.instant != instant:
            instant = history.instant
            try:
                writing.continue_at(instant)
            except ValueError as error:
                raise MalformedLine(history.number, str(error)) from None
        writing.put(history.new)
        written += 1
        history.advance()
    writing.finish()
    return written


def _type(new: Draft) -> str:
    return new.canonical.type
