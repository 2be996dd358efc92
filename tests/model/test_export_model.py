"""The laws hold in every state that an export on many machines can reach; and the search shows what each step prevents."""

import pytest
from export_model import Design, Size, searched
from state_search import Found

SMALL = Size(slices=1, workers=2, attempts=2)


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize(
    ("size", "states"),
    [
        pytest.param(SMALL, 38_000, id="small"),
        pytest.param(Size(slices=1, workers=2, attempts=3), 150_000, id="attempts", marks=pytest.mark.long),
        pytest.param(Size(slices=1, workers=3, attempts=2), 90_000, id="workers", marks=pytest.mark.long),
        pytest.param(Size(slices=2, workers=2, attempts=1), 60_000, id="slices", marks=pytest.mark.long),
    ],
)
def test_no_law_is_broken_whatever_happens_and_whoever_is_killed(size: Size, states: int) -> None:
    """Nothing is published late or twice, no record promises a file that is missing, each job ends, and nothing stays behind."""
    found = searched(size, Design())

    assert found.violations == {}
    assert found.states > states, "the search went everywhere"


def shown(**otherwise: bool) -> Found:
    return searched(SMALL, Design(**otherwise))


def laws(found: Found) -> set[str]:
    return {law.partition(":")[0] for law in found.violations}


@pytest.mark.long
def test_without_fencing_a_slow_worker_publishes() -> None:
    assert "law 18: published after the job has ended" in shown(fenced=False).violations


@pytest.mark.long
def test_a_checkpoint_before_its_file_promises_what_may_never_be() -> None:
    assert laws(shown(sealed_first=False)) == {"law 30"}


@pytest.mark.long
def test_files_that_go_before_their_job_ends_are_missing() -> None:
    assert laws(shown(states_first=False)) == {"law 30"}


@pytest.mark.long
def test_what_a_late_worker_wrote_stays_unless_sweeps_look_for_it() -> None:
    assert laws(shown(orphans=False)) == {"DL-08"}


@pytest.mark.long
def test_an_upload_that_was_begun_after_its_job_was_swept_is_seen_by_a_list_of_uploads_alone() -> None:
    """Its note went with the sweep, and no object shows the job any more; so it was until this model found it."""
    found = shown(uploads_listed=False)

    (way,) = found.violations.values()
    assert laws(found) == {"DL-08"}
    assert way.index("sweep: delete objects") < way.index("begin an upload") < way.index("kill a worker")


@pytest.mark.long
def test_work_that_is_given_back_needs_another_ticket() -> None:
    assert laws(shown(topped_up=False)) == {"law 43"}


@pytest.mark.long
def test_tickets_of_dead_workers_are_replaced_where_free_work_is_counted() -> None:
    """Whether procrastinate retries them does not decide whether the job ends."""
    assert shown(retried=False).violations == {}
    assert laws(shown(topped_up=False, retried=False)) == {"law 43"}
