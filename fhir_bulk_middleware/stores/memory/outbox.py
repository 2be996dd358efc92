"""`MemoryOutbox`: reports of removals, kept in memory until observers know of them."""

from collections.abc import Sequence

from fhir_bulk_middleware.contract.lease import LEASE_SLACK
from fhir_bulk_middleware.contract.removal import Report
from fhir_bulk_middleware.instant import Instant, after

__all__ = ["MemoryOutbox"]


class MemoryOutbox:
    """The reports of one store. The store holds its lock around each call."""

    def __init__(self) -> None:
        self._reports: dict[int, Report] = {}
        self._last = 0
        self._teller: tuple[str, Instant] | None = None

    def add(self, note: str, at: Instant, type_: str, ids: Sequence[str]) -> None:
        """Add a report of a removal."""
        self._last += 1
        self._reports[self._last] = Report(number=self._last, note=note, at=at, type=type_, ids=tuple(ids))

    def take(self, teller: str, now: Instant, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """Lease the oldest reports. A lease that ends too far in the future does not count: the clock was set back."""
        if self._teller is not None:
            name, until = self._teller
            if name != teller and now < until <= after(now, LEASE_SLACK * lease_seconds):
                return None
        found = list(self._reports.values())[:limit]
        if found:
            self._teller = teller, after(now, lease_seconds)
        return found

    def forget(self, teller: str, numbers: Sequence[int]) -> None:
        """Remove reports that observers know of, and end the lease."""
        for number in numbers:
            self._reports.pop(number, None)
        if self._teller is not None and self._teller[0] == teller:
            self._teller = None
