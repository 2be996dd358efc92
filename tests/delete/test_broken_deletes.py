"""The kit tells good deletes from bad: each broken storage or log fails it, and the failure names the promise."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from broken_deletes import BROKEN


class _Failures:
    """A pytest plug-in that remembers what failed, by class."""

    def __init__(self) -> None:
        self.messages: defaultdict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.messages[report.nodeid.split("::")[1]].append(report.longreprtext)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    seen = _Failures()
    file = Path(__file__).with_name("broken_deletes.py")
    quiet = ["-q", "--no-header", "--no-summary", "--tb=short", "-p", "no:xdist", "--assert=plain", "-o", "timeout=0"]
    pytest.main([str(file), *quiet, f"--basetemp={tmp_path_factory.mktemp('broken')}"], plugins=[seen])
    return seen.messages


@pytest.mark.parametrize("broken", BROKEN)
def test_what_deletes_wrongly_fails_the_kit_by_the_name_of_its_promise(failures: dict[str, list[str]], broken: type[Any]) -> None:
    messages = failures[f"Test{broken.__name__}"]
    assert messages, f"the kit lets {broken.__name__} pass"
    assert any(f"AssertionError: {broken.promise}" in message for message in messages), messages
