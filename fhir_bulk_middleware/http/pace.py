"""Limits one owner's concurrent requests and refusals per minute (law 38). Counted in memory, per server process (law 19)."""

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.http.throttle import Throttle
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["Pace"]

_UNCOUNTED = frozenset({Reason.POLLED_TOO_OFTEN, Reason.REQUESTS_TOO_MANY, Reason.BUSY, Reason.FAULT})
"""Refusals that do not count: not the caller's mistake, or caused by these limits."""


class Pace:
    """Counts the requests and refusals of each owner.

    Args:
        settings: the limits.
        clock: the current time.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._at_once = settings.requests_per_owner
        self._refusals_per_minute = settings.refusals_per_minute
        self._refusals = Throttle(settings.refusals_per_minute, settings.refusals_per_minute / 60, clock)
        self._open: dict[Owner, int] = {}

    def enter(self, owner: Owner) -> None:
        """Count a request for its owner, until `leave`.

        Raises:
            Refused: `REQUESTS_TOO_MANY`, if the owner is above a limit.
        """
        if wait := self._refusals.look(owner):
            most = self._refusals_per_minute
            detail = f"More than {most} requests of this client were refused in a minute; mend what was wrong with them first."
            raise Refused(Reason.REQUESTS_TOO_MANY, detail, retry_after=wait)
        count = self._open.get(owner, 0)
        if count >= self._at_once:
            detail = f"At most {self._at_once} requests of one client are answered at once; wait for one to end."
            raise Refused(Reason.REQUESTS_TOO_MANY, detail, retry_after=1)
        self._open[owner] = count + 1

    def leave(self, owner: Owner) -> None:
        """Count a request of the owner off."""
        left = self._open[owner] - 1
        if left:
            self._open[owner] = left
        else:
            del self._open[owner]

    def refused(self, owner: Owner, reason: Reason) -> None:
        """Count a refusal, unless its reason is exempt."""
        if reason not in _UNCOUNTED:
            self._refusals.wait(owner)
