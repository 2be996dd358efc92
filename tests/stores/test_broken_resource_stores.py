"""The kit tells good storage adapters from bad: each broken one fails it, and the failure names the promise."""

import inspect
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from broken_resource_stores import BROKEN, Broken

_source = cache(inspect.getsource)


class _Failures:
    """A pytest plug-in that runs what can tell, and remembers what failed, by class."""

    def __init__(self) -> None:
        self.messages: defaultdict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """A promise that stands in a test needs only that test; one in the kit's helpers needs all."""
        named = defaultdict(set)
        for item in items:
            if item.cls.broken.promise in _source(item.function):
                named[item.cls].add(item.function)
        items[:] = [item for item in items if item.function in named.get(item.cls, {item.function})]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.messages[report.nodeid.split("::")[1]].append(report.longreprtext)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    seen = _Failures()
    file = Path(__file__).with_name("broken_resource_stores.py")
    quiet = ["-q", "--no-header", "--no-summary", "--tb=short", "-p", "no:xdist", "--assert=plain", "-o", "timeout=0"]
    pytest.main([str(file), *quiet, f"--basetemp={tmp_path_factory.mktemp('broken')}"], plugins=[seen])
    return seen.messages


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_store_fails_the_kit_by_the_name_of_its_promise(failures: dict[str, list[str]], broken: type[Broken]) -> None:
    messages = failures[f"Test{broken.__name__}"]
    assert messages, f"the kit lets {broken.__name__} pass"
    assert any(f"AssertionError: {broken.promise}" in message for message in messages), messages
