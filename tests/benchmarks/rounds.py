"""Interleaved rounds: whatever else the machine does hits all contenders alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Series", "interleave", "timed"]

_CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Series:
    """What one contender measured, one value for each round.

    Attributes:
        values: seconds, or something per second.
        rate: more is better; else less is.
    """

    values: tuple[float, ...]
    rate: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)

    @property
    def sure(self) -> tuple[float, float] | None:
        """The narrowest range of ranks in which the true median lies with 90 % confidence; None if the rounds are too few.

        Whatever the distribution, a value is below its true median with probability one half, so the number of values below it is
        binomial. With 5 to 7 rounds the range goes from the least to the most, with 8 to 10 the outermost on each side do not
        count, and so on: more rounds narrow it.
        """
        found = None
        ordered = sorted(self.values)
        outside = 0.0  # the probability that the median lies beyond one end
        for rank in range((len(ordered) + 1) // 2):
            outside += math.comb(len(ordered), rank) / 2 ** len(ordered)
            if 1 - 2 * outside < _CONFIDENCE:
                break
            found = ordered[rank], ordered[-1 - rank]
        return found


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int, *, rate: bool = False, warm: bool = True
) -> dict[str, Series]:
    """Let all measure once, then again, and so on. The order turns by one from round to round, so that nobody is always after
    the same neighbour; a round before the first one, which warms caches, does not count."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    if warm:
        for measure in contenders.values():
            measure()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            values[name].append(contenders[name]())
    return {name: Series(tuple(found), rate) for name, found in values.items()}


def timed(action: Callable[[], object]) -> Callable[[], float]:
    """A contender that measures how many seconds an action takes."""

    def measure() -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return measure
