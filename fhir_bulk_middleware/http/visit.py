"""One request, from the guard to the last byte of its answer."""

from typing import Self

from starlette.types import Scope

from fhir_bulk_middleware.contract.access import Caller, Principal
from fhir_bulk_middleware.http.pace import Pace

__all__ = ["Visit"]


class Visit:
    """A request as the guard knows it; a context for as long as it lasts. Counts for its owner once the token is verified.

    Args:
        pace: counts it.
        scope: of the request.
        request_id: the id that the response carries.
    """

    def __init__(self, pace: Pace, scope: Scope, request_id: str) -> None:
        self._pace = pace
        self._scope = scope
        self.request_id = request_id
        self.principal: Principal | None = None
        """The bearer of its token, once that is verified."""
        self._counted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._counted and self.principal is not None:
            self._pace.leave(self.principal.owner)

    def enter(self, principal: Principal) -> Principal:
        """Count the request for its owner; the principal with its caller.

        Raises:
            Refused: as `Pace.enter`.
        """
        self.principal = principal
        self._pace.enter(principal.owner)
        self._counted = True
        return principal.called(self.caller())

    def caller(self) -> Caller:
        """Who sent it, as far as it is known by now."""
        client = self._scope.get("client")
        return Caller(
            client_id=None if self.principal is None else self.principal.client_id,
            address=None if client is None else client[0],
            request_id=self.request_id,
        )
