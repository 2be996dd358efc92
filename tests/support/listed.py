"""Adapters over lists, for the tests of what is done with an adapter's pages."""

import os
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from fhir_bulk_middleware.contract.access import Principal
from fhir_bulk_middleware.contract.query import Authorisation, Compartments, Deletions, Page, Query, Range
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.instant import Instant, Precision, floor

NOW = Instant(1_800_000_000_123_456)


def observation(number: int, patient: str = "1", size: int = 100) -> str:
    line = f'{{"resourceType":"Observation","id":"o{number}","subject":{{"reference":"Patient/{patient}"}},"note":"'
    return line + "x" * (size - len(line) - 2) + '"}'


def patient(patient_id: str) -> str:
    return f'{{"resourceType":"Patient","id":"{patient_id}"}}'


class Listed:
    """Resources in lists by type; a page has as many as fit into its bytes. Keeps the queries that it was asked."""

    def __init__(self, lines: Mapping[str, Sequence[str]]) -> None:
        self._lines = lines
        self.asked: list[tuple[Query, str | None]] = []

    async def authorise(self, principal: Principal) -> Authorisation:  # noqa: ARG002 - everybody may
        return Authorisation(frozenset(self._lines))

    async def pages(self, query: Query, after: str | None) -> AsyncIterator[Page]:
        self.asked.append((query, after))
        first, last = (int(text) for text in query.range.split("-")) if query.range else (0, len(self._lines[query.type]))
        begin = first if after is None else int(after)
        while begin < last:
            end, size = begin, 0
            while end < last and (end == begin or size + len(self._lines[query.type][end]) < query.page_bytes):
                size += len(self._lines[query.type][end]) + 1
                end += 1
            text = "".join(f"{line}\n" for line in self._lines[query.type][begin:end])
            await self.before_page(begin)
            yield Page(text.encode(), end - begin, str(end))
            begin = end

    async def before_page(self, number: int) -> None:
        """Nothing, here."""


class Complete(Listed):
    """With snapshots, slices of three resources and deletions."""

    def __init__(self, lines: Mapping[str, Sequence[str]], deleted: Collection[str] = ()) -> None:
        super().__init__(lines)
        self._deleted = sorted(deleted)

    async def now(self) -> Instant:
        return NOW

    async def cut(self, precision: Precision) -> Instant:
        return floor(NOW, precision)

    async def slices(self, query: Query, target_bytes: int) -> Sequence[Range]:  # noqa: ARG002 - always three
        assert query.selection != Compartments(frozenset())
        count = len(self._lines[query.type])
        return [Range(f"{begin}-{min(begin + 3, count)}", min(3, count - begin)) for begin in range(0, count, 3)]

    async def deletions(self, query: Query, after: str | None) -> AsyncIterator[Deletions]:
        self.asked.append((query, after))
        names = [name for name in self._deleted if name.startswith(query.type)]
        for begin in range(int(after or 0), len(names), 2):
            yield Deletions(tuple(names[begin : begin + 2]), str(min(begin + 2, len(names))))


class Gated(Listed):
    """In a worker process: says that it reached a page, then blocks until it is let through."""

    def __init__(self, folder: str, count: int, gate: int) -> None:
        super().__init__({"Observation": [observation(number) for number in range(count)]})
        self._folder, self._gate = Path(folder), gate

    async def before_page(self, number: int) -> None:
        if number < self._gate or (self._folder / "open").exists():
            return
        (self._folder / f"reached-{os.getpid()}").touch()
        while not (self._folder / "open").exists():
            time.sleep(0.002)  # noqa: ASYNC251 - an adapter that blocks is what it is about


class Remade(Gated):
    """As `Gated`, and can be made again in a worker process."""

    def __init__(self, folder: str, count: int, gate: int) -> None:
        super().__init__(folder, count, gate)
        self._arguments: dict[str, JsonValue] = {"folder": folder, "count": count, "gate": gate}

    def recipe(self) -> Recipe:
        return Recipe("listed:Remade", dict(self._arguments))
