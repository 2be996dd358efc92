"""Writes batches of drafts into PostgreSQL: at the instant of each batch, or at the instants that the resources have."""

from collections.abc import Callable, Iterable
from functools import partial

from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.drafting import Drafted, MalformedLine
from fhir_bulk_middleware.stores.drafts import Draft
from fhir_bulk_middleware.stores.history_lines import History
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes
from fhir_bulk_middleware.stores.postgres.resource_writing import Writing, again_if_created, clocks
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["load_history", "load_now"]

_Dated = tuple[int, Instant, Draft]
"""The number of a line, its instant and its draft."""


def load_now(connections: Connections, types: ResourceTypes, batches: Iterable[Drafted], progress: Callable[[int], None]) -> int:
    """Write each batch in a transaction, whose instant its resources get; return the number of resources."""
    kept = 0
    for batch in batches:
        # A type's rows are neighbours; within a transaction all have one instant.
        drafts = sorted((new for _, new in batch), key=lambda new: new.canonical.type)
        _write_here(connections, types, drafts, partial(_write_now, drafts=drafts, types=types))
        kept += len(drafts)
        progress(kept)
    return kept


def load_history(
    connections: Connections, types: ResourceTypes, batches: Iterable[Drafted], least: int, progress: Callable[[int], None]
) -> int:
    """Write resources at their own `meta.lastUpdated`, which must ascend; return the number of resources.

    A transaction has at least `least` resources, and all resources of an instant (law 4).

    Raises:
        MalformedLine: `meta.lastUpdated` is missing or malformed, lies in the future, or is not later than the store's latest
            instant.
    """
    history = History(batches)
    kept = 0
    while history:
        dated = _next(history, least)
        _write_here(connections, types, [new for _, _, new in dated], partial(_write_dated, dated=dated, types=types))
        kept += len(dated)
        progress(kept)
    return kept


def _write_here(connections: Connections, types: ResourceTypes, drafts: Iterable[Draft], step: Callable[[Session], None]) -> None:
    types.assured_here({new.canonical.type for new in drafts})
    again_if_created(lambda: connections.write_here(step))


def _next(history: History, least: int) -> list[_Dated]:
    dated: list[_Dated] = []
    while history.new is not None and (len(dated) < least or history.instant == dated[-1][1]):
        dated.append((history.number, history.instant, history.new))
        history.advance()
    return dated


def _write_now(session: Session, drafts: list[Draft], types: ResourceTypes) -> None:
    writing = Writing(session, types)
    writing.expect([(new.canonical.type, new.canonical.id) for new in drafts])
    for new in drafts:
        writing.put(new)
    writing.finish()


def _write_dated(session: Session, dated: list[_Dated], types: ResourceTypes) -> None:
    writing, at = Writing(session, types), None
    writing.expect([(new.canonical.type, new.canonical.id) for _, _, new in dated])
    clock, latest = clocks(session)
    for number, instant, new in dated:
        if instant != at:
            try:
                writing.continue_at(instant, (clock, latest))
            except ValueError as error:
                raise MalformedLine(number, str(error)) from None
            at = latest = instant
        writing.put(new)
    writing.finish()
