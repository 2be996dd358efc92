"""Writes batches of drafts into a resource store: at the instant of each batch, or at the instants that the resources have."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.stores.drafting import Drafted, MalformedLine
from fhir_bulk_middleware.stores.drafts import Draft
from fhir_bulk_middleware.stores.history_lines import History
from fhir_bulk_middleware.stores.sqlite.database import Database
from fhir_bulk_middleware.stores.sqlite.resource_writing import Writing

__all__ = ["load_history", "load_now"]


def load_now(database: Database, clock: Clock, batches: Iterable[Drafted], most: int, progress: Callable[[int], None]) -> int:
    """Write resources in transactions of `most`, whose instant they get; return the number of resources.

    If an error ends the batches, those before it are written.
    """
    kept = 0
    waiting: list[Draft] = []

    def write() -> None:
        nonlocal kept, waiting
        drafts, waiting = waiting[:most], waiting[most:]
        drafts.sort(key=_type)  # a type's rows are neighbours; within a transaction all have one instant
        database.write_here(lambda connection: _write_now(connection, clock, drafts))
        kept += len(drafts)
        progress(kept)

    with database.roomy():
        try:
            for batch in batches:
                waiting += [new for _, new in batch]
                while len(waiting) >= most:
                    write()
        finally:
            if waiting:
                write()
    return kept


def _write_now(connection: sqlite3.Connection, clock: Clock, drafts: Sequence[Draft]) -> None:
    writing = Writing(connection, clock)
    writing.expect(drafts)
    writing.put_all(drafts)
    writing.finish()


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
    history = History(batches)
    kept = 0
    with database.roomy():
        while history:
            kept += database.write_here(lambda connection: _write(connection, clock, history, least))
            progress(kept)
    return kept


def _write(connection: sqlite3.Connection, clock: Clock, history: History, least: int) -> int:
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
