"""The set of references that a job's context follows, in a temporary file where memory would grow."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Self

from fhir_bulk_middleware.identifiers import is_resource_id

__all__ = ["Closure"]

_SCHEMA = """
CREATE TABLE named (type TEXT, id TEXT, state INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE INDEX unread ON named (type) WHERE state = 0
"""
_UNREAD, _CONTEXT, _OTHER = 0, 1, 2
_CACHE_KIB = 4_096


class Closure:
    """References, and which of them are context. A context: its temporary file goes with it.

    SQLite keeps a database without a name in memory as long as it is small, and in a temporary file beyond that, so memory stays
    flat however many references there are.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)

    def __enter__(self) -> Self:
        self._database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", *_SCHEMA.split(";")):
            self._database.execute(statement)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def add(self, references: Iterable[str]) -> None:
        """Add references that are still to be read; those that are known already stay as they are."""
        parted = (reference.partition("/") for reference in references)
        named = [(type_, id_) for type_, _, id_ in parted if is_resource_id(id_)]
        self._database.executemany("INSERT OR IGNORE INTO named (type, id) VALUES (?, ?)", named)

    def unread(self, at_most: int) -> tuple[str, list[str]] | None:
        """A type with ids that are still to be read, in ascending order; None if all were read."""
        row = self._database.execute("SELECT type FROM named WHERE state = 0 LIMIT 1").fetchone()
        if row is None:
            return None
        ids = self._database.execute("SELECT id FROM named WHERE type = ? AND state = 0 ORDER BY id LIMIT ?", (*row, at_most))
        return row[0], [id_ for (id_,) in ids]

    def settle(self, type_: str, ids: Iterable[str], context: Collection[str]) -> None:
        """Record that these ids were read, and which of them are context."""
        self._database.executemany(
            "UPDATE named SET state = ? WHERE type = ? AND id = ?",
            [(_CONTEXT if id_ in context else _OTHER, type_, id_) for id_ in ids],
        )

    def keep(self, reference: str) -> None:
        """Add a reference that is known to belong here."""
        type_, _, id_ = reference.partition("/")
        self._database.execute("INSERT OR REPLACE INTO named VALUES (?, ?, ?)", (type_, id_, _CONTEXT))

    def drop(self, reference: str) -> None:
        """Take a reference out."""
        type_, _, id_ = reference.partition("/")
        self._database.execute("DELETE FROM named WHERE type = ? AND id = ?", (type_, id_))

    def holds(self, reference: str) -> bool:
        """Whether a reference was read and is context."""
        type_, _, id_ = reference.partition("/")
        row = self._database.execute("SELECT state FROM named WHERE type = ? AND id = ?", (type_, id_)).fetchone()
        return row is not None and row[0] == _CONTEXT

    def types(self) -> list[str]:
        """The types of which there is context, in order."""
        rows = self._database.execute("SELECT DISTINCT type FROM named WHERE state = ? ORDER BY type", (_CONTEXT,))
        return [type_ for (type_,) in rows.fetchall()]

    def ids(self, type_: str, size: int) -> Iterator[list[str]]:
        """The ids of the context of a type in ascending order, at most `size` at a time."""
        last = ""
        while rows := self._database.execute(
            "SELECT id FROM named WHERE type = ? AND state = ? AND id > ? ORDER BY id LIMIT ?", (type_, _CONTEXT, last, size)
        ).fetchall():
            last = rows[-1][0]
            yield [id_ for (id_,) in rows]
