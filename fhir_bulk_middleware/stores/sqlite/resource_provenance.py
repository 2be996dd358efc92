"""Reads Provenance in SQLite by its targets.

A table holds the targets of each version of a Provenance, so one or two look-ups say whether a target is exported. The target
resources are read only if a filter has to see them.
"""

import sqlite3
from collections.abc import Collection, Generator, Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Everything, Page, ProvenanceTarget, Query
from fhir_bulk_middleware.stores.sqlite.resource_reading import add_members, empty_keys, read_pages, span_of
from fhir_bulk_middleware.stores.sqlite.resource_schema import CURRENT

__all__ = ["provenance"]

_CHOSEN = """
CREATE TABLE temp.chosen (type TEXT, first INTEGER, last INTEGER, in_patient INTEGER, listed INTEGER, filter INTEGER)
"""
_MEMBERS = "about"
_SELECT = """
SELECT p.seq, p.json FROM resource AS p
WHERE p.seq > ? AND p.seq <= {last} AND p.valid_to > {as_of} AND p.deleted = 0 AND EXISTS (
    SELECT 1 FROM target CROSS JOIN temp.chosen ON chosen.type = target.type
    CROSS JOIN resource AS r ON r.id = target.id AND r.seq BETWEEN chosen.first AND chosen.last
    WHERE target.seq = p.seq AND r.valid_to > {as_of} AND r.deleted = 0
        AND (NOT chosen.in_patient OR r.in_patient)
        AND (NOT chosen.listed OR r.seq IN (SELECT seq FROM temp.about))
        AND (chosen.filter IS NULL OR passes(chosen.filter, r.json)) {newest}
) ORDER BY p.seq
"""
_NEWEST = """
        AND NOT EXISTS (
            SELECT 1 FROM target AS other CROSS JOIN resource AS q ON q.seq = other.seq
            WHERE other.type = target.type AND other.id = target.id AND other.seq > p.seq AND other.seq <= {last}
                AND q.valid_to > {as_of} AND q.deleted = 0
        )
"""


def provenance(
    connection: sqlite3.Connection,
    query: Query,
    targets: Sequence[ProvenanceTarget],
    base_urls: Collection[str],
    after: str | None,
    *,
    latest: bool,
) -> Generator[Page]:
    """See `SupportsProvenance`."""
    span = span_of(connection, replace(query, selection=Everything()), after)
    if span is None:
        return
    _choose(connection, targets, base_urls)
    first, last = span
    words = {"last": last, "as_of": CURRENT - 1 if query.as_of is None else query.as_of}
    select = _SELECT.format(**words, newest=_NEWEST.format(**words) if latest else "")
    yield from read_pages(connection, select, first - 1, query.page_bytes)


def _choose(connection: sqlite3.Connection, targets: Sequence[ProvenanceTarget], base_urls: Collection[str]) -> None:
    """Fill `temp.chosen` with the keys that each target's query can hold, and the conditions on them."""
    connection.execute("DROP TABLE IF EXISTS temp.chosen")
    connection.execute(_CHOSEN)
    empty_keys(connection, _MEMBERS)
    filters: list[Filters] = []
    for target in targets:
        query = target.query
        span = span_of(connection, query, None)
        if span is None:
            continue
        found = Filters(target.filters, query.type, base_urls)
        selection = query.selection
        listed, in_patient = isinstance(selection, Compartments), isinstance(selection, EveryPatient)
        if isinstance(selection, Compartments):
            add_members(connection, _MEMBERS, selection, span)
        number = len(filters) if found else None
        connection.execute("INSERT INTO temp.chosen VALUES (?, ?, ?, ?, ?, ?)", (query.type, *span, in_patient, listed, number))
        filters.extend([found] if found else [])
    connection.create_function("passes", 2, lambda number, text: filters[number].passes(text.encode()))
