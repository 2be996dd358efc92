"""`MemoryDeletionLog`: a log of deletes in memory."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fhir_bulk_middleware.contract.removal import BatchId, BatchProgress, Mark, Report, Tally
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.outcomes import DeleteOutcome
from fhir_bulk_middleware.stores.horizon import Horizon, following
from fhir_bulk_middleware.stores.memory.outbox import MemoryOutbox

__all__ = ["MemoryDeletionLog"]


class MemoryDeletionLog:
    """A `DeletionLog` for tests and trials; its content ends with the process."""

    def __init__(self) -> None:
        self._marks: dict[int, Mark] = {}
        self._last = 0
        self._batches: dict[BatchId, list[int]] = {}
        self._outcomes: dict[BatchId, tuple[DeleteOutcome, ...]] = {}
        self._ended: dict[str, bool] = {}
        """For each ended run, whether a cancel ended it."""
        self._outbox = MemoryOutbox()
        self._horizon: Horizon | None = None
        self._lock = threading.Lock()  # never held across an await

    async def intend(self, marks: Sequence[Mark], batch: BatchId | None = None) -> Sequence[Mark] | None:
        """See `DeletionLog`."""
        with self._lock:
            if batch is not None and batch.run in self._ended:
                return None
            numbered = [replace(mark, number=self._last + place, at=None) for place, mark in enumerate(marks, 1)]
            self._last += len(marks)
            self._marks |= {mark.number: mark for mark in numbered}
            if batch is not None:
                self._batches[batch] = [mark.number for mark in numbered]
            return numbered

    async def progress(self, batch: BatchId) -> BatchProgress:
        """See `DeletionLog`."""
        with self._lock:
            marks = tuple(self._marks[number] for number in self._batches.get(batch, []) if number in self._marks)
            return BatchProgress(marks, self._outcomes.get(batch))

    async def settle(
        self,
        gone: Sequence[Mark],
        left: Sequence[Mark],
        *,
        batch: BatchId | None = None,
        outcomes: Sequence[DeleteOutcome] = (),
    ) -> None:
        """See `DeletionLog`."""
        with self._lock:
            told: dict[tuple[str, str], list[str]] = {}
            at = Instant(0)
            for mark in gone:
                if (known := self._marks.get(mark.number)) is not None and known.at is None:
                    self._marks[mark.number] = mark
                    at = max(at, mark.at or at)
                    if known.note:
                        told.setdefault((known.note, mark.type), []).append(mark.id)
            for (note, type_), ids in told.items():
                self._outbox.add(note, at, type_, ids)
            for mark in left:
                if (known := self._marks.get(mark.number)) is not None and known.at is None:
                    del self._marks[mark.number]
            if batch is not None:
                self._outcomes.setdefault(batch, tuple(outcomes))

    async def ended(self, run: str) -> bool:
        """See `DeletionLog`."""
        return run in self._ended

    async def end_run(self, run: str, *, cancelled: bool = False) -> Tally:
        """See `DeletionLog`."""
        with self._lock:
            cancelled = self._ended.setdefault(run, cancelled)
            outcomes = [outcome for batch, several in self._outcomes.items() if batch.run == run for outcome in several]
            open_ = [
                self._marks[number]
                for batch, numbers in self._batches.items()
                if batch.run == run and batch not in self._outcomes
                for number in numbers
                if number in self._marks
            ]
            tally = Tally.of(outcomes, sum(mark.at is None for mark in open_), cancelled=cancelled)
            return replace(tally, removed=tally.removed + sum(mark.at is not None for mark in open_))

    async def unreported(self, teller: str, now: Instant, *, lease_seconds: float, limit: int) -> Sequence[Report] | None:
        """See `SupportsOutbox`."""
        with self._lock:
            return self._outbox.take(teller, now, lease_seconds, limit)

    async def reported(self, teller: str, numbers: Sequence[int]) -> None:
        """See `SupportsOutbox`."""
        with self._lock:
            self._outbox.forget(teller, numbers)

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

    async def doubtful(self, type_: str | None, after: int, limit: int) -> Sequence[Mark]:
        """See `DeletionLog`."""
        with self._lock:
            doubtful = (mark for mark in self._marks.values() if mark.at is None and mark.number > after)
            marks = [mark for mark in doubtful if type_ in {None, mark.type}]
        return sorted(marks, key=_number)[:limit]

    async def deletions_known_since(self) -> Instant | None:
        """See `SupportsDeletionHorizon`."""
        return None if self._horizon is None else self._horizon.since

    async def forget(self, before: Instant, *, now: Instant, grace: float) -> int:
        """See `SupportsForgetting`; how many marks were removed."""
        with self._lock:
            old: list[int] = []
            if self._horizon is not None and self._horizon.in_force(now, grace):
                open_ = {number for batch, numbers in self._batches.items() if batch not in self._outcomes for number in numbers}
                until = self._horizon.since
                old = [number for number, mark in self._marks.items() if mark.at is not None and mark.at <= until]
                old = [number for number in old if number not in open_]
            for number in old:
                del self._marks[number]
            self._horizon = following(self._horizon, before, now, grace) or self._horizon
            return len(old)

    def _gone(self, type_: str) -> Iterator[Mark]:
        return (mark for mark in self._marks.values() if mark.type == type_ and mark.at is not None)


def _number(mark: Mark) -> int:
    return mark.number
