"""Token buckets: who comes too often is told when to come again (ST-05, law 38); per server process and in memory (law 19)."""

import math
from collections import OrderedDict
from collections.abc import Hashable

from fhir_bulk_middleware.instant import Clock, Instant, seconds_between

__all__ = ["Throttle"]

_MOST = 10_000


class Throttle:
    """A bucket for each key (a job, an owner), which fills up again at a steady rate.

    Args:
        burst: how many a full bucket holds.
        rate: how many come back per second.
        clock: what time it is.
    """

    def __init__(self, burst: int, rate: float, clock: Clock) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, Instant]] = OrderedDict()

    def wait(self, key: Hashable) -> int:
        """Take one; 0 if there was one, else whole seconds until there is."""
        now = self._clock()
        left = self._left(key, now)
        self._buckets.pop(key, None)
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)  # the one unseen for longest; its bucket is full again anyway
        return self._seconds(left)

    def look(self, key: Hashable) -> int:
        """What `wait` would say; nothing is taken."""
        return self._seconds(self._left(key, self._clock())) if key in self._buckets else 0

    def _left(self, key: Hashable, now: Instant) -> float:
        left, at = self._buckets.get(key, (float(self._burst), now))
        return min(self._burst, left + max(seconds_between(at, now), 0.0) * self._rate)

    def _seconds(self, left: float) -> int:
        return 0 if left >= 1 else math.ceil((1 - left) / self._rate)
