"""A storage whose recipe sets up OpenTelemetry's SDK in each worker process: spans become lines of JSON in a file."""

from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore


class TracedStore(SQLiteResourceStore):
    """A store that is made again by `in_worker`."""

    def __init__(self, path: str, spans: str) -> None:
        super().__init__(Path(path))
        self._made_again = Recipe("traced:in_worker", {"path": path, "spans": spans})

    def recipe(self) -> Recipe:
        """See `SupportsWorkerProcess`."""
        return self._made_again


def in_worker(path: str, spans: str) -> SQLiteResourceStore:
    """The store, after the SDK was set up."""
    file = open(spans, "a", encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115 - open as long as the worker
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(out=file, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return SQLiteResourceStore(Path(path))
