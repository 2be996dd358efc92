import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jobs_of import EVERYTHING, job
from listed import NOW, Complete, Listed

from fhir_bulk_middleware.contract.job import FileKind, Job
from fhir_bulk_middleware.contract.query import Compartments, EveryPatient, Rows, Window
from fhir_bulk_middleware.contract.storage import SupportsDeletions
from fhir_bulk_middleware.export.plan import Planner
from fhir_bulk_middleware.instant import Instant, Precision, after, floor, system_clock
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

LINES = {"Patient": ["p"] * 2, "Observation": ["o"] * 7, "Encounter": []}
ROWS = Rows(EVERYTHING)
SINCE = after(NOW, -3600)


def planner(resources: Listed) -> Planner:
    deletions = resources if isinstance(resources, SupportsDeletions) else None
    return Planner(resources, Settings(settle=5, page_bytes=4096), lambda: NOW, deletions)


def asked(window: Window = Window(), precision: Precision = Precision.SECONDS) -> Job:  # noqa: B008 - frozen
    return job(*LINES, window=window, created_at=NOW, precision=precision)


@pytest.mark.anyio
@pytest.mark.parametrize("precision", Precision)
async def test_the_cut_is_the_storages_own_where_it_can_be_read_as_of_an_instant(precision: Precision) -> None:
    plan = await planner(Complete(LINES)).plan(asked(precision=precision), ROWS)
    assert plan.cut == floor(NOW, precision)


@pytest.mark.anyio
@pytest.mark.parametrize("precision", Precision)
async def test_without_snapshots_the_cut_lies_before_transactions_that_may_be_open(precision: Precision) -> None:
    plan = await planner(Listed(LINES)).plan(asked(precision=precision), ROWS)
    assert plan.cut == floor(after(NOW, -5), precision)


@pytest.mark.anyio
async def test_slices_are_numbered_by_type_and_place_and_types_without_any_have_none() -> None:
    plan = await planner(Complete(LINES)).plan(asked(), ROWS)
    assert [(part.number, part.kind, part.type, part.range, part.estimate) for part in plan.slices] == [
        (0, FileKind.OUTPUT, "Observation", "0-3", 3),
        (1, FileKind.OUTPUT, "Observation", "3-6", 3),
        (2, FileKind.OUTPUT, "Observation", "6-7", 1),
        (3, FileKind.OUTPUT, "Patient", "0-2", 2),
    ]


@pytest.mark.anyio
async def test_an_adapter_that_cannot_slice_has_one_slice_per_type() -> None:
    plan = await planner(Listed(LINES)).plan(asked(), ROWS)
    assert [(part.number, part.type, part.range) for part in plan.slices] == [
        (0, "Encounter", ""),
        (1, "Observation", ""),
        (2, "Patient", ""),
    ]


def observations(count: int, size: int) -> Iterator[bytes]:
    """Lines of about this many bytes."""
    words = "x" * size
    for number in range(count):
        observation = {"resourceType": "Observation", "id": str(number), "status": "final", "code": {"text": words}}
        yield json.dumps(observation).encode()


async def shares(store: SQLiteResourceStore, workers: int) -> list[int]:
    """The estimates of the slices of an export of one type."""
    settings = Settings(worker_processes=workers)
    asked = job("Observation", "Patient", created_at=NOW, precision=Precision.MICROSECONDS)
    plan = await Planner(store, settings, system_clock, store).plan(asked, ROWS)
    return [piece.estimate for piece in plan.slices if piece.type == "Observation"]


@pytest.mark.anyio
@pytest.mark.parametrize(("workers", "slices"), [(0, 1), (1, 1), (2, 2), (3, 3), (64, 4)])
async def test_a_type_alone_is_shared_among_the_workers(tmp_path: Path, workers: int, slices: int) -> None:
    """Law 15: no slice is smaller than 4 MiB for that."""
    store = SQLiteResourceStore(tmp_path / "store.db")
    store.load(observations(1_500, 11_000))
    estimates = await shares(store, workers)
    store.close()

    assert len(estimates) == slices
    assert sum(estimates) == pytest.approx(1_500, abs=slices)
    assert max(estimates) - min(estimates) <= 0.1 * max(estimates), "of equal cost"


