"""Who polls too often is told when to come again (ST-05); per server process and in memory (law 19)."""

import math
from collections import OrderedDict

from fhir_bulk_middleware.instant import Clock, Instant, seconds_between

__all__ = ["Throttle"]

_MOST = 10_000


class Throttle:
    """A bucket of polls for each job, which fills up again at a steady rate.

    Args:
        burst: how many polls a full bucket holds.
        rate: how many come back per second.
        clock: what time it is.
    """

    def __init__(self, burst: int, rate: float, clock: Clock) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, Instant]] = OrderedDict()

    def wait(self, job_id: str) -> int:
        """Take a poll; 0 if there was one, else whole seconds until there is."""
        now = self._clock()
        left, at = self._buckets.pop(job_id, (float(self._burst), now))
        left = min(self._burst, left + max(seconds_between(at, now), 0.0) * self._rate)
        allowed = left >= 1
        self._buckets[job_id] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)  # the one unseen for longest; its bucket is full again anyway
        return 0 if allowed else math.ceil((1 - left) / self._rate)
