"""Cache of unknown key ids, which limits fetches of a key set."""

from dataclasses import dataclass, field

from fhir_bulk_middleware.instant import Instant, seconds_between

__all__ = ["MissingKids"]


@dataclass(slots=True)
class MissingKids:
    """The `kid`s that a key set did not have when it was fetched for them.

    Attributes:
        lifetime: seconds for which an entry is valid; after that the key may have been published.
        size: maximum number of entries; the oldest is dropped, because clients can send any `kid`.
    """

    lifetime: float = 60
    size: int = 1024
    _searched: dict[str, Instant] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._searched)

    def has(self, kid: str, now: Instant) -> bool:
        """Whether a fetch within the lifetime did not find the `kid`."""
        searched = self._searched.get(kid)
        return searched is not None and 0 <= seconds_between(searched, now) < self.lifetime

    def add(self, kid: str, now: Instant) -> None:
        """Record that a fetch has just not found the `kid`."""
        self._searched.pop(kid, None)  # so that it moves to the end
        self._searched[kid] = now
        if len(self._searched) > self.size:
            del self._searched[next(iter(self._searched))]
