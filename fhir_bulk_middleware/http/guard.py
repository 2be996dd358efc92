"""Authenticates each request, calls its endpoint, and turns refusals and faults into the dialect's answers."""

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from fhir_bulk_middleware.caps import check_request
from fhir_bulk_middleware.contract.access import Principal, TokenRejected, TokenVerifier
from fhir_bulk_middleware.contract.events import RequestRefused
from fhir_bulk_middleware.http.pace import Pace
from fhir_bulk_middleware.http.replies import Replies
from fhir_bulk_middleware.http.visit import Visit
from fhir_bulk_middleware.instant import Clock, system_clock
from fhir_bulk_middleware.observers.observing import Observers
from fhir_bulk_middleware.outcomes import Operation, Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["Endpoint", "Guard", "Open"]

_log = logging.getLogger("fhir_bulk_middleware")

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_SPACE_SECONDS = 60

Endpoint = Callable[[Request, Principal], Awaitable[Response]]
"""An endpoint that is called with the principal of the verified token."""


@dataclass(frozen=True, slots=True)
class Open:
    """An unauthenticated endpoint, for discovery documents. A token in the request is ignored.

    Attributes:
        respond: makes the response.
    """

    respond: Callable[[Request], Awaitable[Response]]


class Guard:
    """Checks requests and calls their endpoints. Without a valid token only an `Open` endpoint is called.

    Args:
        verifier: verifies bearer tokens.
        replies: renders refusals.
        mount: the name of the mount, for events.
        observers: receive events about refusals.
        clock: the current time.
        client_owns: whether the OAuth client is a part of ownership (`Settings.owner_includes_client`).
        pace: the limits for one owner.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        replies: Replies,
        mount: str = "",
        observers: Observers | None = None,
        clock: Clock = system_clock,
        *,
        client_owns: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self._client_owns = client_owns
        self._verifier = verifier
        self._pace = pace or Pace(Settings(), clock)
        self._replies = replies
        self._mount = mount
        self._observers = Observers() if observers is None else observers
        self._clock = clock

    async def respond(self, request: Request, operation: Operation, endpoint: Endpoint | Open, send: Send) -> None:
        """Send the answer to a request, which counts as open for its owner until the last byte is sent."""
        with Visit(self._pace, request.scope, self._replies.new_request_id()) as visit:
            response = await self._answer(request, operation, endpoint, visit)
            await response(request.scope, request.receive, send)

    async def _answer(self, request: Request, operation: Operation, endpoint: Endpoint | Open, visit: Visit) -> Response:
        """The endpoint's response, or the answer to its refusal or fault. Raises nothing.

        A fault is logged with its traceback; the client learns only that there was one.
        """
        try:
            check_request(request.scope)
            if isinstance(endpoint, Open):
                response = await endpoint.respond(request)
            else:
                response = await endpoint(request, visit.enter(await self._principal(request)))
        except Refused as refused:
            response = await self._refused(operation, refused, visit)
        except OSError as error:
            response = await self._refused(operation, _disk_refusal(operation, error), visit)
        except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 - as follows
            # All faults of adapters end here. SystemExit too: it would end the event loop and leave a server that runs but does
            # not answer.
            _log.exception("%s failed", operation.name)
            response = await self._refused(operation, Refused(Reason.FAULT), visit)
        return self._replies.stamp(response, request, visit.request_id)

    async def _refused(self, operation: Operation, refused: Refused, visit: Visit) -> Response:
        owner = None if visit.principal is None else visit.principal.owner
        if owner is not None:
            self._pace.refused(owner, refused.reason)
        event = RequestRefused(
            at=self._clock(), mount=self._mount, owner=owner, caller=visit.caller(), operation=operation, reason=refused.reason
        )
        await self._observers.tell(event)
        return self._replies.refusal(operation, refused)

    async def _principal(self, request: Request) -> Principal:
        values = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if not values:
            raise Refused(Reason.TOKEN_MISSING)
        scheme, _, token = values[0].decode("latin-1").partition(" ")
        token = token.strip()
        if len(values) > 1 or scheme.lower() != "bearer" or not token:
            _log.info("token rejected: there must be one Authorization header, with `Bearer` and a token")
            raise Refused(Reason.TOKEN_INVALID)
        try:
            principal = await self._verifier.verify(token)
            return _owned_with_client(principal) if self._client_owns else principal
        except TokenRejected as rejected:
            _log.info("token rejected: %s", rejected)
            raise Refused(Reason.TOKEN_INVALID) from None


def _owned_with_client(principal: Principal) -> Principal:
    """The principal, with the OAuth client as a part of the owner.

    Raises:
        TokenRejected: the token names no client.
    """
    if not principal.client_id:
        raise TokenRejected("it names no client, which is a part of ownership here (owner_includes_client)")
    return replace(principal, owner=replace(principal.owner, client=principal.client_id))


def _disk_refusal(operation: Operation, error: OSError) -> Refused:
    """A full disk is temporary, so BUSY; every other error of the operating system is a fault."""
    _log.error("%s failed", operation.name, exc_info=error)
    if error.errno in _NO_SPACE:
        return Refused(Reason.BUSY, "The server has no space left; try again later.", retry_after=_NO_SPACE_SECONDS)
    return Refused(Reason.FAULT)
