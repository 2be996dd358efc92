"""`History`: drafts that keep their own `meta.lastUpdated`, one after the other."""

from collections.abc import Iterable, Iterator

from fhir_bulk_middleware.instant import Instant, parse
from fhir_bulk_middleware.stores.drafting import Drafted, MalformedLine
from fhir_bulk_middleware.stores.drafts import Draft

__all__ = ["History"]


class History:
    """The drafts with their numbers and instants, with a look at the next one.

    Attributes:
        number: the number of the next line.
        new: its draft; None after the last one.
        instant: its instant.
    """

    number: int
    new: Draft | None
    instant: Instant

    def __init__(self, batches: Iterable[Drafted]) -> None:
        self._lines: Iterator[tuple[int, Draft]] = (line for batch in batches for line in batch)
        self.advance()

    def __bool__(self) -> bool:
        return self.new is not None

    def advance(self) -> None:
        """Go to the next line."""
        self.number, self.new = next(self._lines, (0, None))
        if self.new is not None:
            self.instant = self._instant(self.new.last_updated)

    def _instant(self, text: str | None) -> Instant:
        if text is None:
            raise MalformedLine(self.number, "meta.lastUpdated: is missing; without it a resource cannot keep it")
        try:
            return parse(text)
        except ValueError as error:
            raise MalformedLine(self.number, f"meta.lastUpdated: {error}") from None
