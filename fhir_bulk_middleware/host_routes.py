"""Finds routes of the host that our own would shadow (law 42)."""

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from starlette.routing import BaseRoute, Match, Mount, Route

__all__ = ["own_deletes", "warn_of_shadowed"]

_log = logging.getLogger("fhir_bulk_middleware")


def warn_of_shadowed(routes: object, base: str, types: Collection[str]) -> None:
    """Log which of the host's own routes for DELETE are no longer reached, since the host said `deletes=` (law 42).

    Args:
        routes: the host's routes; ignored if they are not a list.
        base: the path below which the host serves FHIR.
        types: all resource types.
    """
    if isinstance(routes, list) and (shadowed := own_deletes(routes, base, types)):
        _log.warning(
            "deletes= makes DELETE of resources below %s ours; these routes of the host are no longer reached: %s.",
            base,
            ", ".join(shadowed),
        )


def own_deletes(routes: Sequence[BaseRoute], base: str, types: Collection[str]) -> list[str]:
    """The paths of the host's own routes that delete a resource, or resources by criteria, below its base path.

    Finds routes within mounts too, if the mounted application has a table of routes.

    Args:
        routes: the host's routes.
        base: the path below which it serves FHIR.
        types: all resource types.
    """
    found: dict[str, None] = {}
    for type_ in sorted(types):
        for path in (f"{base}/{type_}", f"{base}/{type_}/1"):
            scope = {"type": "http", "method": "DELETE", "path": path, "root_path": "", "headers": [], "query_string": b""}
            found |= dict.fromkeys(_matching(routes, scope, ""))
    return list(found)


def _matching(routes: Sequence[BaseRoute], scope: dict[str, Any], prefix: str) -> Iterator[str]:
    for route in routes:
        if isinstance(route, Mount):
            match, child = route.matches(scope)
            if match is Match.FULL:
                yield from _matching(route.routes or (), {**scope, **child}, prefix + route.path)
        elif isinstance(route, Route) and (route.methods is None or "DELETE" in route.methods):
            match, _ = route.matches(scope)
            if match is Match.FULL:
                yield prefix + route.path
