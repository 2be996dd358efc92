"""Interleaved rounds: whatever else the machine does hits all contenders alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Series", "interleave", "timed"]


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
    def best(self) -> float:
        """The round that was disturbed least."""
        return max(self.values) if self.rate else min(self.values)


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
