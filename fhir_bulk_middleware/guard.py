"""The door: a bearer token becomes a principal, and whatever goes wrong behind it becomes the dialect's reply."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.principal import Principal, TokenRejected
from fhir_bulk_middleware.protocols import TokenVerifier
from fhir_bulk_middleware.replies import Replies

__all__ = ["Endpoint", "Guard", "Open"]

_log = logging.getLogger("fhir_bulk_middleware")

Endpoint = Callable[[Request, Principal], Awaitable[Response]]
"""What stands behind the door: it never sees a request without its principal."""


@dataclass(frozen=True, slots=True)
class Open:
    """An endpoint without the door, for what says how to get in: the same for everybody, so it is not even told who asks.

    Attributes:
        respond: answers; a token that comes with the request is not looked at.
    """

    respond: Callable[[Request], Awaitable[Response]]


class Guard:
    """Lets a request through to an endpoint, or refuses it; denies by default."""

    def __init__(self, verifier: TokenVerifier, replies: Replies) -> None:
        self._verifier = verifier
        self._replies = replies

    async def answer(self, request: Request, operation: Operation, endpoint: Endpoint | Open) -> Response:
        """The endpoint's response, or the refusal; never an exception.

        Refusals are told by the dialect, faults are logged whole and told as little as possible.
        """
        try:
            if isinstance(endpoint, Open):
                response = await endpoint.respond(request)
            else:
                response = await endpoint(request, await self._principal(request))
        except Refused as refused:
            response = self._replies.refusal(operation, refused)
        except Exception:  # noqa: BLE001 - the one place where adapter faults end; the log has all of it, the client nothing
            _log.exception("%s failed", operation.name)
            response = self._replies.refusal(operation, Refused(Reason.FAULT))
        return self._replies.stamp(response, request)

    async def _principal(self, request: Request) -> Principal:
        values = request.headers.getlist("authorization")
        if not values:
            raise Refused(Reason.TOKEN_MISSING)
        scheme, _, token = values[0].partition(" ")
        if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Refused(Reason.TOKEN_INVALID)
        try:
            return await self._verifier.verify(token.strip())
        except TokenRejected as rejected:
            _log.info("token rejected: %s", rejected)
            raise Refused(Reason.TOKEN_INVALID) from None
