"""A place below a host's prefix that leaves the rest of the prefix to the host."""

from starlette.applications import Starlette
from starlette.routing import Match, Mount
from starlette.types import Scope

__all__ = ["SelectiveMount"]


class SelectiveMount(Mount):
    """A mount that takes only the paths that its application answers.

    Starlette's own takes everything below its prefix, and with it the host's routes, its 404 and its 405.

    Every request of the host comes by here, so a look for the marks of our routes comes before any regular expression.
    """

    def __init__(self, path: str, app: Starlette) -> None:
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
        inner = {**scope, **child}
        if any(route.matches(inner)[0] is not Match.NONE for route in self._inner.routes):
            return Match.FULL, child
        return Match.NONE, {}

    def _possible(self, path: str, method: str) -> bool:
        for mark in self._marks:
            if mark in path:
                return True
        return self._methods is None or method in self._methods
