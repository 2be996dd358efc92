"""Reads Provenance in SQLite by its targets.

A table holds the targets of each version of a Provenance, so one or two look-ups say whether a target is exported. The target
resources are read only if a filter has to see them. Where only targets count that entered the selection, the read goes the other
way: from what changed in the window to its Provenance, so that all other Provenance costs nothing (law 34).
"""

import sqlite3
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import (
    Compartments,
    EveryPatient,
    Everything,
    NoPatient,
    Page,
    ProvenanceTarget,
    Query,
    Selection,
)
from fhir_bulk_middleware.stores.sqlite.resource_reading import add_members, empty_keys, read_pages, span_of
from fhir_bulk_middleware.stores.sqlite.resource_schema import COUNTER_BITS, CURRENT, first_of

__all__ = ["provenance"]

_CHOSEN = """
CREATE TABLE temp.chosen (type TEXT, first INTEGER, last INTEGER, in_patient INTEGER, listed INTEGER, filter INTEGER)
"""
_MEMBERS = "about"
_CHANGED = "changed"
_FOUND = "entered"
_NEWEST = """
        AND NOT EXISTS (
            SELECT 1 FROM target AS other CROSS JOIN resource AS q ON q.seq = other.seq
            WHERE other.type = target.type AND other.id = target.id AND other.seq > p.seq AND other.seq <= {last}
                AND q.valid_to > {as_of} AND q.deleted = 0
        )
"""
_SELECT = """
SELECT p.seq, p.json FROM resource AS p
WHERE p.seq > ? AND p.seq <= {last} AND p.valid_to > {as_of} AND p.deleted = 0
    AND (p.seq IN (SELECT seq FROM temp.entered) OR EXISTS (
    SELECT 1 FROM target CROSS JOIN temp.chosen ON chosen.type = target.type
    CROSS JOIN resource AS r ON r.id = target.id AND r.seq BETWEEN chosen.first AND chosen.last
    WHERE target.seq = p.seq AND r.valid_to > {as_of} AND r.deleted = 0
        AND (chosen.in_patient IS NULL OR r.in_patient = chosen.in_patient)
        AND (NOT chosen.listed OR r.seq IN (SELECT seq FROM temp.about))
        AND (chosen.filter IS NULL OR passes(chosen.filter, r.json)) {newest}
)) ORDER BY p.seq
"""
_SELECT_ENTERED = """
SELECT p.seq, p.json FROM temp.entered CROSS JOIN resource AS p ON p.seq = entered.seq WHERE p.seq > ? ORDER BY entered.seq
"""

# CASE makes SQLite look at the former version and the filter last, only of what has Provenance.
_ENTER = """
INSERT OR IGNORE INTO temp.entered SELECT p.seq FROM {source}
CROSS JOIN target ON target.type = ? AND target.id = r.id AND target.seq BETWEEN {begin} AND {last}
CROSS JOIN resource AS p ON p.seq = target.seq
WHERE r.seq BETWEEN {low} AND {high} AND r.valid_to > {as_of} AND r.deleted = 0 {selected}
    AND p.valid_to > {as_of} AND p.deleted = 0 {newest}
    AND CASE WHEN p.seq THEN {passes} AND NOT EXISTS (
        SELECT 1 FROM resource AS former
        WHERE former.id = r.id AND former.seq > {first_of_type} AND former.seq < r.seq
            AND former.last_updated <= {since} AND former.valid_to > {since} AND former.deleted = 0 AND {lay}
    ) END
"""


