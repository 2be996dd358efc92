"""The sub-application, and the Starlette mounts that place it below a prefix which it shares with the host."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from fhir_bulk_middleware.http.route_cache import RouteCache
from fhir_bulk_middleware.http.routes import PathRoute, whole
from fhir_bulk_middleware.workers.engine import Engine

__all__ = ["AllowedHere", "SelectiveMount", "SubApplication"]

_ALLOWED = "fhir_bulk_middleware.allowed"
_ANSWER = "fhir_bulk_middleware.answer"
_COMMON = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NEVER_REFUSED = frozenset({"GET", "HEAD"})
_NOT_OURS: tuple[Match, Scope] = (Match.NONE, {})
_HINT = "Add `async with bulk.running():` to the host's lifespan, or attach with install() or BulkDataMiddleware."


class SubApplication(Starlette):
    """Our routes as an application that any Starlette application can mount.

    Args:
        routes: tried in this order.
        elsewhere: answers paths that no route matches.
        engine: started by the lifespan, else by the first request.
    """

    def __init__(self, routes: Sequence[Route], elsewhere: ASGIApp, engine: Engine) -> None:
        super().__init__(routes=routes, lifespan=lambda _: engine.running())
        self.router.redirect_slashes = False
        self.router.default = elsewhere
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection. Websockets are closed."""
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        if scope["type"] == "http" and not self._engine.runs:
            await self._engine.start_lazily(_HINT)
        await super().__call__(scope, receive, send)

    def go_on(self, route: Route, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request whose route is known.

        Skips Starlette's exception middleware, since `Guard` lets no exception out; but not middleware that somebody added.
        """
        if self.user_middleware or not self._engine.runs:
            return self(scope, receive, send)
        scope["route"] = route
        return route.app(scope, receive, send)


class SelectiveMount(Mount):
    """A mount that matches only the paths that its application answers.

    Starlette's own `Mount` takes all paths below its prefix, and with them the host's routes, its 404 and its 405.

    Every request to the host is matched here, once for all our routes, so a substring search for their marks comes before any
    regular expression. A route of the application is matched once for each request, and remembered for the next poll.

    Args:
        path: the base path.
        app: our application.
        beside: tried after the routes of the application: what changes answers of the host, and what lies outside the base path.
    """

    def __init__(self, path: str, app: SubApplication, beside: Sequence[BaseRoute] = ()) -> None:
        super().__init__(path, app)
        self.path_regex = whole(self.path_regex)
        self._inner = app
        self._routes = [route for route in app.routes if isinstance(route, Route)]
        self._beside = tuple(beside)
        self._marks, self._marked = _marks([*self._routes, *beside])
        self._cache = RouteCache()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for one of our paths, with any method; else NONE."""
        if scope["type"] != "http":
            return _NOT_OURS
        path = scope["path"]
        for mark in self._marks:
            if mark in path:
                break
        else:
            if scope["method"] in self._marked:
                return _NOT_OURS
        found = self._found(scope)
        if found is not None:
            return Match.FULL, found
        for route in self._beside:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return match, {**child, _ANSWER: route.handle}
        return _NOT_OURS

    def _found(self, scope: Scope) -> Scope | None:
        """What the match of a route of the application adds to the scope; None if no route matches."""
        if "app_root_path" in scope or scope.get("path_params"):  # within another mount, whose state belongs to the match
            return self._find(scope)
        found = self._cache.get(scope)
        if found is None:
            found = self._find(scope)
            if found is not None:
                self._cache.keep(scope, found)
        return found

    def _find(self, scope: Scope) -> Scope | None:
        match, child = super().matches(scope)
        if match is Match.NONE:
            return None
        child = {**child, **_whole_path(scope, child)}
        inner = {"type": "http", "method": scope["method"], "path": scope["path"], **child}  # the keys that routes read
        for route in self._routes:
            found, more = route.matches(inner)
            if found is not Match.NONE:
                return {**child, **more, _ANSWER: partial(self._inner.go_on, route)}
        return None

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer with the route that `matches` found."""
        answer: Callable[..., Coroutine[Any, Any, None]] = scope[_ANSWER]
        return answer(scope, receive, send)


class AllowedHere(Mount):
    """Adds our methods to the `Allow` header of the host's 405 or answer to `OPTIONS`, on paths that we share with the host.

    Stands before the host's routes and sends the request to the host again, marked so that this mount lets it pass. Ignores GET
    and HEAD, which a host answers itself on such paths.

    Args:
        path: the base path.
        host: answers the requests.
        app: our application, whose routes say which paths are shared.
    """

    def __init__(self, path: str, host: ASGIApp, app: SubApplication) -> None:
        super().__init__(path, host)
        self.path_regex = whole(self.path_regex)
        self._host = host
        self._shared = [route for route in app.routes if isinstance(route, PathRoute) and route.shared]
        self.mark = ""
        self.methods_of_ours = _COMMON - _NEVER_REFUSED if self._shared else frozenset[str]()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for a shared path and a method that is not ours."""
        if scope["type"] != "http" or scope["method"] in _NEVER_REFUSED or _ALLOWED in scope or not self._shared:
            return Match.NONE, {}
        match, child = super().matches(scope)
        if match is Match.NONE:
            return Match.NONE, {}
        inner = {"type": "http", "method": scope["method"], "path": scope["path"], **child, **_whole_path(scope, child)}
        for route in self._shared:
            if route.lies_on(inner)[0] is not Match.NONE and scope["method"] not in route.rows:
                return Match.FULL, {_ALLOWED: sorted(route.rows)}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the host, and amend its answer."""
        ours: list[str] = scope[_ALLOWED]

        async def amended(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                message = {**message, "headers": [_allowing(name, value, ours) for name, value in headers]}
            await send(message)

        try:
            await self._host(scope, receive, amended)
        except HTTPException as error:  # a Starlette router raises it for a wrong method, for the host's own handler
            if error.headers:
                error.headers = {
                    name: _with_ours(value, ours) if name.lower() == "allow" else value for name, value in error.headers.items()
                }
            raise


def _marks(routes: Sequence[BaseRoute]) -> tuple[tuple[str, ...], frozenset[str]]:
    """What excludes most requests of the host: substrings, and the methods of which only paths with one of them can be ours.

    A route without a mark is recognised by its methods; if one takes any method, no path can be excluded.
    """
    marked = [(str(getattr(route, "mark", "")), route) for route in routes]
    marks = {mark for mark, _ in marked if mark}
    bare = [getattr(route, "methods_of_ours", None) for mark, route in marked if not mark]
    methods = _COMMON if None in bare else frozenset[str]().union(*filter(None, bare))
    shortest = sorted((mark for mark in marks if not any(other in mark for other in marks - {mark})), key=len)
    return tuple(shortest), _COMMON - methods


def _whole_path(scope: Scope, child: Scope) -> Scope:
    """The path with `root_path` in front, if it lacks it.

    `FastAPI(root_path=...)` adds the prefix that a proxy has stripped to `root_path` and not to the path. Starlette matches such
    a path once, but not a second time below a mount.
    """
    given, path = scope.get("root_path", ""), scope["path"]
    root = given.rstrip("/")
    if not root or f"{path}/".startswith(f"{root}/"):
        return {}
    return {"path": root + path, "root_path": root + child["root_path"].removeprefix(given)}


def _allowing(name: bytes, value: bytes, ours: Sequence[str]) -> tuple[bytes, bytes]:
    """The header, with our methods added if it is `Allow`."""
    if name.lower() != b"allow":
        return name, value
    return name, _with_ours(value.decode("latin-1"), ours).encode("latin-1")


def _with_ours(allowed: str, ours: Sequence[str]) -> str:
    theirs = [method.strip() for method in allowed.split(",") if method.strip()]
    return ", ".join([*theirs, *(method for method in ours if method not in theirs)])