@pytest.mark.anyio
@pytest.mark.parametrize(("count", "size"), [(900, 11_000), (3_000, 100)])
async def test_what_is_small_is_not_divided(tmp_path: Path, count: int, size: int) -> None:
    """Law 44."""
    store = SQLiteResourceStore(tmp_path / "store.db")
    store.load(observations(count, size))
    assert len(await shares(store, 2)) == 1
    store.close()


@pytest.mark.anyio
async def test_a_type_that_is_no_more_than_a_workers_share_is_not_divided(tmp_path: Path) -> None:
    store = SQLiteResourceStore(tmp_path / "store.db")
    store.load(observations(1_500, 11_000))
    store.load(json.dumps({"resourceType": "Patient", "id": str(number)}).encode() for number in range(1_600))
    assert len(await shares(store, 2)) == 1
    store.close()


@pytest.mark.anyio
async def test_deletions_are_planned_after_the_output_if_they_are_asked_for_since_an_instant() -> None:
    resources = Complete({**LINES, "Patient": ["p"]}, deleted=["Patient/1", "Encounter/1", "Encounter/2"])
    plan = await planner(resources).plan(asked(Window(SINCE)), ROWS)
    assert [(part.kind, part.type, part.range) for part in plan.slices[-2:]] == [
        (FileKind.OUTPUT, "Patient", "0-1"),
        (FileKind.DELETED, "Bundle", '["Encounter", "Patient"]'),
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("adapter", [Listed, Complete])
async def test_of_a_type_without_a_change_an_export_since_an_instant_has_no_slice(adapter: type[Listed]) -> None:
    """Law 44: whether or not the adapter can slice."""
    plan = await planner(adapter({"Observation": [], "Patient": ["p"]})).plan(
        job("Observation", "Patient", window=Window(SINCE), created_at=NOW), ROWS
    )
    assert [(part.kind, part.type) for part in plan.slices] == [(FileKind.OUTPUT, "Patient")]
    nothing = await planner(adapter({"Observation": []})).plan(job("Observation", window=Window(SINCE), created_at=NOW), ROWS)
    assert nothing.slices == ()


@pytest.mark.anyio
@pytest.mark.parametrize(("resources", "window"), [(Complete(LINES), Window()), (Listed(LINES), Window(SINCE))])
async def test_deletions_are_not_planned_without_since_or_without_an_adapter_that_knows_them(
    resources: Listed, window: Window
) -> None:
    plan = await planner(resources).plan(asked(window), ROWS)
    assert FileKind.DELETED not in {part.kind for part in plan.slices}


@pytest.mark.anyio
async def test_a_group_without_members_reads_nothing() -> None:
    plan = await planner(Complete(LINES)).plan(asked(Window(SINCE)), Rows(Compartments(frozenset())))
    assert plan.slices == ()
    assert plan.cut == floor(NOW, Precision.SECONDS)


@pytest.mark.parametrize(("until", "expected"), [(None, NOW), (Instant(NOW - 1), Instant(NOW - 1)), (Instant(NOW + 1), NOW)])
def test_with_snapshots_the_window_ends_at_the_cut_or_before(until: Instant | None, expected: Instant) -> None:
    planned = replace(asked(Window(SINCE, until)), cut=NOW)
    query = planner(Complete(LINES)).query(planned, Rows(EveryPatient(), "note"), "Patient", "0-1")
    assert (query.window, query.as_of) == (Window(SINCE, expected), NOW)
    assert (query.type, query.range, query.selection, query.rights) == ("Patient", "0-1", EveryPatient(), "note")
    assert query.page_bytes == 4096


@pytest.mark.parametrize("until", [None, Instant(NOW - 1)])
def test_without_snapshots_nothing_that_changed_before_the_export_began_is_cut_off(until: Instant | None) -> None:
    planned = replace(asked(Window(SINCE, until)), cut=after(NOW, -5))
    query = planner(Listed(LINES)).query(planned, ROWS, "Patient")
    assert (query.window, query.as_of) == (Window(SINCE, until), None)
