"""A check of the data that an adapter hands over."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fhir_bulk_middleware.checks.finding import Notes
from fhir_bulk_middleware.checks.probe import Probe

__all__ = ["DataCheck"]


@dataclass(frozen=True, slots=True)
class DataCheck:
    """A check of the data that an adapter hands over.

    Attributes:
        name: one or two words.
        promise: what is asked for, a sentence.
        run: reads the adapter and notes what it sees.
        needs: the protocol without which there is nothing to check.
    """

    name: str
    promise: str
    run: Callable[[Probe, Notes], Awaitable[None]]
    needs: type | None = None
