"""Reads in PostgreSQL what a selection lost: resources that were deleted, and resources that live but left it (law 34)."""

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from fhir_bulk_middleware.contract.query import Compartments, Deletions, EveryPatient, Everything, NoPatient, Query, Selection
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span, View, at
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["deletions", "left", "lies"]

_KEYS_PER_STEP = 1_000

# As in `resource_reading`, keys are taken before it is asked which of their versions count.
_KEYS = "SELECT seq FROM $resource WHERE {kind} AND seq > %(after)s AND seq <= {last} ORDER BY seq LIMIT %(rows)s"
_OF_KEYS = "(SELECT * FROM $resource WHERE seq = ANY(%(keys)s::bigint[]) ORDER BY seq OFFSET 0)"

_DELETED = f"SELECT seq, id FROM {_OF_KEYS} AS r WHERE {{held}} AND {{within}} ORDER BY seq"  # noqa: S608 - constants of ours only
_FORMER = """
    SELECT former.id, former.in_patient, former.owners FROM unnest(%(ids)s::text[], %(keys)s::bigint[]) AS gone (id, seq)
    JOIN $resource AS former ON former.type = {number} AND former.id = gone.id AND former.seq < gone.seq
    WHERE NOT former.deleted AND {lived}
"""

# What moved within the window, by its last move there, with its version as of `since` and that as of the cut. A resource that
# was deleted and created again moved, too.
_MOVED = f"""
    SELECT m.seq, m.id, former.in_patient, former.owners, r.in_patient, r.owners FROM {_OF_KEYS} AS m
    JOIN $resource AS r ON r.type = {{number}} AND r.id = m.id AND r.seq >= m.seq AND NOT r.deleted AND {{held}} AND {{visible}}
    JOIN $resource AS former ON former.type = {{number}} AND former.id = m.id AND former.seq < m.seq AND NOT former.deleted
        AND {{then}} AND former.owners <> r.owners
    WHERE {{within}} AND NOT EXISTS (
        SELECT 1 FROM $resource AS later
        WHERE later.type = {{number}} AND later.id = m.id AND later.seq > m.seq AND later.moved AND {{within_later}}
    ) ORDER BY m.seq
"""  # noqa: S608 - constants of ours only


def lies(selection: Selection, owners: Collection[str], *, in_patient: bool) -> bool:
    """Whether a version lies in a selection."""
    match selection:
        case Compartments(references):
            return not references.isdisjoint(owners)
        case EveryPatient():
            return in_patient
        case NoPatient():
            return not in_patient
    return True


async def deletions(database: Database, query: Query, after: str | None) -> AsyncIterator[Deletions]:
    """The deletions of a query that are current as of its cut, by `seq`.

    A deletion belongs to the compartments that the resource was in since the window began (law 34). Its former versions say so;
    the cost grows with the number of deletions and not with the resources of the members.
    """
    whole = replace(query, selection=Everything())
    span = await database.span(whole, after, lambda view: f"r.deleted AND {view.held()} AND {view.within()}")
    if span is None:
        return
    view = span.view
    text = _DELETED.format(held=view.held(), within=view.within())
    async for keys in _keys(database, span, "deleted"):
        rows = await _read(database, text, {"keys": keys})
        wanted = None if isinstance(query.selection, Everything) else await _once_selected(database, view, query.selection, rows)
        told = tuple(f"{query.type}/{id_}" for _, id_ in rows if wanted is None or id_ in wanted)
        if told:
            yield Deletions(told, str(keys[-1]))


async def _once_selected(database: Database, view: View, selection: Selection, gone: list[tuple[int, str]]) -> set[str]:
    """Those of which any version that was current since the window began lay in the selection."""
    values = {"ids": [id_ for _, id_ in gone], "keys": [seq for seq, _ in gone]}
    former = await _read(database, _FORMER.format(number=view.number, lived=view.lived("former")), values)
    return {id_ for id_, in_patient, owners in former if lies(selection, owners, in_patient=in_patient)}


async def left(database: Database, query: Query, after: str | None) -> AsyncIterator[Deletions]:
    """What left the selection of a query, by `seq`; see `SupportsLeft`.

    Only versions with other compartments than the version before are read, so the cost grows with the number of these.
    """
    if query.window.since is None or isinstance(query.selection, Everything):
        return
    whole = replace(query, selection=Everything())
    span = await database.span(whole, after, lambda view: f"r.moved AND {view.within()}")
    if span is None:
        return
    view = span.view
    text = _MOVED.format(
        number=view.number,
        held=view.held(),
        visible=view.until_then(),
        then=at(view.since, "former"),
        within=view.within("m"),
        within_later=view.within("later"),
    )
    async for keys in _keys(database, span, "moved"):
        told = tuple(
            f"{query.type}/{id_}"
            for _, id_, was_in_patient, owned, in_patient, owners in await _read(database, text, {"keys": keys})
            if lies(query.selection, owned, in_patient=was_in_patient)
            and not lies(query.selection, owners, in_patient=in_patient)
        )
        if told:
            yield Deletions(told, str(keys[-1]))


async def _keys(database: Database, span: Span, kind: str) -> AsyncIterator[list[int]]:
    """The keys of the span's versions of a kind that an index has, whether they count or not, some at a time."""
    text, after = _KEYS.format(kind=kind, last=span.last), span.first - 1
    while keys := [key for (key,) in await _read(database, text, {"after": after, "rows": _KEYS_PER_STEP})]:
        yield keys
        after = keys[-1]


async def _read(database: Database, text: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
    return await database.connections.read(partial(Session.rows, text=text, values=values))
