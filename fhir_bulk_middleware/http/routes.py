"""The table of routes: which paths are ours, what they do, and who does it.

Everything else follows from it: what the sub-application answers, what the middleware takes from the host, and what tests try.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from fhir_bulk_middleware.caps import QUERY_BYTES
from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Level
from fhir_bulk_middleware.http.guard import Endpoint, Guard, Open
from fhir_bulk_middleware.identifiers import is_file_id, is_job_id, is_resource_id
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused

__all__ = ["KICK_OFF_PATHS", "PathRoute", "Row", "has_head", "routes", "whole"]

_LONGEST_METHOD = 20
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LAST = re.compile(r"/\(\?P<(\w+)>\[\^/\]\+\)\\Z\Z")
"""The last place of a pattern, if it ends with one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one path.

    Attributes:
        method: the HTTP method; HEAD goes with GET, but for kick-offs.
        path: the path below the mount, with `{name}` placeholders; in its query string if it has one.
        operation: what it does, for the dialect's answers.
        endpoint: who does it.
        shared: whether the path is the host's, and only this method on it ours: whatever else is asked there stays with the
            host, its 405 included.
    """

    method: str
    path: str
    operation: Operation
    endpoint: Endpoint | Open
    shared: bool = False


KICK_OFF_PATHS: Mapping[Level, str] = {
    Level.SYSTEM: "/$export",
    Level.PATIENT: "/Patient/$export",
    Level.GROUP: "/Group/{group}/$export",
}
"""Where an export is kicked off, below the mount; the same in every dialect (KO-01 to KO-03)."""


def routes(rows: Iterable[Row], guard: Guard, types: frozenset[str] = frozenset()) -> list[Route]:
    """Starlette routes for the rows, one per path; shared ones last, so that no path of ours is taken for a resource.

    What is asked most often is looked for first: polls, then files.

    Args:
        rows: the table.
        guard: the door of each.
        types: the resource types that there are; a path that names another is not ours.
    """
    by_path: dict[str, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    found = [PathRoute(path, several, guard, types) for path, several in by_path.items()]
    # Within a turn the longer path comes first, for what lies below a shorter one is its own as well.
    return [*sorted(found, key=lambda route: (_Turn.of(route), -len(route.path)))]


def whole(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Starlette's pattern of a path, made to mean all of the path: its own ends before a final newline, and stops at one."""
    return re.compile(pattern.pattern.removesuffix("$") + r"\Z", re.DOTALL)


class _Turn(IntEnum):
    """When a route is looked at."""

    POLLS = 0
    FILES = 1
    OTHERS = 2
    SHARED = 3

    @classmethod
    def of(cls, route: "PathRoute") -> "_Turn":
        if route.shared:
            return cls.SHARED
        operations = {row.operation for row in route.rows.values()}
        if Operation.STATUS in operations:
            return cls.POLLS
        return cls.FILES if Operation.FILE in operations else cls.OTHERS


