"""Key ids that were looked for and are not to be had, so that nobody looks for them again and again."""

from dataclasses import dataclass, field

from fhir_bulk_middleware.instant import Instant, seconds_between

__all__ = ["MissingKids"]


@dataclass(slots=True)
class MissingKids:
    """Which `kid`s a key set lacked when it was fetched for their sake.

    Attributes:
        lifetime: seconds for which a search counts; then the key may have been published.
        size: entries at most; the oldest goes first, for anybody can make up `kid`s.
    """

    lifetime: float = 60
    size: int = 1024
    _searched: dict[str, Instant] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._searched)

    def has(self, kid: str, now: Instant) -> bool:
        """Whether it was looked for in vain less than a lifetime ago."""
        searched = self._searched.get(kid)
        return searched is not None and 0 <= seconds_between(searched, now) < self.lifetime

    def add(self, kid: str, now: Instant) -> None:
        """Remember that it was looked for in vain just now."""
        self._searched.pop(kid, None)  # so that it moves to the young end
        self._searched[kid] = now
        if len(self._searched) > self.size:
            del self._searched[next(iter(self._searched))]
