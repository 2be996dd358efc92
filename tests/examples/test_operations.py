"""The dashboard and the alerts of `examples/operations` are about metrics that exist, and show what a server tells."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import populate
from waiting import until

from fhir_bulk_middleware.contract.figures import Census, Figures
from fhir_bulk_middleware.instant import Instant, after
from fhir_bulk_middleware.observers.figure_files import GAUGES
from fhir_bulk_middleware.observers.metrics import Metrics
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore

OPERATIONS = Path(__file__).resolve().parents[2] / "examples" / "operations"
DASHBOARD: dict[str, Any] = json.loads((OPERATIONS / "dashboard.json").read_text())
RULES: dict[str, Any] = yaml.safe_load((OPERATIONS / "alerts.yaml").read_text())
_METRIC = re.compile(r"\bfhir_bulk_\w+")
AT = Instant(1_700_000_000_000_000)


def shown(metrics: Metrics) -> dict[str, float]:
    """All samples that a scrape has, by name and labels."""
    text = metrics.text()[0].decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


def names(metrics: Metrics) -> set[str]:
    """The name of each sample that the families of a scrape can have."""
    of = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in metrics.collect() for suffix in of[family.type]}


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query")
    for group in RULES["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_that_is_named_exists_and_every_metric_is_shown(tmp_path: Path) -> None:
    known = names(Metrics(tmp_path))
    named = {name for query in queries() for name in _METRIC.findall(query)}
    assert named <= known
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in named}
    assert families == {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known}


def test_dashboard_and_rules_have_the_form_that_their_readers_want() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    (group,) = RULES["groups"]
    assert len(group["rules"]) == 3
    for rule in group["rules"]:
        assert {"alert", "expr", "for", "labels", "annotations"} == set(rule)
        assert {"summary", "description"} == set(rule["annotations"])
        assert re.fullmatch(r"\d+m", rule["for"])
    for query in queries():
        for pair in ("()", "[]", "{}"):
            assert query.count(pair[0]) == query.count(pair[1]), query


def figures(mount: str = "m", *, at: Instant = AT, queued: int = 2, held: int = 3, adapter: str = "a") -> Figures:
    census = Census(queued=queued, running=1, oldest_queued=after(AT, -60), kept_bytes=5_000)
    return Figures(at=at, adapter=adapter, mount=mount, census=census, workers=2, free_bytes=9_000, held_polls=held)


def files(folder: Path) -> set[Path]:
    return set(folder.glob("*.figures"))


@pytest.mark.anyio
async def test_processes_agree_on_stores_and_their_held_polls_add_up(tmp_path: Path) -> None:
    """The newest figures count; those of a process that ended do not, and its file goes some time later."""
    metrics, others = Metrics(tmp_path), [Metrics(tmp_path) for _ in range(3)]
    await metrics.take(figures(at=after(AT, 10), queued=4))
    await metrics.take(figures("second mount", at=after(AT, 9), held=1))
    await others[0].take(figures(queued=7))
    before = files(tmp_path)
    await others[1].take(figures(at=after(AT, 99), queued=99, held=99))
    (ended,) = files(tmp_path) - before
    os.utime(ended, (time.time() - 70, time.time() - 70))

    found = shown(others[2])
    assert found['fhir_bulk_queued_jobs{adapter="a"}'] == 4
    assert found['fhir_bulk_running_jobs{adapter="a"}'] == 1
    assert found['fhir_bulk_oldest_queued_seconds{adapter="a"}'] == 70
    assert found['fhir_bulk_kept_bytes{adapter="a"}'] == 5_000
    assert found['fhir_bulk_workers{adapter="a"}'] == 2
    assert found['fhir_bulk_free_bytes{adapter="a"}'] == 9_000
    assert found['fhir_bulk_held_polls{adapter="a"}'] == 3 + 1 + 3
    assert ended.exists()
    os.utime(ended, (time.time() - 4_000, time.time() - 4_000))
    assert shown(others[2]) == found
    assert not ended.exists()


@pytest.mark.anyio
async def test_what_nobody_knows_is_left_out(tmp_path: Path) -> None:
    """A store that does not count its jobs, or hangs, has no gauges; 0 would be a lie."""
    metrics = Metrics(tmp_path)
    await metrics.take(Figures(at=AT, adapter="a", mount="m", census=None, workers=None, free_bytes=None, held_polls=0))
    assert {name for name in shown(metrics) if name.partition("{")[0] in GAUGES} == {'fhir_bulk_held_polls{adapter="a"}'}


class Counting(MemoryJobStore):
    """Attributes: counted: how often its jobs were counted."""

    counted = 0

    async def census(self, *, adapter: str = "") -> Census:
        self.counted += 1
        return await super().census(adapter=adapter)


@pytest.mark.anyio
async def test_a_server_shows_its_jobs_from_its_start_on(tmp_path: Path, make_house: Any) -> None:
    """And a scrape costs its stores nothing: they are asked every ten seconds, however often it comes."""
    metrics, jobs = Metrics(tmp_path), Counting()
    async with make_house(parts={"observers": [metrics], "jobs": jobs}) as house:
        adapter = house.bulk.registration.adapter
        await until(lambda: f'fhir_bulk_queued_jobs{{adapter="{adapter}"}}' in shown(metrics))
        before = jobs.counted
        for _ in range(20):
            shown(metrics)
        assert before <= jobs.counted <= before + 1


@pytest.mark.anyio
async def test_without_somebody_who_takes_figures_nothing_is_counted(make_house: Any) -> None:
    jobs = Counting()
    async with make_house(parts={"jobs": jobs}) as house:
        await populate(house)
        await house.export()
    assert jobs.counted == 0
