"""Shows that a suite of the kit tells good from bad: each broken implementation fails it, and the failure names the promise."""

import inspect
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

__all__ = ["Breaking", "assert_each_is_named", "failures_of"]

_QUIET = ["-q", "--no-header", "--no-summary", "--tb=native", "-p", "no:xdist", "--assert=plain", "-o", "timeout=0"]
_source = cache(inspect.getsource)


class Breaking(Protocol):
    """A broken implementation."""

    promise: ClassVar[str]


class _Failures:
    """A pytest plug-in that runs what can tell, and remembers what failed, by class."""

    def __init__(self) -> None:
        self.messages: defaultdict[str, list[str]] = defaultdict(list)
        self.unfinished: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """A promise that stands in a test needs only that test; one in the kit's helpers needs all."""
        named = defaultdict(set)
        for item in items:
            if item.cls.broken.promise in _source(item.function):
                named[item.cls].add(item.function)
        items[:] = [item for item in items if item.function in named.get(item.cls, {item.function})]
        self.unfinished = {item.nodeid for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure, and which tests came to their end."""
        if report.when == "teardown":
            self.unfinished.discard(report.nodeid)
        if report.failed:
            self.messages[report.nodeid.split("::")[1]].append(report.longreprtext)


def failures_of(file: Path, scratch: Path) -> dict[str, list[str]]:
    """Run the suites of a file of broken implementations, in a session of their own; by class, what failed.

    Each class in it has the broken implementation as `broken`, which has its `promise`. A run that did not come to its end says
    nothing of any of them, and is an error.
    """
    seen = _Failures()
    ended = pytest.main([str(file), *_QUIET, f"--basetemp={scratch}"], plugins=[seen])
    assert ended == pytest.ExitCode.TESTS_FAILED, f"the run of {file.name} was cut: pytest ended with {ended!r}"
    assert not seen.unfinished, f"the run of {file.name} was cut: {len(seen.unfinished)} tests did not come to their end"
    cut = [name for name, messages in seen.messages.items() if any("from pytest-timeout" in message for message in messages)]
    assert not cut, f"the run of {file.name} was cut by a time limit, in {cut}"
    return seen.messages


def assert_each_is_named(file: Path, scratch: Path, broken: Iterable[type[Breaking]]) -> None:
    """The suite fails for each broken implementation in a file, and a message names the promise that it breaks."""
    failures = failures_of(file, scratch)
    for one in broken:
        messages = failures[f"Test{one.__name__}"]
        assert messages, f"the kit lets {one.__name__} pass"
        assert any(f"AssertionError: {one.promise}" in message for message in messages), (one.__name__, messages)
