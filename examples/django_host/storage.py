"""The storage adapter over Django models: three methods.

Django's ORM runs its queries in a thread of its own, so the adapter may run in the server's event loop.
"""

import json
from collections.abc import AsyncIterator, Iterator

from django.db.models import Q, QuerySet

from django_host.models import ROWS, Row, Trace
from fhir_bulk_middleware import (
    Authorisation,
    Compartments,
    Deletions,
    EveryPatient,
    Page,
    Principal,
    Query,
    Window,
    to_datetime,
)

__all__ = ["DjangoStorage"]

_ROWS = 200


class DjangoStorage:
    """What the clinic's tables hold now. It has no history, so an export holds changes that are made while it runs (law 6)."""

    async def authorise(self, principal: Principal) -> Authorisation:
        """All types; the scopes, which come from Django's permissions, say which of them."""
        return Authorisation(frozenset(ROWS))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        """The rows of a query by their id, which does not change, so that a row that is saved meanwhile comes once."""
        model, cursor = ROWS[query.type], after or ""
        found = model.objects.filter(_within(query.window, "updated"), _selected(query, model.owner)).order_by("id")
        while rows := [row async for row in found.filter(id__gt=cursor)[:_ROWS]]:
            for page in _paged(rows, query.page_bytes):
                yield page
            cursor = rows[-1].id

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        """The traces of a query."""
        traces: QuerySet[Trace] = Trace.objects.filter(
            _within(query.window, "at"), _selected(query, "patient"), type=query.type, resource_id__gt=after or ""
        )
        found = [trace async for trace in traces.order_by("resource_id").values_list("resource_id", flat=True)]
        for start in range(0, len(found), _ROWS):
            some = found[start : start + _ROWS]
            yield Deletions(tuple(f"{query.type}/{id_}" for id_ in some), some[-1])


def _within(window: Window, column: str) -> Q:
    """The condition of a window: since < column <= until."""
    found = Q()
    if window.since is not None:
        found &= Q(**{f"{column}__gt": to_datetime(window.since)})
    if window.until is not None:
        found &= Q(**{f"{column}__lte": to_datetime(window.until)})
    return found


def _selected(query: Query, owner: str) -> Q:
    """The condition of a selection. A set of no patients selects nothing."""
    match query.selection:
        case Compartments(references):
            return Q(**{f"{owner}__in": [each.removeprefix("Patient/") for each in references if each.startswith("Patient/")]})
        case EveryPatient():
            return Q(**{f"{owner}__isnull": False})
    return Q()


def _paged(rows: list[Row], page_bytes: int) -> Iterator[Page]:
    held: list[bytes] = []
    size, cursor = 0, ""
    for row in rows:
        line = json.dumps(row.as_fhir(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if held and size + len(line) > page_bytes:
            yield Page(b"".join(held), len(held), cursor)
            held, size = [], 0
        held.append(line)
        size, cursor = size + len(line), row.id
    if held:
        yield Page(b"".join(held), len(held), cursor)
