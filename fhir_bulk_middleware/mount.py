"""The sub-application, and a place for it below a host's prefix that leaves the rest of the prefix to the host."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

__all__ = ["SelectiveMount", "SubApplication"]

_ROUTE = "fhir_bulk_middleware.route"


class SubApplication(Starlette):
    """Routes of ours as an application that any Starlette can mount.

    Args:
        routes: in the order in which they are looked at.
        elsewhere: answers where none of them matches.
        lifespan: what runs while it is served.
        awake: is awaited before each request, in case that no lifespan was.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        elsewhere: ASGIApp,
        lifespan: Lifespan[Starlette],
        awake: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self.router.redirect_slashes = False
        self.router.default = elsewhere
        self._awake = awake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http":
            await self._awake()
        await super().__call__(scope, receive, send)

    async def go_on(self, route: BaseRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose route is known.

        Our door lets no exception out, so the layers that Starlette puts around an application for that have nothing to do;
        layers that somebody added see every request.
        """
        if self.user_middleware:
            await self(scope, receive, send)
            return
        await self._awake()
        scope["route"] = route
        await route.handle(scope, receive, send)


class SelectiveMount(Mount):
    """A mount that takes only the paths that its application answers.

    Starlette's own takes everything below its prefix, and with it the host's routes, its 404 and its 405.

    Every request of the host comes by here, so a look for the marks of our routes comes before any regular expression; and a
    route that was found once is not looked for again.
    """

    def __init__(self, path: str, app: SubApplication) -> None:
        super().__init__(path, app)
        self._inner = app
        marked = [(str(getattr(route, "mark", "")), route) for route in app.routes]
        marks = {mark for mark, _ in marked if mark}
        self._marks = tuple(mark for mark in marks if not any(other in mark for other in marks - {mark}))
        # Routes without a mark are told by their methods; one that takes any method makes every path worth a second look.
        bare = [getattr(route, "methods_of_ours", None) for mark, route in marked if not mark]
        self._methods = None if None in bare else frozenset[str]().union(*filter(None, bare))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for a path of ours, whatever the method; else NONE."""
        if scope["type"] != "http" or not self._possible(scope["path"], scope["method"]):
            return Match.NONE, {}
        match, child = super().matches(scope)
        if match is Match.NONE:
            return Match.NONE, {}
        inner = {"type": "http", "method": scope["method"], "path": scope["path"], **child}  # what routes look at
        for route in self._inner.routes:
            found, more = route.matches(inner)
            if found is not Match.NONE:
                return Match.FULL, {**child, **more, _ROUTE: route}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on where `matches` ended."""
        await self._inner.go_on(scope[_ROUTE], scope, receive, send)

    def _possible(self, path: str, method: str) -> bool:
        for mark in self._marks:
            if mark in path:
                return True
        return self._methods is None or method in self._methods
