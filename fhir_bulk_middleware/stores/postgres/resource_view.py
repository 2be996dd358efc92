"""What a query can see of the versions in PostgreSQL, as conditions for SQL.

`cut.py` says which versions are visible at an instant. A version *holds* at an instant if it is visible and the next one is not.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from psycopg.sql import SQL

from fhir_bulk_middleware.contract.query import EveryPatient, NoPatient, Query, Selection
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.postgres.connections import Connections
from fhir_bulk_middleware.stores.postgres.cut import PostgresCuts, Seen
from fhir_bulk_middleware.stores.postgres.resource_types import ResourceTypes, first_of
from fhir_bulk_middleware.stores.postgres.resource_writing import CURRENT
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["Database", "Span", "View", "at", "ended", "sees"]

_CACHED_SECONDS = 10.0
_MOST_CACHED = 64

_EDGES = "SELECT min(seq + 0), max(seq + 0) FROM $resource AS r WHERE {}"
_LAST = "SELECT max(seq) FROM $resource WHERE seq > %(first)s AND seq < %(end)s"


def sees(seen: Seen, row: str) -> str:
    """The condition that a version was visible."""
    return seen.includes(SQL(f"{row}.stamp"), SQL(f"{row}.writer")).as_string()


def ended(seen: Seen, row: str) -> str:
    """The condition that the next version was visible."""
    return f"coalesce({seen.includes(SQL(f'{row}.ended'), SQL(f'{row}.ended_by')).as_string()}, false)"


def at(seen: Seen | None, row: str) -> str:
    """The condition that a version held at an instant; None for now."""
    return f"{row}.ended = {CURRENT}" if seen is None else f"{sees(seen, row)} AND NOT {ended(seen, row)}"


@dataclass(frozen=True, slots=True)
class View:
    """What a query can see of one type.

    Attributes:
        number: the number of the type.
        selection: whose resources.
        as_of: the instant at which versions hold; None for now.
        until: the end of the window, if it is earlier than `as_of`.
        since: the begin of the window.
    """

    number: int
    selection: Selection
    as_of: Seen | None
    until: Seen | None
    since: Seen | None

    def held(self, row: str = "r") -> str:
        """The condition that a version holds."""
        return at(self.as_of, row)

    def within(self, row: str = "r") -> str:
        """The condition that a version became visible within the window, and not after the view."""
        conditions = [self.until_then(row)]
        if self.as_of is not None:
            conditions.append(sees(self.as_of, row))
        if self.since is not None:
            changed = self.since.excludes(SQL(f"{row}.stamp"), SQL(f"{row}.writer")).as_string()
            conditions.append(f"{row}.type = {self.number} AND {changed}")
        return " AND ".join(conditions)

    def until_then(self, row: str = "r") -> str:
        """The condition that a version was visible at the end of the window, if that is earlier than the view."""
        return "true" if self.until is None else sees(self.until, row)

    def lived(self, row: str) -> str:
        """The condition that a version was current at some moment since the window began."""
        current = f"{row}.ended > {row}.stamp"
        if self.since is None:
            return current
        later = self.since.excludes(SQL(f"{row}.ended"), SQL(f"{row}.ended_by")).as_string()
        return f"{current} AND coalesce({later}, true)"

    def selected(self, row: str = "r") -> str:
        """The condition of a selection that a version's row answers."""
        match self.selection:
            case EveryPatient():
                return f"{row}.in_patient"
            case NoPatient():
                return f"NOT {row}.in_patient"
        return "true"

    def living(self, row: str = "r") -> str:
        """The condition on resources of the query, apart from those of `Compartments`."""
        return f"NOT {row}.deleted AND {self.held(row)} AND {self.within(row)} AND {self.selected(row)}"


@dataclass(frozen=True, slots=True)
class Span:
    """A view, and the keys from `first` to `last` inclusive, between which all versions lie that a query can hold."""

    view: View
    first: int
    last: int

    def between(self, row: str = "r") -> str:
        """The condition on the key."""
        return f"{row}.seq BETWEEN {self.first} AND {self.last}"


class Database:
    """What all reads of a store have: connections, cuts and the numbers of types."""

    def __init__(self, connections: Connections, cuts: PostgresCuts, types: ResourceTypes) -> None:
        self.connections = connections
        self.cuts = cuts
        self.types = types
        self.rows_at_once: dict[int, int] = {}
        """How many rows of a type a statement read last; the next read begins with as many."""
        self._known: dict[tuple[Instant, bool], tuple[float, Seen]] = {}

    async def seen(self, instant: Instant, *, whole: bool = False) -> Seen:
        """What was visible at an instant: at the edge of a window or, if `whole`, at the cut of a read.

        It does not change once there is a cut. It is cached for the types of an export, and not for long, since a database may be
        restored while we run.
        """
        read_at, known = self._known.get((instant, whole), (0.0, None))
        if known is not None and time.monotonic() < read_at + _CACHED_SECONDS:
            return known
        found = await self.connections.patiently(partial(self.cuts.as_of if whole else self.cuts.seen, instant))
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        if found.snapshot is not None:
            self._known[instant, whole] = time.monotonic(), found
        return found

    def forget_cuts(self) -> None:
        """Read all cuts again, since they changed."""
        self._known.clear()

    async def view(self, query: Query) -> View | None:
        """What a query can see, None if there never was a resource of its type."""
        number = await self.types.number(query.type, query.as_of)
        if number is None:
            return None
        since, until, as_of = query.window.since, query.window.until, query.as_of
        if until is not None and as_of is not None and until >= as_of:
            until = None
        return View(
            number,
            query.selection,
            None if as_of is None else await self.seen(as_of, whole=True),
            None if until is None else await self.seen(until),
            None if since is None else await self.seen(since),
        )

    async def span(
        self, query: Query, after: str | None = None, kind: Callable[[View], str] = lambda view: view.living()
    ) -> Span | None:
        """The keys of a query behind a cursor; None if it cannot hold anything.

        Where there is a window without a range, they are found by what was written within it, so that a read costs what
        it gives. The order of keys follows the writers only roughly, so no key is computed from an instant.

        Args:
            query: the query.
            after: the cursor to read on from.
            kind: the condition on the versions that are wanted.
        """
        view = await self.view(query)
        if view is None:
            return None
        first, last = first_of(view.number) + 1, first_of(view.number + 1) - 1
        if query.range:
            low, high = map(int, query.range.split("-"))
            first, last = max(first, low), min(last, high)
        if after is not None:
            first = max(first, int(after) + 1)
        span = Span(view, first, last)
        if view.since is not None and not query.range:
            edges = _EDGES.format(f"{span.between()} AND {kind(view)}")
            first, last = await self.connections.read(partial(_edges, text=edges))
            span = Span(view, first, last)
        return None if span.first > span.last else span

    async def last_key(self, span: Span) -> int | None:
        """The highest key that there is in a span of a whole type now; None if there is none."""
        values = {"first": span.first - 1, "end": span.last + 1}
        found = await self.connections.read(lambda session: session.one(_LAST, values))
        return None if found is None else int(found)


def _edges(session: Session, text: str) -> tuple[int, int]:
    first, last = session.row(text) or (None, None)
    return (1, 0) if first is None else (first, last)
