"""Observer with Prometheus metrics (extra `metrics`), summed over all processes that share a folder."""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
    from prometheus_client.registry import Collector

    from fhir_bulk_middleware.observers.figure_files import gauges, record
except ImportError as error:
    raise ImportError("Metrics needs prometheus_client: pip install 'fhir-bulk-middleware[metrics]'") from error

from fhir_bulk_middleware.contract.events import (
    AuditFailed,
    Completed,
    Deleted,
    Event,
    FileServed,
    JobEvent,
    PartSealed,
    RequestRefused,
    UrlsSigned,
    name,
)
from fhir_bulk_middleware.contract.figures import Figures
from fhir_bulk_middleware.contract.running import Recipe

__all__ = ["Metrics"]

_BOUNDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
_COUNTERS = {
    "fhir_bulk_jobs": ("Exports, by what happened to them", ("mount", "event")),
    "fhir_bulk_written_resources": ("Lines in sealed files", ("mount", "type")),
    "fhir_bulk_written_bytes": ("Plain bytes of sealed files", ("mount", "type")),
    "fhir_bulk_linked_bytes": ("Plain bytes of files that were linked to those of an earlier job", ("mount", "type")),
    "fhir_bulk_served_files": ("Answers with a file or a part of one", ("mount", "type")),
    "fhir_bulk_served_bytes": ("Bytes that such answers announced", ("mount", "type")),
    "fhir_bulk_signed_urls": ("URLs of files that were signed for clients", ("mount",)),
    "fhir_bulk_refusals": ("Requests that were not carried out", ("mount", "operation", "reason")),
    "fhir_bulk_audit_failures": ("Events that an audit could not record when they happened", ("mount", "audit", "event")),
    "fhir_bulk_deleted_resources": ("Resources that were deleted", ("mount", "type")),
}
_SECONDS = "fhir_bulk_export_seconds"
_Key = tuple[str, ...]


class Metrics(Collector):
    """Counts events, and shows figures, in a registry of its own, separate from the host's metrics.

    Each process writes its counts to its own file in the folder, and a scrape adds all files up, so any server process can be
    scraped. Files of ended processes stay, because counters must not decrease; the folder may be removed while all servers are
    stopped. No label names an owner, a patient or a job.

    Servers deliver the figures of the gauges every ten seconds (`SupportsFigures`), so a scrape asks no store. Each machine shows
    the same jobs and bytes: take their maximum over machines, and the sum of workers and held polls.

    Args:
        folder: the folder of the counts; made if it is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder).absolute()
        self._counts: dict[_Key, float] = {}
        self._figures: dict[str, Figures] = {}
        self._process = 0
        self._file = self._folder
        self.registry = CollectorRegistry()
        """The registry of these metrics; `prometheus_client.make_asgi_app(metrics.registry)` serves it."""
        self.registry.register(self)

    def recipe(self) -> Recipe:
        """The recipe of metrics in the same folder."""
        return Recipe(f"{__name__}:Metrics", {"folder": str(self._folder)})

    async def observe(self, event: Event) -> None:
        """Count an event. Takes some hundred microseconds, without waiting for the disk.

        Raises:
            OSError: the folder cannot be written.
        """
        self._begin()
        for key, amount in _amounts(event):
            self._counts[key] = self._counts.get(key, 0.0) + amount
        beside = self._file.with_suffix(".tmp")
        beside.write_text(json.dumps([[*key, amount] for key, amount in self._counts.items()]))
        beside.replace(self._file)

    async def take(self, figures: Figures) -> None:
        """See `SupportsFigures`.

        Raises:
            OSError: the folder cannot be written.
        """
        self._begin()
        self._figures[figures.mount] = figures
        record(self._file, self._figures)

    def text(self) -> tuple[bytes, str]:
        """The response to a scrape: body and media type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_1_0_0

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering does not read the folder."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics summed over all processes."""
        sums = self._sums()
        for family, (text, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(family, text, labels=labels)
            for key in sorted(key for key in sums if key[0] == family):
                counter.add_metric(key[1:], sums[key])
            yield counter
        yield _histogram(sums)
        yield from gauges(self._folder)

    def _begin(self) -> None:
        """Begin a file for this process, also after a fork."""
        if self._process == os.getpid():
            return
        self._process, self._counts, self._figures = os.getpid(), {}, {}
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._folder / f"{self._process}-{secrets.token_hex(4)}.json"

    def _sums(self) -> dict[_Key, float]:
        sums: dict[_Key, float] = {}
        for path in self._folder.glob("*.json"):
            for *key, amount in json.loads(path.read_text()):
                sums[tuple(key)] = sums.get(tuple(key), 0.0) + amount
        return sums


def _amounts(event: Event) -> Iterator[tuple[_Key, float]]:
    mount = event.mount
    match event:
        case PartSealed(linked=True):
            yield ("fhir_bulk_linked_bytes", mount, event.type), event.size
        case PartSealed():
            yield ("fhir_bulk_written_resources", mount, event.type), event.count
            yield ("fhir_bulk_written_bytes", mount, event.type), event.size
        case FileServed():
            yield ("fhir_bulk_served_files", mount, event.type), 1
            yield ("fhir_bulk_served_bytes", mount, event.type), event.size
        case UrlsSigned():
            yield ("fhir_bulk_signed_urls", mount), len(event.file_ids)
        case RequestRefused():
            yield ("fhir_bulk_refusals", mount, event.operation.name.lower(), event.reason.name.lower()), 1
        case AuditFailed():
            yield ("fhir_bulk_audit_failures", mount, event.audit, event.missed), 1
        case Deleted():
            yield ("fhir_bulk_deleted_resources", mount, event.type), len(event.references)
        case JobEvent():
            yield ("fhir_bulk_jobs", mount, name(event)), 1
    if isinstance(event, Completed):
        bound = next((bound for bound in _BOUNDS if event.seconds <= bound), None)
        yield (_SECONDS, mount, "+Inf" if bound is None else str(bound)), 1
        yield (_SECONDS, mount, "sum"), event.seconds


def _histogram(sums: dict[_Key, float]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(_SECONDS, "From kick-off to completion", labels=("mount",))
    for mount in sorted({key[1] for key in sums if key[0] == _SECONDS}):
        total, buckets = 0.0, []
        for bound in [*map(str, _BOUNDS), "+Inf"]:
            total += sums.get((_SECONDS, mount, bound), 0.0)
            buckets.append((bound, total))
        family.add_metric((mount,), buckets, sums.get((_SECONDS, mount, "sum"), 0.0))
    return family
