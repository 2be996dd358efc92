"""What was measured, beside what is wanted, as a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .rounds import Series

__all__ = ["GOALS", "UNCLEAR", "Figure", "Goal", "Skipped", "ratio", "table"]

UNCLEAR = (
    "unclear: the true median may lie on either side of the goal, as far as these rounds can say (90 % confidence; 5 rounds are"
    " the least). More rounds (--rounds 11) or a quieter machine say it; the first row shows how much the machine varies.\n"
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should come to, and what is a regression."""

    goal: float
    floor: float
    more: bool = False

    def verdict(self, sure: tuple[float, float] | None) -> str:
        """What is certain of a median that lies within a range; None if nothing is known of it."""
        if sure is None:
            return "unclear"
        better, worse = reversed(sure) if self.more else sure
        if self._within(worse, self.goal):
            return "reached"
        if self._within(better, self.goal):
            return "unclear"
        if self._within(worse, self.floor):
            return "missed"
        return "missed, floor unclear" if self._within(better, self.floor) else "REGRESSION"

    def _within(self, value: float, limit: float) -> bool:
        return value >= limit if self.more else value <= limit

    def show(self) -> tuple[str, str]:
        sign = ">=" if self.more else "<="
        return f"{sign} {self.goal:.3g}", f"{self.floor:.3g}"


GOALS: Mapping[str, Goal] = {
    "1": Goal(0.6, 0.9),
    "2": Goal(1.1, 1.6),
    "2c": Goal(0.05, 0.2),
    "2c disk": Goal(1.05, 1.5),
    "3": Goal(0.75, 1.2),
    "3b": Goal(0.95, 1.3),
    "4": Goal(1.1, 1.4),
    "4 bytes": Goal(1 / 12, 1 / 6),
    "5": Goal(10.5, 13),
    "5 MB": Goal(48, 96),
    "6 1 %": Goal(0.03, 0.08),
    "6 10 %": Goal(0.12, 0.25),
    "context 10 %": Goal(1.25, 1.5),
    "7 1 %": Goal(0.02, 0.10),
    "7 10 %": Goal(0.11, 0.30),
    "7b ms": Goal(30, 200),
    "7b jobs": Goal(12, 40),
    "7b all": Goal(20, 60),
    "8": Goal(1.5, 3.0),
    "8b": Goal(0.05, 0.5),
    "9": Goal(0.55, 0.35, more=True),
    "10": Goal(0.9, 0.7, more=True),
    "10 p99 ms": Goal(5, 50),
    "11": Goal(0.9, 0.4, more=True),
    "11 plain": Goal(0.75, 0.4, more=True),
    "11b": Goal(1.15, 1.6),
    "12": Goal(0.97, 0.9, more=True),
    "in loop p99 ms": Goal(25, 100),
    "13 p50 ms": Goal(2, 25),
    "13 read ms": Goal(10, 250),
    "13b warm s": Goal(0.15, 0.5),
    "13b cold s": Goal(0.6, 1.5),
    "15 wait": Goal(7.2, 5.5, more=True),
    "15 cpu": Goal(1.8, 1.4, more=True),
    "15 copy": Goal(1.3, 2.0),
    "15 large": Goal(1.2, 1.5),
    "15 memory": Goal(1.1, 1.5),
    "16": Goal(0, 0),
    "17": Goal(1.0, 3.2),
    "17 cores": Goal(1.5, 1.0, more=True),
    "18": Goal(0.6, 0.9),
}
"""By row of the table of goals; a row of several figures has several.

The project's table has no goal for `2c disk`, `3b`, `context 10 %` and `in loop p99 ms`, and no floor for `4 bytes` and
`10 p99 ms`: they are ours. Of loading it says that both cores are used, which is here the work of one and a half (`17 cores`).
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        row: which goal it is about, empty if about none.
        name: what it is.
        values: one of each round; ratios unless the name says otherwise.
        note: the baseline, and what stands behind the ratio.
        exact: whether it would be the same in every round, such as a number of bytes, so that one value is enough.
    """

    row: str
    name: str
    values: tuple[float, ...]
    note: str = ""
    exact: bool = False

    @property
    def series(self) -> Series:
        return Series(self.values)

    @property
    def verdict(self) -> str:
        """Empty if there is no goal."""
        if self.row not in GOALS:
            return ""
        series = self.series
        return GOALS[self.row].verdict((series.least, series.most) if self.exact else series.sure)


@dataclass(frozen=True, slots=True)
class Skipped:
    """What could not be measured here, and why."""

    row: str
    name: str
    why: str


def ratio(row: str, name: str, mine: Series, baseline: Series, note: str = "") -> Figure:
    """Mine in parts of the baseline's, round by round: the two of a round met the same machine."""
    absolute = f"{_absolute(mine)} / {_absolute(baseline)}"
    values = tuple(value / base for value, base in zip(mine.values, baseline.values, strict=True))
    return Figure(row, name, values, f"{absolute}{note and ', '}{note}")


def table(found: Iterable[Figure | Skipped]) -> str:
    """All as text."""
    rows = [("row", "figure", "median", "min", "max", "goal", "floor", "", "")]
    for item in found:
        if isinstance(item, Skipped):
            rows.append((item.row, item.name, "-", "-", "-", *_goal(item.row), "not measured", item.why))
        else:
            series = item.series
            numbers = (_number(series.median), _number(series.least), _number(series.most))
            rows.append((item.row, item.name, *numbers, *_goal(item.row), item.verdict, item.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join((*map(str.ljust, row, widths), row[-1])).rstrip() for row in rows) + "\n"


def _goal(row: str) -> tuple[str, str]:
    return GOALS[row].show() if row in GOALS else ("", "")


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _absolute(series: Series) -> str:
    return f"{series.median:,.0f}/s" if series.rate else f"{series.median * 1000:,.1f} ms"
