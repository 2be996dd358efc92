"""Token buckets that limit the rate of requests (ST-05, law 38). In memory, per server process (law 19)."""

import math
from collections import OrderedDict
from collections.abc import Hashable

from fhir_bulk_middleware.instant import Clock, Instant, seconds_between

__all__ = ["Throttle"]

_MOST = 10_000


class Throttle:
    """A token bucket for each key (a job, an owner).

    Args:
        burst: tokens in a full bucket.
        rate: tokens that come back per second.
        clock: the current time.
    """

    def __init__(self, burst: int, rate: float, clock: Clock) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, Instant]] = OrderedDict()

    def wait(self, key: Hashable) -> int:
        """Take a token. 0 if there was one, else the whole seconds until there is one."""
        now = self._clock()
        left = self._left(key, now)
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)  # the least recently used bucket, which is full again by now
        return 0 if left >= 1 else self._seconds(left)

    def knows(self, key: Hashable) -> bool:
        """Whether a token was taken for this key, as far as it is remembered."""
        return key in self._buckets

    def look(self, key: Hashable) -> int:
        """What `wait` would return, without taking a token."""
        return self._seconds(self._left(key, self._clock())) if key in self._buckets else 0

    def _left(self, key: Hashable, now: Instant) -> float:
        left, at = self._buckets.get(key, (float(self._burst), now))
        return min(self._burst, left + max(seconds_between(at, now), 0.0) * self._rate)

    def _seconds(self, left: float) -> int:
        return 0 if left >= 1 else math.ceil((1 - left) / self._rate)