class PathRoute(Route):
    """A path with all its methods, so that a wrong method is answered by the dialect, with every right one in `Allow`.

    On a path that a host may own, such as `Binary/{file}`, only ids of our own shape match: all others stay the host's
    (law 14). Paths with a `$` are operations, and ours altogether: whatever stands where an id belongs, and nothing at all, is
    as an id that never was (law 7). On a shared path only our own methods match.
    """

    def __init__(self, path: str, rows: Iterable[Row], guard: Guard, types: frozenset[str]) -> None:
        split = urlsplit(path)
        self.rows = {row.method: row for row in rows}
        self.shared = any(row.shared for row in self.rows.values())
        self._types = types
        self._guard = guard
        self._query = {
            name: placeholder[1]
            for name, (value,) in parse_qs(split.query, strict_parsing=bool(split.query)).items()
            if (placeholder := _PLACEHOLDER.fullmatch(value))
        }
        super().__init__(split.path, self._dispatch_class(split.path))
        self.path_regex = self._pattern()
        self.mark = _mark(split.path)
        """A piece that is in each path of the route, empty where that would tell it from nothing."""
        self.methods_of_ours = frozenset(self.rows) if self.shared else None
        """The methods that match, None for all."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette has it; but a path that could be the host's must hold an id of ours."""
        if self.shared and (scope["type"] != "http" or scope["method"] not in self.rows):
            return Match.NONE, {}
        return self.lies_on(scope)

    def lies_on(self, scope: Scope) -> tuple[Match, Scope]:
        """The same for the path alone, whatever the method."""
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, {}
        places = child["path_params"]
        if "$" not in self.path:
            return (match, child) if all(map(self._ours, places.items())) else (Match.NONE, {})
        return match, {**child, "path_params": {name: "" if value is None else value for name, value in places.items()}}

    def _pattern(self) -> re.Pattern[str]:
        """All of the path; and all below it, where a `$` path ends with a place or has its places in the query string."""
        exact = whole(self.path_regex)
        if "$" not in self.path:
            return exact
        if last := _LAST.search(exact.pattern):
            return re.compile(f"{exact.pattern[: last.start()]}(?:/(?P<{last[1]}>.*))?\\Z", re.DOTALL)
        return re.compile(exact.pattern.removesuffix(r"\Z") + r"(?:/.*)?\Z", re.DOTALL) if self._query else exact

    def _dispatch_class(self, path: str) -> Callable[[Scope, Receive, Send], object]:
        return _Dispatch(path, self.rows, self._query, self._guard)

    def _ours(self, parameter: tuple[str, str]) -> bool:
        name, value = parameter
        match name:
            case "file":
                return is_file_id(value)
            case "job":
                return is_job_id(value)
            case "type":
                return value in self._types
            case "id":  # neither an operation nor a file of ours is a resource (law 14)
                return is_resource_id(value) and not is_file_id(value)
            case _:
                return True


def has_head(row: Row) -> bool:
    """Whether HEAD goes with this GET. Not where the GET begins an export: nobody expects a HEAD to do that."""
    return row.operation is not Operation.KICK_OFF


def _mark(path: str) -> str:
    pieces = re.split(r"\{\w+\}", path)
    mark = next((piece for piece in pieces if "$" in piece), max(pieces, key=len))
    return mark if len(mark) > 1 else ""


class _Dispatch:
    """An ASGI application for one path: chooses by method."""

    def __init__(self, path: str, rows: Mapping[str, Row], query: Mapping[str, str], guard: Guard) -> None:
        self._path = path
        self._rows = rows
        self._query = query
        self._guard = guard
        self._heads = "GET" in rows and has_head(rows["GET"])
        self._allow = tuple(sorted({*rows, *(["HEAD"] if self._heads else [])}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        row = self._rows.get("GET" if request.method == "HEAD" and self._heads else request.method)
        if row is None:
            await self._guard.respond(request, Operation.NONE, self._wrong_method, send)
        else:
            self._take_from_query(request)
            await self._guard.respond(request, row.operation, row.endpoint, send)

    def _take_from_query(self, request: Request) -> None:
        """Placeholders that stand in the query string become path parameters, as if they stood in the path (AS-07).

        Only on the path itself: below it nothing has an id.
        """
        if not request.scope["path"].endswith(self._path):
            return
        if len(request.scope["query_string"]) > QUERY_BYTES:
            return  # the door refuses it
        for name, placeholder in self._query.items():
            values = request.query_params.getlist(name)
            if len(values) == 1:
                request.path_params[placeholder] = values[0]

    async def _wrong_method(self, request: Request, principal: Principal) -> Response:
        del principal
        raise Refused(
            Reason.METHOD_NOT_ALLOWED,
            f"{request.method[:_LONGEST_METHOD]} means nothing here; {', '.join(self._allow)} do.",
            allow=self._allow,
        )
