"""Figures of server processes in files that they share, for the gauges of `Metrics`."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

try:
    from prometheus_client.core import GaugeMetricFamily, Metric
except ImportError as error:
    raise ImportError("Metrics needs prometheus_client: pip install 'fhir-bulk-middleware[metrics]'") from error

from fhir_bulk_middleware.contract.figures import Figures
from fhir_bulk_middleware.instant import Instant, seconds_between

__all__ = ["GAUGES", "gauges", "record"]

_SUFFIX: Final = ".figures"
_FRESH: Final = 60.0
"""Seconds for which figures count; a process writes new ones every ten seconds."""
_FORGOTTEN: Final = 3_600.0
"""Seconds after which the file of an ended process is removed."""

GAUGES: Final = {
    "fhir_bulk_queued_jobs": "Jobs that wait for a worker to plan them",
    "fhir_bulk_running_jobs": "Jobs that are planned and not finished",
    "fhir_bulk_oldest_queued_seconds": "How long the oldest queued job has waited; 0 if none is queued",
    "fhir_bulk_kept_bytes": "Bytes of files that are kept, as they are stored",
    "fhir_bulk_workers": "Workers that are alive on this machine",
    "fhir_bulk_free_bytes": "Bytes that the store of files can still take",
    "fhir_bulk_held_polls": "Polls that are held open on this machine",
}
"""The gauges and their meanings; each has the label `adapter`."""


def record(process: Path, figures: Mapping[str, Figures]) -> None:
    """Write the figures of this process.

    Args:
        process: the path of the process's file, with any suffix.
        figures: the latest ones, by mount.
    """
    rows = [_row(each) for each in figures.values()]
    beside = process.with_suffix(f"{_SUFFIX}.tmp")
    beside.write_text(json.dumps(rows))
    beside.replace(process.with_suffix(_SUFFIX))


def gauges(folder: Path) -> Iterator[Metric]:
    """The gauges of all processes on the folder.

    Processes agree on what their stores hold, so of several the newest figures count; held polls are each process's own, and are
    added up. A figure that no process knows is left out.
    """
    values: dict[tuple[str, str], float] = {}
    for row in sorted(_fresh(folder), key=lambda row: float(row["at"])):
        adapter = str(row["adapter"])
        for name in GAUGES:
            value = row["values"].get(name)
            if value is None:
                continue
            others = values.get((name, adapter), 0.0) if name == "fhir_bulk_held_polls" else 0.0
            values[name, adapter] = others + value
    for name, text in GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=("adapter",))
        for (family, adapter), value in sorted(values.items()):
            if family == name:
                gauge.add_metric((adapter,), value)
        yield gauge


def _row(figures: Figures) -> dict[str, Any]:
    census = figures.census
    values: dict[str, float | None] = {
        "fhir_bulk_workers": figures.workers,
        "fhir_bulk_free_bytes": figures.free_bytes,
        "fhir_bulk_held_polls": figures.held_polls,
    }
    if census is not None:
        values |= {
            "fhir_bulk_queued_jobs": census.queued,
            "fhir_bulk_running_jobs": census.running,
            "fhir_bulk_oldest_queued_seconds": _waited(census.oldest_queued, figures.at),
            "fhir_bulk_kept_bytes": census.kept_bytes,
        }
    return {"at": figures.at, "adapter": figures.adapter, "values": values}


def _waited(since: Instant | None, now: Instant) -> float:
    return 0.0 if since is None else max(0.0, seconds_between(since, now))


def _fresh(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(FileNotFoundError):  # another scrape has removed it
            age = time.time() - path.stat().st_mtime
            if age > _FORGOTTEN:
                path.unlink()
            elif age <= _FRESH:
                yield from json.loads(path.read_text())
