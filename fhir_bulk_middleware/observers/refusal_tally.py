"""Summaries of refusals, which limit the number of audit records (laws 37 and 38)."""

from collections import Counter
from dataclasses import dataclass, field

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.events import RefusalsSummed, RequestRefused
from fhir_bulk_middleware.instant import Clock, Instant, seconds_between
from fhir_bulk_middleware.outcomes import Reason

__all__ = ["RefusalTally"]

_OWN = 20
_ALTOGETHER = 1_000
_OWNERS = 1_000
_ADDRESSES = 16
_OTHERS = "others"


@dataclass(slots=True)
class _Sum:
    """The count of refusals of one owner, or without an owner, at one mount."""

    first: Instant
    last: Instant
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    addresses: Counter[str] = field(default_factory=Counter)

    def add(self, event: RequestRefused) -> None:
        self.count += 1
        self.last = event.at
        self.reasons[f"{event.operation.name}: {event.reason.name}".lower().replace("_", "-")] += 1
        address = (event.caller.address if event.caller else None) or "unknown"
        known = address in self.addresses or len(self.addresses) < _ADDRESSES
        self.addresses[address if known else _OTHERS] += 1


class RefusalTally:
    """Counts the refusals that audits do not get one by one.

    In each interval up to 20 refusals of an owner are recorded one by one, and up to 1,000 of all owners together. All others,
    and all refusals without an owner, are summed per owner and recorded once in an interval. A tally has at most 1,001 sums of a
    few hundred bytes.

    Args:
        interval: the interval in seconds.
        clock: returns the current time.
    """

    def __init__(self, interval: float, clock: Clock) -> None:
        self._interval = interval
        self._clock = clock
        self._since = clock()
        self._recorded: Counter[Owner] = Counter()
        self._sums: dict[tuple[str, Owner | None], _Sum] = {}

    def takes(self, event: RequestRefused) -> bool:
        """Whether the refusal needs no record of its own: it was added to a sum, or it is a throttled poll, which is ignored."""
        owner = event.owner
        if event.reason is Reason.POLLED_TOO_OFTEN:
            return True
        if owner is not None and self._recorded[owner] < _OWN and self._recorded.total() < _ALTOGETHER:
            self._recorded[owner] += 1
            return False
        if len(self._sums) >= _OWNERS and (event.mount, owner) not in self._sums:
            owner = None
        place = event.mount, owner
        if place not in self._sums:
            self._sums[place] = _Sum(event.at, event.at)
        self._sums[place].add(event)
        return True

    @property
    def due(self) -> bool:
        """Whether the interval is over."""
        return not 0 <= seconds_between(self._since, self._clock()) < self._interval

    def drained(self) -> list[RefusalsSummed]:
        """Return the sums and begin the next interval."""
        now = self._clock()
        found = [
            RefusalsSummed(
                at=now,
                mount=mount,
                owner=owner,
                count=each.count,
                first=each.first,
                last=each.last,
                reasons=dict(each.reasons),
                addresses=dict(each.addresses),
            )
            for (mount, owner), each in self._sums.items()
        ]
        self._since = now
        self._recorded.clear()
        self._sums.clear()
        return found
