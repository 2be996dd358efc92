"""The table of mutants fits the package; `python -m tests.mutants` runs it."""

from collections import Counter
from pathlib import Path

import pytest

from .mutation import ROOT, Mutant, Verdict, copied, mutated, run
from .table import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_changes_one_place_and_names_tests_that_exist(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text("utf-8")

    assert mutant.applied(text) != text
    assert mutant.tests
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).exists(), f"{mutant.name} names {test}"


def test_no_two_mutants_share_a_name() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)

    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_bug_in_the_copy_is_seen_and_a_copy_without_one_passes(tmp_path: Path) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "range-end-exclusive")
    with copied(tmp_path) as place:
        calm = run(place, mutant.tests)
        with mutated(place, mutant):
            broken = run(place, mutant.tests)

    assert calm.verdict is Verdict.SURVIVED, calm.tail
    assert broken.verdict is Verdict.CAUGHT, broken.tail
