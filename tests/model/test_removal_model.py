"""The laws hold in every state that the model can reach; and the search finds what the first version did wrong."""

import pytest
from removal_model import Design, Size, searched
from state_search import Found

WIDE = Size(batches=1, workers=3, attempts=4)
LONG = Size(batches=2, workers=2, attempts=2)
SMALL = Size(batches=1, workers=2, attempts=2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("size", "states"),
    [pytest.param(WIDE, 50_000, id="wide"), pytest.param(LONG, 200_000, id="long", marks=pytest.mark.long)],
)
def test_no_law_is_broken_whatever_happens_and_whoever_is_killed(size: Size, states: int) -> None:
    found = searched(size, Design())

    assert found.violations == {}
    assert found.states > states, "the search went everywhere"


def shown(**first_version: bool) -> Found:
    return searched(SMALL, Design(**first_version))


def test_a_report_from_memory_is_lost_with_its_worker() -> None:
    """What the first version did: 1,000 patients were gone, and no line was in the audit."""
    found = shown(outbox=False)

    assert set(found.violations) == {"law 37: a removal that nobody will record"}


def test_a_cancel_that_changes_the_state_first_is_not_the_end() -> None:
    """The server died between the two steps; the client's retry got 404, and a worker removed five more."""
    found = shown(end_first=False)

    way = found.violations["law 36: removed after a client was told that the job has ended"]
    assert way[-1] == "remove"
    assert "kill the server of the cancel" in way or "poll: 404" in way


def test_a_deadline_that_does_not_end_the_run_is_not_the_end() -> None:
    assert "law 36: removed after the state of the job has changed" in shown(deadline_ends=False).violations


def test_two_reads_make_an_empty_manifest() -> None:
    """A cancel and a sweep came between the read of the job and that of its parts."""
    found = shown(one_read=False)

    way = found.violations["law 35: a 200 that does not list all parts"]
    assert way.index("poll: read the job") < way.index("cancel: change the state") < way.index("sweep: reclaim")


def test_without_leases_a_slow_worker_publishes() -> None:
    found = shown(leases=False)

    assert "law 18: published after the job has ended" in found.violations
    assert "law 18: a batch was counted twice" in found.violations


def test_the_first_version_had_three_holes() -> None:
    found = shown(outbox=False, end_first=False, deadline_ends=False, one_read=False)

    assert {law.partition(":")[0] for law in found.violations} >= {"law 35", "law 36", "law 37"}
