"""A place below a host's prefix that leaves the rest of the prefix to the host."""

from starlette.applications import Starlette
from starlette.routing import Match, Mount
from starlette.types import Scope

__all__ = ["SelectiveMount"]


class SelectiveMount(Mount):
    """A mount that takes only the paths that its application answers.

    Starlette's own takes everything below its prefix, and with it the host's routes, its 404 and its 405.
    """

    def __init__(self, path: str, app: Starlette) -> None:
        super().__init__(path, app)
        self._inner = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL for a path of ours, whatever the method; else NONE."""
        match, child = super().matches(scope)
        if match is Match.NONE or scope["type"] != "http":
            return Match.NONE, {}
        inner = {**scope, **child}
        if any(route.matches(inner)[0] is not Match.NONE for route in self._inner.routes):
            return Match.FULL, child
        return Match.NONE, {}
