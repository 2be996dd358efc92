"""What was measured, beside what is wanted, as a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .rounds import Series

__all__ = ["GOALS", "Figure", "Goal", "Skipped", "ratio", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should come to, and what is a regression."""

    goal: float
    floor: float
    more: bool = False

    def verdict(self, value: float) -> str:
        """In one word."""
        sign = -1 if self.more else 1
        if sign * value <= sign * self.goal:
            return "reached"
        return "missed" if sign * value <= sign * self.floor else "REGRESSION"

    def show(self) -> tuple[str, str]:
        sign = ">=" if self.more else "<="
        return f"{sign} {self.goal:g}", f"{self.floor:g}"


GOALS: Mapping[str, Goal] = {
    "1": Goal(1.8, 3.2),
    "2": Goal(1.2, 1.6),
    "2c": Goal(0.05, 0.2),
    "2c disk": Goal(1.05, 1.5),
    "3": Goal(0.75, 1.2),
    "3b": Goal(0.95, 1.3),
    "4": Goal(1.1, 1.4),
    "4 bytes": Goal(1 / 9, 1 / 6),
    "5": Goal(11, 13),
    "5 MB": Goal(48, 96),
    "6 1 %": Goal(0.03, 0.08),
    "6 10 %": Goal(0.12, 0.25),
    "context 10 %": Goal(1.25, 1.5),
    "7 1 %": Goal(0.05, 0.10),
    "7 10 %": Goal(0.15, 0.30),
    "8": Goal(2.2, 3.0),
    "8b": Goal(0.05, 0.5),
    "9": Goal(0.55, 0.3, more=True),
    "10": Goal(0.9, 0.7, more=True),
    "10 p99 ms": Goal(5, 50),
    "11": Goal(0.75, 0.4, more=True),
    "11 plain": Goal(0.85, 0.6, more=True),
    "11b": Goal(1.25, 1.6),
    "12": Goal(0.95, 0.85, more=True),
    "in loop p99 ms": Goal(25, 100),
    "13 p50 ms": Goal(5, 25),
    "13 read ms": Goal(25, 250),
    "13b warm s": Goal(0.15, 0.5),
    "13b cold s": Goal(0.6, 1.5),
    "16": Goal(0, 0),
    "18": Goal(0.6, 0.9),
}
"""By row of the table of goals; a row of two figures has two."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        row: which goal it is about, empty if about none.
        name: what it is.
        median: of the rounds; a ratio unless the name says otherwise.
        best: of the rounds that were disturbed least.
        note: the baseline, and what stands behind the ratio.
    """

    row: str
    name: str
    median: float
    best: float
    note: str = ""

    @property
    def verdict(self) -> str:
        return GOALS[self.row].verdict(self.median) if self.row else ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What could not be measured here, and why."""

    row: str
    name: str
    why: str


def ratio(row: str, name: str, mine: Series, baseline: Series, note: str = "") -> Figure:
    """Mine in parts of the baseline's, medians and best rounds each with their like."""
    absolute = f"{_absolute(mine)} / {_absolute(baseline)}"
    return Figure(row, name, mine.median / baseline.median, mine.best / baseline.best, f"{absolute}{note and ', '}{note}")


def table(found: Iterable[Figure | Skipped]) -> str:
    """All as text."""
    rows = [("row", "figure", "median", "best", "goal", "floor", "", "")]
    for item in found:
        if isinstance(item, Skipped):
            rows.append((item.row, item.name, "-", "-", *_goal(item.row), "not measured", item.why))
        else:
            numbers = (_number(item.median), _number(item.best))
            rows.append((item.row, item.name, *numbers, *_goal(item.row), item.verdict, item.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join((*map(str.ljust, row, widths), row[-1])).rstrip() for row in rows) + "\n"


def _goal(row: str) -> tuple[str, str]:
    return GOALS[row].show() if row in GOALS else ("", "")


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _absolute(series: Series) -> str:
    return f"{series.median:,.0f}/s" if series.rate else f"{series.median * 1000:,.1f} ms"
