"""A bounded cache from method and path to the route that answers them."""

from starlette.types import Scope

from fhir_bulk_middleware.caps import PATH_REMEMBERED, PATHS_REMEMBERED

__all__ = ["RouteCache"]


class RouteCache:
    """Remembers the matches of recent requests, so that a repeated poll skips all regular expressions.

    Clients choose paths and methods: long ones are not kept, and a full cache is emptied (law 38).
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Scope] = {}

    def get(self, scope: Scope) -> Scope | None:
        """What a match added to the scope of an equal request, None if none is remembered. Not to be changed."""
        return self._found.get(_key(scope))

    def keep(self, scope: Scope, found: Scope) -> None:
        """Remember what a match adds to the scope of such a request."""
        key = _key(scope)
        if sum(map(len, key)) > PATH_REMEMBERED:
            return
        if len(self._found) >= PATHS_REMEMBERED:
            self._found.clear()
        self._found[key] = found


def _key(scope: Scope) -> tuple[str, str, str]:
    return scope["method"], scope.get("root_path", ""), scope["path"]
