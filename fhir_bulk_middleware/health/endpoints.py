"""Unauthenticated endpoints for the probes of an orchestrator (`Settings.health`)."""

from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.health.probes import Probe
from fhir_bulk_middleware.http.guard import Open
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.routes import Row
from fhir_bulk_middleware.outcomes import Operation

__all__ = ["HEALTH_MEDIA_TYPE", "HEALTH_PATH", "READY_PATH", "health_rows"]

HEALTH_PATH: Final = "/$health"
"""Liveness: 200 as long as the process answers, whatever the checks found. Restarting a server does not mend its stores."""

READY_PATH: Final = "/$health/ready"
"""Readiness: the same document, with 503 if requests should go to another server."""

HEALTH_MEDIA_TYPE: Final = "application/health+json"


def health_rows(probe: Probe, replies: Replies, taken: Iterable[Row]) -> tuple[Row, ...]:
    """The route rows of liveness and readiness; none if `Settings.health` is off.

    Args:
        probe: checks the mount.
        replies: makes the responses.
        taken: the other rows of the mount.

    Raises:
        ValueError: a path of the dialect lies at or below the path of health.
    """
    if not probe.wanted:
        return ()
    if clashing := sorted({row.path for row in taken if f"{row.path}/".startswith(f"{HEALTH_PATH}/")}):
        raise ValueError(f"health: {', '.join(clashing)} is a path of the dialect already; turn Settings.health off")

    async def live(_: Request) -> Response:
        return replies.health((await probe.health()).document, ready=True)

    async def ready(_: Request) -> Response:
        found = await probe.health()
        return replies.health(found.document, ready=found.ready)

    return (
        Row("GET", HEALTH_PATH, Operation.HEALTH, Open(live)),
        Row("GET", READY_PATH, Operation.HEALTH, Open(ready)),
    )
