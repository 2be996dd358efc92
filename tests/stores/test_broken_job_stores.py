"""The kit tells good job stores from bad."""

from pathlib import Path

import pytest
from broken_job_stores import BROKEN
from kit_failures import assert_each_is_named, failures_of


@pytest.mark.timeout(1800)  # it runs the suites of all broken ones
def test_each_broken_store_fails_the_kit_by_the_name_of_its_promise(tmp_path: Path) -> None:
    assert_each_is_named(Path(__file__).with_name("broken_job_stores.py"), tmp_path, BROKEN)


CUT = """
from typing import ClassVar

import pytest


class Broken:
    promise = "a promise"


class TestBroken:
    broken: ClassVar[type[Broken]] = Broken

    def test_first(self) -> None:
        raise AssertionError("a promise")

    def test_second(self) -> None:
        {end}

    def test_third(self) -> None:
        raise AssertionError("a promise")
"""


@pytest.mark.parametrize(
    "end",
    [
        "raise KeyboardInterrupt",
        pytest.param("pytest.exit('enough')", marks=pytest.mark.long),
        pytest.param("pytest.fail('Timeout (>1.0s) from pytest-timeout.')", marks=pytest.mark.long),
    ],
)
def test_a_run_that_was_cut_is_an_error_and_no_verdict(tmp_path: Path, end: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(CUT.format(end=f"{end}  # a promise"))

    with pytest.raises(AssertionError, match="was cut"):
        failures_of(broken, tmp_path / "scratch")
