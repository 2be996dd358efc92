"""The kit tells good deletes from bad, be they a storage's or our own log's."""

from pathlib import Path
from typing import Any

import pytest
from broken_deletes import BROKEN
from kit_failures import assert_named, failures_of

pytestmark = pytest.mark.timeout(1800)  # the first test runs the suites of all broken ones


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return failures_of(Path(__file__).with_name("broken_deletes.py"), tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_delete_fails_the_kit_by_the_name_of_its_promise(failures: dict[str, list[str]], broken: type[Any]) -> None:
    assert_named(failures, broken.__name__, broken.promise)
