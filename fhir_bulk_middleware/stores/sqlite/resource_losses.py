"""Reads in SQLite what a selection lost: resources that were deleted, and resources that live but left it (law 34)."""

import sqlite3
from collections.abc import Callable, Generator
from dataclasses import replace

from fhir_bulk_middleware.contract.query import Compartments, Deletions, EveryPatient, Everything, NoPatient, Query
from fhir_bulk_middleware.stores.sqlite.resource_reading import Span, read_span
from fhir_bulk_middleware.stores.sqlite.resource_schema import COUNTER_BITS, first_of

__all__ = ["deletions", "left"]

_PER_PAGE = 1_000

Owners = Callable[[bytes], frozenset[str]]
"""Computes the compartments of a resource from its text."""

# The versions of a resource before its deletion. A version that was superseded in its own transaction was never current.
_FORMER = """
SELECT in_patient, json FROM resource
WHERE id = ? AND seq > ? AND seq < ? AND deleted = 0 AND valid_to > ? AND valid_to > last_updated
"""

# What moved within the span, by its last move there, with its version as of `since` and that as of the cut. A resource that
# was deleted and created again moved, too.
_MOVED = """
SELECT m.seq, m.id, former.json, now.json FROM resource AS m INDEXED BY resource_moved
CROSS JOIN resource AS now ON now.id = m.id AND now.seq BETWEEN m.seq AND {last}
    AND now.valid_to > {as_of} AND now.deleted = 0{now}
CROSS JOIN resource AS former ON former.id = m.id AND former.seq > {begin} AND former.seq < {first}
    AND former.valid_to > {since} AND former.deleted = 0 AND former.owners <> now.owners{former}
WHERE m.moved = 1 AND m.seq > ? AND m.seq <= {last} AND NOT EXISTS (
    SELECT 1 FROM resource AS later WHERE later.id = m.id AND later.seq > m.seq AND later.seq <= {last} AND later.moved = 1
) ORDER BY m.seq LIMIT {limit}
"""


def deletions(connection: sqlite3.Connection, query: Query, after: str | None, owners: Owners) -> Generator[Deletions]:
    """The deletions of a query that are current as of its cut, by `seq`.

    A deletion belongs to the compartments that the resource was in since the window began (law 34). They are computed from its
    versions, so the cost grows with the number of deletions and not with the resources of the members.

    Args:
        connection: the reader's own connection.
        query: the type, selection and window.
        after: the cursor to read on from.
        owners: computes the compartments of a resource from its text.
    """
    span = read_span(connection, replace(query, selection=Everything()), after)
    if span is None:
        return
    select, seq = span.select("seq, id", deleted=True), span.first - 1
    while rows := connection.execute(f"{select} LIMIT {_PER_PAGE}", (seq,)).fetchall():
        seq = rows[-1][0]
        told = [id_.decode() for deleted_at, id_ in rows if _was_selected(connection, query, (deleted_at, id_), owners)]
        if told:
            yield Deletions(tuple(f"{query.type}/{id_}" for id_ in told), str(seq))


def _was_selected(connection: sqlite3.Connection, query: Query, deleted: tuple[int, bytes], owners: Owners) -> bool:
    """Whether any version of a resource that was current since the window began lay in the selection."""
    selection = query.selection
    if isinstance(selection, Everything):
        return True
    seq, id_ = deleted
    number = seq >> COUNTER_BITS
    former = connection.execute(_FORMER, (id_.decode(), first_of(number), seq, query.window.since or 0)).fetchall()
    if isinstance(selection, EveryPatient):
        return any(in_patient for in_patient, _ in former)
    if isinstance(selection, NoPatient):
        return any(not in_patient for in_patient, _ in former)
    return any(not owners(text).isdisjoint(selection.references) for _, text in former)


def left(connection: sqlite3.Connection, query: Query, after: str | None, owners: Owners) -> Generator[Deletions]:
    """What left the selection of a query, by `seq`; see `SupportsLeft`.

    Only versions with other compartments than the version before are read, so the cost grows with the number of these.

    Args:
        connection: the reader's own connection.
        query: the type, selection and window.
        after: the cursor to read on from.
        owners: computes the compartments of a resource from its text.
    """
    since = query.window.since
    span = read_span(connection, replace(query, selection=Everything()), None)
    if span is None or since is None or isinstance(query.selection, Everything):
        return
    select, seq = _moved(span, query), span.first - 1 if after is None else int(after)
    while rows := connection.execute(select, (seq,)).fetchall():
        seq = rows[-1][0]
        told = [id_.decode() for _, id_, former, now in rows if _has_left(query, former, now, owners)]
        if told:
            yield Deletions(tuple(f"{query.type}/{id_}" for id_ in told), str(seq))


def _moved(span: Span, query: Query) -> str:
    former = now = ""
    if not isinstance(query.selection, Compartments):
        was_in_patient = isinstance(query.selection, EveryPatient)
        former, now = f" AND former.in_patient = {was_in_patient:d}", f" AND now.in_patient = {not was_in_patient:d}"
    return _MOVED.format(
        begin=first_of(span.number),
        first=span.first,
        last=span.last,
        as_of=span.as_of,
        since=query.window.since,
        former=former,
        now=now,
        limit=_PER_PAGE,
    )


def _has_left(query: Query, former: bytes, now: bytes, owners: Owners) -> bool:
    selection = query.selection
    if not isinstance(selection, Compartments):
        return True
    return not owners(former).isdisjoint(selection.references) and owners(now).isdisjoint(selection.references)
