"""The harness reports what it measures, and says what it could not measure."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from . import __main__ as suite
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


@pytest.mark.parametrize(
    ("rounds", "sure"),
    [(4, None), (5, (0, 4)), (7, (0, 6)), (8, (1, 6)), (11, (2, 8))],
)
def test_the_range_of_the_true_median_needs_five_rounds_and_more_rounds_narrow_it(
    rounds: int, sure: tuple[float, float] | None
) -> None:
    assert Series(tuple(reversed(range(rounds)))).sure == sure


def test_a_ratio_is_taken_within_each_round() -> None:
    found = ratio("1", "x", Series((4, 6, 9)), Series((2, 2, 9)))

    assert list(found.values) == [2, 3, 1]
    assert "6,000.0 ms / 2,000.0 ms" in found.note


@pytest.mark.parametrize(
    ("goal", "sure", "verdict"),
    [
        (Goal(1.8, 3.2), (1.7, 1.8), "reached"),
        (Goal(1.8, 3.2), (1.7, 1.9), "unclear"),
        (Goal(1.8, 3.2), (1.7, 3.3), "unclear"),
        (Goal(1.8, 3.2), (1.9, 3.2), "missed"),
        (Goal(1.8, 3.2), (1.9, 3.3), "missed, floor unclear"),
        (Goal(1.8, 3.2), (3.3, 3.4), "REGRESSION"),
        (Goal(0.9, 0.7, more=True), (0.9, 1.0), "reached"),
        (Goal(0.9, 0.7, more=True), (0.8, 0.9), "unclear"),
        (Goal(0.9, 0.7, more=True), (0.7, 0.8), "missed"),
        (Goal(0.9, 0.7, more=True), (0.6, 0.8), "missed, floor unclear"),
        (Goal(0.9, 0.7, more=True), (0.5, 0.6), "REGRESSION"),
        (Goal(1.8, 3.2), None, "unclear"),
    ],
)
def test_a_verdict_is_given_only_as_far_as_the_spread_allows_it(
    goal: Goal, sure: tuple[float, float] | None, verdict: str
) -> None:
    assert goal.verdict(sure) == verdict


def test_what_is_exact_needs_one_value_for_a_verdict() -> None:
    assert Figure("16", "differences", (0,)).verdict == "unclear"
    assert Figure("16", "differences", (0,), exact=True).verdict == "reached"
    assert Figure("", "no goal", (0,), exact=True).verdict == ""


@pytest.mark.parametrize("row", GOALS)
def test_no_floor_is_stricter_than_its_goal(row: str) -> None:
    goal = GOALS[row]
    assert goal.verdict((goal.goal, goal.goal)) == "reached"
    assert goal.verdict((goal.floor, goal.floor)) in {"missed", "reached"}


def test_the_table_has_each_figure_with_its_spread_and_its_goal_and_each_reason() -> None:
    values = (4.0, 2.5, 2.0, 2.5, 3.0)
    text = table([Figure("4", "gzip / plain", values, "a note"), Skipped("11", "download", "there is no nginx here")])

    head, figure, skipped = text.splitlines()
    assert head.split() == ["row", "figure", "median", "min", "max", "goal", "floor"]
    assert figure.split() == ["4", "gzip", "/", "plain", "2.50", "2.00", "4.00", "<=", "1.1", "1.4", "REGRESSION", "a", "note"]
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

    skipped = [(item.row, item.why) for item in found if isinstance(item, Skipped)]
    assert skipped == [("1", "there is no sqlite3 shell here"), ("2", "there is no sqlite3 shell here")]


@pytest.mark.long
def test_files_that_are_not_what_the_store_holds_are_found(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, rounds=1, resources=300)
    assert {figure.values for figure in identical(bench)} == {(0,)}

    with bench.data.plain.open("ab") as plain:
        plain.write(b'{"resourceType":"Patient","id":"never exported"}\n')

    assert {figure.verdict for figure in identical(bench)} == {"REGRESSION"}


def test_an_interrupted_run_prints_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Bench) -> Iterator[Figure]:
        yield Figure("", "measured", (1.0,))
        raise KeyboardInterrupt

    monkeypatch.setitem(suite.SCENARIOS, "host", interrupted)
    monkeypatch.setattr(suite, "noise", lambda _: ())

    assert suite.main(["--quick", "--only", "host", "--work", str(tmp_path)]) == 130

    told = capsys.readouterr().out
    assert "measured" in told
    assert told.endswith("Interrupted: the rest was not measured.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(1_000)
def test_one_command_measures_and_prints_the_table(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            f"{__package__}",
            "--quick",
            "--only",
            "host",
            "--only",
            "incremental",
            "--only",
            "loading",
            "--work",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,  # it takes half a minute on a quiet machine
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path), "PYTHONWARNINGS": ""},
    )

    assert ran.returncode == 0, ran.stderr
    rows = [line.split("  ")[0].strip() for line in ran.stdout.splitlines()[2:-2]]
    assert rows == ["noise", "12", "12", "7b ms", "7b jobs", "7b all", "17", "17 cores"]
    unclear, small = ran.stdout.splitlines()[-2:]
    assert "More rounds" in unclear
    assert "too small to judge" in small
    assert list(tmp_path.iterdir()) == []
