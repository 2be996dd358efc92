"""Reads Provenance in PostgreSQL by its targets.

A table holds the targets of each version of a Provenance, so one or two look-ups say whether a target is exported. The target
resources are read only if a filter has to see them. Where only targets count that entered the selection, the read goes the other
way: from what changed in the window to its Provenance, so that all other Provenance costs nothing (law 34).
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fhir_bulk_middleware.contract.filters import Filters
from fhir_bulk_middleware.contract.query import Everything, Page, ProvenanceTarget, Query
from fhir_bulk_middleware.stores.postgres.resource_losses import lies
from fhir_bulk_middleware.stores.postgres.resource_reading import keys_of, paged
from fhir_bulk_middleware.stores.postgres.resource_steps import Lines, by_keys
from fhir_bulk_middleware.stores.postgres.resource_view import Database, Span, at
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["provenance"]

_KEYS_PER_STEP = 1_000

_NEWEST = """
    AND NOT EXISTS (
        SELECT 1 FROM $resource_target AS other JOIN $resource AS q ON q.seq = other.seq
        WHERE other.type = target.type AND other.id = target.id AND (q.stamp, q.seq) > (p.stamp, p.seq) AND {living}
    )
"""
_ABOUT = """
    SELECT p.seq, r.seq, r.in_patient, r.owners FROM $resource_target AS target
    JOIN $resource AS p ON p.seq = target.seq
    JOIN $resource AS r ON r.type = {number} AND r.id = target.id AND {between}
    WHERE target.seq = ANY(%(keys)s::bigint[]) AND target.type = %(type)s AND {living} {newest}
"""
_CHANGED = "SELECT seq, id, in_patient, owners FROM $resource WHERE seq = ANY(%(keys)s::bigint[])"
_OF_CHANGED = """
    SELECT target.id, p.seq FROM $resource_target AS target JOIN $resource AS p ON p.seq = target.seq
    WHERE target.type = %(type)s AND target.id = ANY(%(ids)s::text[]) AND {living} {newest}
"""
_FORMER = """
    SELECT id, in_patient, owners FROM $resource AS former
    WHERE type = {number} AND id = ANY(%(ids)s::text[]) AND NOT deleted AND {then}
"""


async def provenance(
    database: Database,
    query: Query,
    targets: Sequence[ProvenanceTarget],
    after: str | None,
    *,
    base_urls: Collection[str],
    latest: bool,
) -> AsyncIterator[Page]:
    """See `SupportsProvenance`.

    Args:
        database: where to read.
        query: the Provenance.
        targets: what it is about.
        after: the cursor to read on from.
        base_urls: the base URLs under which absolute references lead to this store.
        latest: whether to give only the latest Provenance of each target.
    """
    span = await database.span(replace(query, selection=Everything()), after)
    if span is None:
        return
    newest = _NEWEST.format(living=span.view.living("q")) if latest else ""
    choice = _Choice(database, span, newest)
    for target in targets:
        spanned = await database.span(target.query)
        if spanned is not None:
            chosen = _Chosen(target, spanned, Filters(target.filters, target.query.type, base_urls))
            if target.entered:
                await choice.enter(chosen)
            else:
                choice.chosen.append(chosen)
    async for page in paged(choice.lines(), query.page_bytes):
        yield page


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A target, and where its resources lie."""

    target: ProvenanceTarget
    span: Span
    filters: Filters


class _Choice:
    """The Provenance of the targets."""

    def __init__(self, database: Database, span: Span, newest: str) -> None:
        self._database = database
        self._span = span
        self._newest = newest
        self._entered: set[int] = set()
        self.chosen: list[_Chosen] = []

    async def lines(self) -> AsyncIterator[Lines]:
        """All of it, by keys."""
        async for keys in self._keys():
            async for found in by_keys(self._database, keys, self._span.view.living()):
                yield found

    async def _keys(self) -> AsyncIterator[list[int]]:
        if not self.chosen:
            yield sorted(key for key in self._entered if self._span.first <= key <= self._span.last)
            return
        async for keys in self._steps(self._span):
            found = self._entered.intersection(keys)
            for chosen in self.chosen:
                found |= await self._about(chosen, [key for key in keys if key not in found])
            yield sorted(found)

    async def _about(self, chosen: _Chosen, keys: list[int]) -> set[int]:
        """Those that are about a resource of the target."""
        view, query = chosen.span.view, chosen.target.query
        text = _ABOUT.format(
            number=view.number,
            between=chosen.span.between(),
            living=view.living(),
            newest=self._newest,
        )
        rows = await self._read(text, keys=keys, type=query.type)
        about = [(key, named) for key, named, in_patient, owners in rows if lies(query.selection, owners, in_patient=in_patient)]
        passing = await self._passing(chosen, {named for _, named in about})
        return {key for key, named in about if named in passing}

    async def enter(self, chosen: _Chosen) -> None:
        """Find the Provenance of those of a target's resources that entered the selection within the window."""
        query = chosen.target.query
        async for keys in self._steps(chosen.span):
            rows = await self._read(_CHANGED, keys=keys)
            changed = {id_: key for key, id_, in_patient, owners in rows if lies(query.selection, owners, in_patient=in_patient)}
            await self._enter(chosen, changed)

    async def _enter(self, chosen: _Chosen, changed: dict[str, int]) -> None:
        """As `enter`, of these ids with the keys of their versions."""
        view, target = chosen.span.view, chosen.target
        of_changed = _OF_CHANGED.format(living=self._span.view.living("p"), newest=self._newest)
        about = await self._read(of_changed, type=target.query.type, ids=[*changed])
        ids = {id_ for id_, _ in about}
        if view.since is not None and ids:
            before = target.query.selection if target.before is None else target.before
            former = _FORMER.format(number=view.number, then=at(view.since, "former"))
            found = await self._read(former, ids=sorted(ids))
            ids -= {id_ for id_, in_patient, owners in found if lies(before, owners, in_patient=in_patient)}
        passing = await self._passing(chosen, {changed[id_] for id_ in ids})
        self._entered |= {key for id_, key in about if id_ in ids and changed[id_] in passing}

    async def _passing(self, chosen: _Chosen, keys: set[int]) -> set[int]:
        """Those of a target's versions that pass its filters."""
        if not chosen.filters:
            return keys
        steps = by_keys(self._database, sorted(keys), "true")
        return {key async for lines in steps for key, line in lines if chosen.filters.passes(line)}

    async def _steps(self, span: Span) -> AsyncIterator[list[int]]:
        """The keys of a span's versions, some at a time."""
        async for keys in keys_of(self._database, span):
            for start in range(0, len(keys), _KEYS_PER_STEP):
                yield keys[start : start + _KEYS_PER_STEP]

    async def _read(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return await self._database.connections.read(partial(Session.rows, text=text, values=values))