def provenance(
    connection: sqlite3.Connection,
    query: Query,
    targets: Sequence[ProvenanceTarget],
    base_urls: Collection[str],
    owners: Callable[[bytes], frozenset[str]],
    *,
    after: str | None,
    latest: bool,
) -> Generator[Page]:
    """See `SupportsProvenance`.

    Args:
        connection: the reader's own connection.
        query: the Provenance.
        targets: what it is about.
        base_urls: the base URLs under which absolute references lead to this store.
        owners: computes the compartments of a resource from its text.
        after: the cursor to read on from.
        latest: whether to give only the latest Provenance of each target.
    """
    span = span_of(connection, replace(query, selection=Everything()), after)
    if span is None:
        return
    first, last = span
    words: dict[str, object] = {"begin": first, "last": last, "as_of": CURRENT - 1 if query.as_of is None else query.as_of}
    words["newest"] = _NEWEST.format(**words) if latest else ""
    choice = _Choice(connection, base_urls, owners)
    for target in targets:
        if target.entered:
            choice.enter(target, words)
        else:
            choice.add(target)
    select = _SELECT.format(**words) if choice.chosen else _SELECT_ENTERED
    yield from read_pages(connection, select, first - 1, query.page_bytes)


class _Choice:
    """The targets, in temporary tables: the keys that a query can hold and the conditions on them; and what was found already.

    Attributes:
        chosen: whether there are conditions, and not only found Provenance.
    """

    def __init__(
        self, connection: sqlite3.Connection, base_urls: Collection[str], owners: Callable[[bytes], frozenset[str]]
    ) -> None:
        self._connection = connection
        self._base_urls = base_urls
        self._filters: list[Filters] = []
        self._selections: list[Selection] = []
        self.chosen = False
        connection.execute("DROP TABLE IF EXISTS temp.chosen")
        connection.execute(_CHOSEN)
        empty_keys(connection, _MEMBERS)
        empty_keys(connection, _FOUND)
        filters, selections = self._filters, self._selections

        def lay_in(number: int, text: bytes) -> bool:
            selection = selections[number]
            return isinstance(selection, Compartments) and not owners(text).isdisjoint(selection.references)

        connection.create_function("passes", 2, lambda number, text: filters[number].passes(text.encode()))
        connection.create_function("lay_in", 2, lambda number, text: lay_in(number, text.encode()))

    def add(self, target: ProvenanceTarget) -> None:
        """Choose a target's resources."""
        query = target.query
        span = span_of(self._connection, query, None)
        if span is None:
            return
        listed = isinstance(query.selection, Compartments)
        if isinstance(query.selection, Compartments):
            add_members(self._connection, _MEMBERS, query.selection, span)
        row = (query.type, *span, _IN_PATIENT.get(type(query.selection)), listed, self._filter(target))
        self._connection.execute("INSERT INTO temp.chosen VALUES (?, ?, ?, ?, ?, ?)", row)
        self.chosen = True

    def enter(self, target: ProvenanceTarget, words: dict[str, object]) -> None:
        """Find the Provenance of those of a target's resources that entered the selection within the window."""
        query = target.query
        span = span_of(self._connection, query, None)
        if span is None:
            return
        source, selected, lay = "resource AS r", "", "1"
        in_patient, number = _IN_PATIENT.get(type(query.selection)), self._filter(target)
        if isinstance(query.selection, Compartments):
            empty_keys(self._connection, _CHANGED)
            add_members(self._connection, _CHANGED, query.selection, span)
            source = "temp.changed CROSS JOIN resource AS r ON r.seq = changed.seq"
            lay = f"(former.owners = r.owners OR lay_in({len(self._selections)}, former.json))"
            self._selections.append(query.selection if target.before is None else target.before)
        elif in_patient is not None:
            selected, lay = f"AND r.in_patient = {in_patient}", f"former.in_patient = {in_patient}"
        statement = _ENTER.format(
            **words,
            source=source,
            low=span[0],
            high=span[1],
            selected=selected,
            passes="1" if number is None else f"passes({number}, r.json)",
            first_of_type=first_of(span[0] >> COUNTER_BITS),
            since=0 if query.window.since is None else query.window.since,
            lay=lay,
        )
        self._connection.execute(statement, (query.type,))

    def _filter(self, target: ProvenanceTarget) -> int | None:
        """The number of a target's filter, None if it has none."""
        found = Filters(target.filters, target.query.type, self._base_urls)
        if not found:
            return None
        self._filters.append(found)
        return len(self._filters) - 1


_IN_PATIENT: dict[type[Selection], int] = {EveryPatient: 1, NoPatient: 0}
