"""Spans of OpenTelemetry for kick-offs, plans, slices and deletes, where its API is installed (extra `tracing`).

A plan and a slice run long after their kick-off, often in another process: each is a trace of its own, linked to the span of the
kick-off by the `traceparent` that the job keeps until it ends. Attributes name the mount, the job and the types; never a
resource, a criterion, a URL or the text of an exception, which an adapter may have filled with a patient's data.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from fhir_bulk_middleware.outcomes import Refused

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

__all__ = ["span", "traceparent"]

_HEADER: Final = "traceparent"
_NOTHING: Final[AbstractContextManager[None]] = nullcontext()

Attributes = Mapping[str, str | int]


def span(name: str, attributes: Attributes, *, linked: str | None = None) -> AbstractContextManager[None]:
    """A span for the time of the context: a child of the current one, or with `linked` the root of a trace that is linked to it.

    Args:
        name: its name, below `fhir_bulk.`.
        attributes: by name, below `fhir_bulk.`.
        linked: the `traceparent` of another span.
    """
    return _span(name, attributes, linked) if _INSTALLED else _NOTHING


def traceparent() -> str | None:
    """The `traceparent` of the current span (W3C Trace Context); None if there is none, or nobody records spans."""
    if not _INSTALLED:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_HEADER)


@contextmanager
def _span(name: str, attributes: Attributes, linked: str | None) -> Iterator[None]:
    context, links = None, []
    if linked is not None:
        context = Context()
        found = trace.get_current_span(TraceContextTextMapPropagator().extract({_HEADER: linked}, context))
        links = [trace.Link(found.get_span_context())]
    with trace.get_tracer("fhir_bulk_middleware").start_as_current_span(
        f"fhir_bulk.{name}",
        context=context,
        links=links,
        attributes={f"fhir_bulk.{key}": value for key, value in attributes.items()},
        record_exception=False,  # its text and its traceback may hold a patient's data
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Refused as refused:
            current.set_attribute("fhir_bulk.refused", refused.reason.name.lower())
            raise
        except Exception as error:  # only its class is told, and it goes on to whom it concerns
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
