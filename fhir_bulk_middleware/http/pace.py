"""How much one owner may ask for: requests at once, and refusals in a minute (law 38); per server process (law 19)."""

from collections.abc import Iterator
from contextlib import contextmanager

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.http.throttle import Throttle
from fhir_bulk_middleware.instant import Clock
from fhir_bulk_middleware.outcomes import Reason, Refused
from fhir_bulk_middleware.settings import Settings

__all__ = ["Pace", "Visit"]

_UNCOUNTED = frozenset({Reason.POLLED_TOO_OFTEN, Reason.REQUESTS_TOO_MANY, Reason.BUSY, Reason.FAULT})
"""Refusals that are not the caller's mistake, or that are answers to its pace already."""


class Visit:
    """One request, from its token to the last byte of its answer; counted once its owner is known."""

    def __init__(self) -> None:
        self.owner: Owner | None = None


class Pace:
    """Counts what owners ask for.

    Args:
        settings: the caps.
        clock: what time it is.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._at_once = settings.requests_per_owner
        self._refusals_per_minute = settings.refusals_per_minute
        self._refusals = Throttle(settings.refusals_per_minute, settings.refusals_per_minute / 60, clock)
        self._open: dict[Owner, int] = {}

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """A request, for as long as the context is open."""
        visit = Visit()
        try:
            yield visit
        finally:
            if visit.owner is not None:
                left = self._open[visit.owner] - 1
                if left:
                    self._open[visit.owner] = left
                else:
                    del self._open[visit.owner]

    def enter(self, visit: Visit, owner: Owner) -> None:
        """Let the owner of a request in.

        Raises:
            Refused: `REQUESTS_TOO_MANY`.
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
        visit.owner = owner

    def refused(self, owner: Owner, reason: Reason) -> None:
        """Count a refusal."""
        if reason not in _UNCOUNTED:
            self._refusals.wait(owner)
