"""A log of deletes in memory: what a `DeletionLog` does, without how it is made durable."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fhir_bulk_middleware.delete.removal import Mark, Tally
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome

__all__ = ["MemoryDeletionLog"]


class MemoryDeletionLog:
    """A `DeletionLog` for tests and trials; it is gone with its process."""

    def __init__(self) -> None:
        self._marks: dict[int, Mark] = {}
        self._last = 0
        self._batches: dict[tuple[str, int], list[int]] = {}
        self._outcomes: dict[tuple[str, int], tuple[DeleteOutcome, ...]] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()  # never held across an await

    async def intend(self, marks: Sequence[Mark], run: str = "", batch: int = 0) -> Sequence[Mark] | None:
        """See `DeletionLog`."""
        with self._lock:
            if run in self._ended:
                return None
            numbered = [replace(mark, number=self._last + place, at=None) for place, mark in enumerate(marks, 1)]
            self._last += len(marks)
            self._marks |= {mark.number: mark for mark in numbered}
            if run:
                self._batches[run, batch] = [mark.number for mark in numbered]
            return numbered

    async def begun(self, run: str, batch: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        with self._lock:
            return [self._marks[number] for number in self._batches.get((run, batch), []) if number in self._marks]

    async def settle(
        self,
        gone: Sequence[Mark],
        left: Sequence[Mark],
        *,
        run: str = "",
        batch: int = 0,
        outcomes: Sequence[DeleteOutcome] = (),
    ) -> None:
        """See `DeletionLog`."""
        with self._lock:
            for mark in gone:
                if (known := self._marks.get(mark.number)) is not None and known.at is None:
                    self._marks[mark.number] = mark
            for mark in left:
                if (known := self._marks.get(mark.number)) is not None and known.at is None:
                    del self._marks[mark.number]
            if run:
                self._outcomes.setdefault((run, batch), tuple(outcomes))

    async def outcomes(self, run: str, batch: int) -> Sequence[DeleteOutcome] | None:
        """See `DeletionLog`."""
        with self._lock:
            return self._outcomes.get((run, batch))

    async def ended(self, run: str) -> bool:
        """See `DeletionLog`."""
        return run in self._ended

    async def end_run(self, run: str) -> Tally:
        """See `DeletionLog`."""
        with self._lock:
            self._ended.add(run)
            outcomes = [outcome for (of, _), several in self._outcomes.items() if of == run for outcome in several]
            open_ = [
                self._marks[number]
                for place, numbers in self._batches.items()
                if place[0] == run and place not in self._outcomes
                for number in numbers
                if number in self._marks
            ]
            tally = Tally.of(outcomes, sum(mark.at is None for mark in open_))
            return replace(tally, removed=tally.removed + sum(mark.at is not None for mark in open_))

    async def latest(self, type_: str, id_: str) -> Mark | None:
        """See `DeletionLog`."""
        with self._lock:
            return max((mark for mark in self._gone(type_) if mark.id == id_), key=_number, default=None)

    async def removed(self, type_: str, since: Instant | None, until: Instant | None, after: int, limit: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        with self._lock:
            last = {mark.id: mark for mark in sorted(self._gone(type_), key=_number)}
        within = [
            mark
            for mark in last.values()
            if mark.at is not None
            and mark.number > after
            and (since is None or mark.at > since)
            and (until is None or mark.at <= until)
        ]
        return sorted(within, key=_number)[:limit]

    async def doubtful(self, type_: str, after: int, limit: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        with self._lock:
            marks = [mark for mark in self._marks.values() if mark.type == type_ and mark.at is None and mark.number > after]
        return sorted(marks, key=_number)[:limit]

    def _gone(self, type_: str) -> Iterator[Mark]:
        return (mark for mark in self._marks.values() if mark.type == type_ and mark.at is not None)


def _number(mark: Mark) -> int:
    return mark.number
