"""The route table: the methods and paths of a mount, and their endpoints.

The sub-application, the middleware and the discovery documents are made from this table.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
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

__all__ = ["KICK_OFF_PATHS", "ONE_PATIENT_PATH", "PathRoute", "Row", "has_head", "level_of", "routes", "whole"]

_LONGEST_METHOD = 20
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LAST = re.compile(r"/\(\?P<(\w+)>\[\^/\]\+\)\\Z\Z")
"""The placeholder at the end of a pattern, if there is one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one path.

    Attributes:
        method: the HTTP method. GET includes HEAD, except for kick-offs.
        path: the path below the mount, with `{name}` placeholders, possibly in a query string.
        operation: selects the dialect's answers.
        endpoint: handles the request.
        shared: whether the path belongs to the host and only this method is ours; all other methods, and the 405, are the host's.
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
"""The kick-off paths below the mount; the same in every dialect (KO-01 to KO-03)."""

ONE_PATIENT_PATH = "/Patient/{patient}/$export"
"""The kick-off path of the Patient level with exactly one patient."""


def level_of(path: str) -> Level | None:
    """The level that a kick-off path begins an export at; None for other paths."""
    if path == ONE_PATIENT_PATH:
        return Level.PATIENT
    return next((level for level, kick_off in KICK_OFF_PATHS.items() if kick_off == path), None)


def routes(rows: Iterable[Row], guard: Guard, types: frozenset[str] = frozenset()) -> list[Route]:
    """Starlette routes for the rows, one for each path.

    Polls come first, with the list of jobs before them, then files, since they are the most frequent. Shared paths come last, so
    that none of our own paths is taken for that of a resource.

    Args:
        rows: the table.
        guard: authenticates, and calls the endpoints.
        types: the known resource types; a path that names another one is not ours.
    """
    by_path: dict[str, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    found = [PathRoute(path, several, guard, types) for path, several in by_path.items()]
    # Within a turn longer paths come first, since a shorter path with `$` also matches everything below it.
    return [*sorted(found, key=lambda route: (_Turn.of(route), -len(route.path)))]


def whole(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Starlette's pattern, made to match the whole path: its `$` also matches before a final newline, and its `.` no newline."""
    return re.compile(pattern.pattern.removesuffix("$") + r"\Z", re.DOTALL)


class _Turn(IntEnum):
    """The order in which routes are tried."""

    LISTS = 0
    """Before the polls, whose path without an id it is."""
    POLLS = 1
    FILES = 2
    OTHERS = 3
    SHARED = 4

    @classmethod
    def of(cls, route: "PathRoute") -> "_Turn":
        if route.shared:
            return cls.SHARED
        operations = {row.operation for row in route.rows.values()}
        if Operation.JOBS in operations:
            return cls.LISTS
        if Operation.STATUS in operations:
            return cls.POLLS
        return cls.FILES if Operation.FILE in operations else cls.OTHERS


class PathRoute(Route):
    """A path with all its methods. A wrong method gets the dialect's 405, with all right ones in `Allow`.

    On paths that a host may own, such as `Binary/{file}`, only ids of our own shape match; others are the host's (law 14). Paths
    with a `$` are operations and entirely ours: malformed and missing ids are answered like unknown ones (law 7). On a shared
    path only our own methods match.
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
        """A substring of every path that matches, for a fast pre-check; empty if it would not exclude anything."""
        self.methods_of_ours = frozenset(self.rows) if self.shared else None
        """The methods that match; None for all."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See Starlette's method. A path that a host may own must also hold an id of our shape."""
        if self.shared and (scope["type"] != "http" or scope["method"] not in self.rows):
            return Match.NONE, {}
        return self.lies_on(scope)

    def lies_on(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path alone, without the method."""
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, {}
        places = child["path_params"]
        if "$" not in self.path:
            return (match, child) if all(map(self._ours, places.items())) else (Match.NONE, {})
        return match, {**child, "path_params": {name: "" if value is None else value for name, value in places.items()}}

    def _pattern(self) -> re.Pattern[str]:
        """Matches the path; also every path below it, if it has a `$` and its placeholder is last or in the query string.

        A patient's id may also be empty or hold slashes, which clients send percent-encoded: such an id is as an unknown one.
        """
        exact = whole(self.path_regex)
        if "$" not in self.path:
            return exact
        exact = re.compile(exact.pattern.replace("(?P<patient>[^/]+)", "(?P<patient>.*)"), re.DOTALL)
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
            case "id":  # our operations and files are not resources (law 14)
                return is_resource_id(value) and not is_file_id(value)
            case _:
                return True


def has_head(row: Row) -> bool:
    """Whether this GET row also answers HEAD. A kick-off does not: a HEAD must not begin an export."""
    return row.operation is not Operation.KICK_OFF


def _mark(path: str) -> str:
    pieces = re.split(r"\{\w+\}", path)
    mark = next((piece for piece in pieces if "$" in piece), max(pieces, key=len))
    return mark if len(mark) > 1 else ""


class _Dispatch:
    """The ASGI application of one path: dispatches by method."""

    def __init__(self, path: str, rows: Mapping[str, Row], query: Mapping[str, str], guard: Guard) -> None:
        self._path = path
        self._rows = rows
        self._query = query
        self._guard = guard
        self._heads = "GET" in rows and has_head(rows["GET"])
        self._allow = tuple(sorted({*rows, *(["HEAD"] if self._heads else [])}))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        request = Request(scope, receive)
        method = scope["method"]
        row = self._rows.get("GET" if method == "HEAD" and self._heads else method)
        if row is None:
            return self._guard.respond(request, Operation.NONE, self._wrong_method, send)
        self._take_from_query(request)
        return self._guard.respond(request, row.operation, row.endpoint, send)

    def _take_from_query(self, request: Request) -> None:
        """Add placeholders of the query string to the path parameters (AS-07). Only for the exact path, not below it."""
        if not self._query or not request.scope["path"].endswith(self._path):
            return
        if len(request.scope["query_string"]) > QUERY_BYTES:
            return  # the guard refuses it
        for name, placeholder in self._query.items():
            values = request.query_params.getlist(name)
            if len(values) == 1:
                # A new mapping, since the matched one is that of every request to this path.
                request.scope["path_params"] = {**request.path_params, placeholder: values[0]}

    async def _wrong_method(self, request: Request, principal: Principal) -> Response:
        del principal
        raise Refused(
            Reason.METHOD_NOT_ALLOWED,
            f"{request.method[:_LONGEST_METHOD]} means nothing here; {', '.join(self._allow)} do.",
            allow=self._allow,
        )
