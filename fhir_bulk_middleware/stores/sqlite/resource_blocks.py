"""Reads resources in SQLite patient by patient, for output that is organised by patient.

The compartment table keeps each patient's versions together, type after type, so a patient costs one look-up per type and the
patient's own versions. Patients come in the order in which the store first saw them.
"""

import json
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from fhir_bulk_middleware.contract.query import Block, Compartments, Page, Query
from fhir_bulk_middleware.stores.sqlite.resource_reading import span_of
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT, number_of

__all__ = ["blocks"]

_PATIENT = "Patient"
_EVERY = "SELECT number, reference FROM owner WHERE reference GLOB 'Patient/*' AND number >= ? ORDER BY number"
_LISTED = (
    "SELECT number, reference FROM owner WHERE reference IN (SELECT value FROM json_each(?)) AND number >= ? ORDER BY number"
)


@dataclass(frozen=True, slots=True)
class _Run:
    """The keys of a type's versions that a query can hold."""

    type: str
    first: int
    last: int


def blocks(connection: sqlite3.Connection, queries: Sequence[Query], after: str | None) -> Generator[Block]:
    """See `SupportsOrganising`."""
    runs = _runs(connection, queries)
    if not runs:
        return
    page_bytes, as_of = queries[0].page_bytes, queries[0].as_of
    living = f"valid_to > {CURRENT - 1 if as_of is None else as_of} AND deleted = 0"
    select = (
        "SELECT compartment.seq, resource.json FROM compartment CROSS JOIN resource ON resource.seq = compartment.seq"  # noqa: S608
        f" WHERE compartment.owner = ? AND compartment.seq BETWEEN ? AND ? AND {living} ORDER BY compartment.seq"
    )
    begin = (0, -1, 0) if after is None else _place(after)
    for number, reference in _owners(connection, queries[0], begin[0]):
        for place, run in enumerate(runs):
            if (number, place) < begin[:2]:
                continue
            first = max(run.first, begin[2] + 1) if (number, place) == begin[:2] else run.first
            for page, seq in _paged(connection.execute(select, (number, first, run.last)), page_bytes):
                yield Block(reference, run.type, page, json.dumps([number, place, seq]))


def _runs(connection: sqlite3.Connection, queries: Sequence[Query]) -> list[_Run]:
    """The run of each type: Patient first, then in the order of the store."""
    found = []
    for query in queries:
        span = span_of(connection, query, None)
        number = number_of(connection, query.type)
        if span is not None and number is not None:
            found.append((query.type != _PATIENT, number, _Run(query.type, *span)))
    return [run for *_, run in sorted(found, key=lambda entry: entry[:2])]


def _owners(connection: sqlite3.Connection, query: Query, begin: int) -> list[tuple[int, str]]:
    selection = query.selection
    if isinstance(selection, Compartments):
        patients = [reference for reference in sorted(selection.references) if reference.startswith("Patient/")]
        rows = connection.execute(_LISTED, (json.dumps(patients), begin))
    else:
        rows = connection.execute(_EVERY, (begin,))
    return [(number, reference.decode()) for number, reference in rows]


def _paged(rows: sqlite3.Cursor, page_bytes: int) -> Iterator[tuple[Page, int]]:
    """Pages of rows, each with the key of its last row. A patient has few rows of a type, so they are read at once."""
    lines: list[bytes] = []
    size = last = 0
    for seq, line in rows.fetchall():
        if lines and size + len(line) + 1 > page_bytes:
            yield _page(lines), last
            lines, size = [], 0
        lines.append(line)
        size, last = size + len(line) + 1, seq
    if lines:
        yield _page(lines), last


def _page(lines: list[bytes]) -> Page:
    return Page(b"\n".join((*lines, b"")), len(lines), "")


def _place(cursor: str) -> tuple[int, int, int]:
    number, place, seq = json.loads(cursor)
    return number, place, seq
