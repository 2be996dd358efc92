"""The harness reports what it measures, and says what it could not measure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from .bench import Bench
from .figures import GOALS, Figure, Goal, Skipped, ratio, table
from .files import files, identical
from .rounds import Series, interleave, timed


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleave({"a": lambda: contender("a"), "b": lambda: contender("b")}, 3)

    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert found["a"].values == (3.0, 6.0, 7.0)
    assert found["b"].values == (4.0, 5.0, 8.0)


def test_the_best_time_is_the_shortest_and_the_best_rate_the_highest() -> None:
    assert (Series((3, 1, 2)).best, Series((3, 1, 2)).median) == (1, 2)
    assert Series((3, 1, 2), rate=True).best == 3


def test_a_ratio_sets_medians_and_best_rounds_against_their_like() -> None:
    found = ratio("1", "x", Series((4, 6, 8)), Series((2, 3, 5)))

    assert (found.median, found.best) == (2, 2)
    assert "6,000.0 ms / 3,000.0 ms" in found.note


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal(1.8, 3.2), 1.8, "reached"),
        (Goal(1.8, 3.2), 1.9, "missed"),
        (Goal(1.8, 3.2), 3.3, "REGRESSION"),
        (Goal(0.9, 0.7, more=True), 0.9, "reached"),
        (Goal(0.9, 0.7, more=True), 0.8, "missed"),
        (Goal(0.9, 0.7, more=True), 0.6, "REGRESSION"),
    ],
)
def test_a_figure_is_held_against_goal_and_floor(goal: Goal, value: float, verdict: str) -> None:
    assert goal.verdict(value) == verdict


@pytest.mark.parametrize("row", GOALS)
def test_no_floor_is_stricter_than_its_goal(row: str) -> None:
    goal = GOALS[row]
    assert goal.verdict(goal.goal) == "reached"
    assert goal.verdict(goal.floor) in {"missed", "reached"}


def test_the_table_has_each_figure_with_its_goal_and_each_reason() -> None:
    text = table([Figure("1", "files / cat", 2.5, 2.25, "a note"), Skipped("11", "download", "there is no nginx here")])

    head, figure, skipped = text.splitlines()
    assert head.split() == ["row", "figure", "median", "best", "goal", "floor"]
    assert figure.split("  ")[0] == "1"
    assert "2.50" in figure
    assert "<= 1.8" in figure
    assert figure.endswith("missed        a note")
    assert skipped.endswith("not measured  there is no nginx here")


def test_timed_measures_the_action() -> None:
    done: list[int] = []
    seconds = timed(lambda: done.append(1))()

    assert done == [1]
    assert 0 <= seconds < 60


@pytest.mark.long
def test_a_missing_tool_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    found = list(files(Bench(folder=tmp_path, rounds=1, resources=300)))

    (skipped,) = [item for item in found if isinstance(item, Skipped)]
    assert (skipped.row, skipped.why) == ("2", "there is no sqlite3 shell here")


@pytest.mark.long
def test_files_that_are_not_what_the_store_holds_are_found(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, rounds=1, resources=300)
    assert {figure.median for figure in identical(bench)} == {0}

    with bench.data.plain.open("ab") as plain:
        plain.write(b'{"resourceType":"Patient","id":"never exported"}\n')

    assert {figure.verdict for figure in identical(bench)} == {"REGRESSION"}


@pytest.mark.long
def test_one_command_measures_and_prints_the_table(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"{__package__}", "--quick", "--only", "host", "--only", "kick-off", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path), "PYTHONWARNINGS": ""},
    )

    assert ran.returncode == 0, ran.stderr
    rows = [line.split("  ")[0].strip() for line in ran.stdout.splitlines()[2:-1]]
    assert rows == ["12", "12", "13 p50 ms", "13 read ms"]
    assert "too small to judge" in ran.stdout
    assert list(tmp_path.iterdir()) == []
