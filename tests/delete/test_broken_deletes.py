"""The kit tells good deletes from bad, be they a storage's or our own log's."""

from pathlib import Path

import pytest
from broken_deletes import BROKEN
from kit_failures import assert_each_is_named


@pytest.mark.timeout(1800)  # it runs the suites of all broken ones
def test_each_broken_delete_fails_the_kit_by_the_name_of_its_promise(tmp_path: Path) -> None:
    assert_each_is_named(Path(__file__).with_name("broken_deletes.py"), tmp_path, BROKEN)
