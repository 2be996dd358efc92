"""Reads texts of versions in PostgreSQL in steps of some megabytes, however large each text is.

A statement asks for a number of rows, by the size of those before. The next ones may be a thousand times as large: among small
resources of a type there may be a Binary of ten megabytes, or a Group of all patients. So a text that is far larger than expected
is left out, and the row has its size and its key instead (`TEXT`). Such texts are then read so few at a time that they fit into
a step. That costs less than to add up the sizes in the statement, which is simpler where speed does not count (`fitting`).
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from fhir_bulk_middleware.stores.postgres.resource_view import Database
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["TEXT", "Lines", "Step", "by_keys", "fitting", "in_steps", "stepped", "texts_of"]

T = TypeVar("T")

Lines = list[tuple[int, bytes]]
"""Keys and texts of versions."""

_STEP_BYTES = 2 * 1024 * 1024
"""The size of what one statement reads: large enough that its cost does not count, small beside a worker's memory."""
_FIRST_ROWS, _MOST_ROWS = 200, 8_000
_FAR_LARGER = 8
"""A text this many times as large as expected is left out. The others of a statement are at most so many times `_STEP_BYTES`."""

TEXT = "CASE WHEN r.size > %(largest)s THEN r.size || ' ' || r.seq ELSE r.json END"
"""The text of a version `r`, or, if it has more bytes than `largest`, its size and its key. A text never begins with a digit."""

_TEXTS = "SELECT seq, json FROM $resource WHERE seq = ANY(%(keys)s::bigint[])"

# As in `resource_reading`, versions are taken by their keys before it is asked which of them count.
_BY_KEYS = f"""
    SELECT seq, {TEXT} FROM (
        SELECT * FROM $resource WHERE seq = ANY(%(keys)s::bigint[]) ORDER BY seq OFFSET 0
    ) AS r WHERE {{living}} ORDER BY seq
"""  # noqa: S608 - constants of ours only


def fitting(columns: str, rows: str) -> str:
    """A query for those of some rows of the table of versions that fit into a step, by their keys from the first, or one."""
    return f"""
        SELECT {columns} FROM (
            SELECT *, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - size AS before FROM ({rows}) AS chosen
        ) AS r WHERE before < {_STEP_BYTES} ORDER BY seq
    """  # noqa: S608 - constants of ours only


@dataclass(frozen=True, slots=True)
class Step:
    """What one statement found.

    Attributes:
        database: where it was read.
        asked: the number of rows that it was asked for.
        rows: their keys, their texts as `TEXT` gives them, and what else the statement selects.
        left_out: the places, sizes and keys of the texts that are left out.
    """

    database: Database
    asked: int
    rows: Sequence[tuple[Any, ...]]
    left_out: Sequence[tuple[int, int, int]]

    @classmethod
    async def read(cls, database: Database, text: str, values: dict[str, object], asked: int) -> "Step":
        """Run a statement that selects `TEXT`, and may have a limit `rows`."""
        given = {**values, "rows": asked, "largest": _FAR_LARGER * _STEP_BYTES // asked}
        rows = await database.connections.read(partial(Session.lines, text=text, values=given))
        places = [place for place, row in enumerate(rows) if row[1][:1].isdigit()]
        return cls(database, asked, rows, [(place, *_size_and_key(rows[place][1])) for place in places])

    @property
    def following(self) -> int:
        """How many rows to ask for next, by the size of these."""
        size = sum(len(row[1]) for row in self.rows) + sum(size for _, size, _ in self.left_out)
        most = min(4 * self.asked, _MOST_ROWS)
        return most if not size else max(1, min(most, len(self.rows) * _STEP_BYTES // size))

    async def parts(self) -> AsyncIterator[list[Any]]:
        """The rows with their texts, but for versions that were removed meanwhile."""
        begin = 0
        for some in in_steps(self.left_out, itemgetter(1)):
            keys, end = {place: key for place, _, key in some}, some[-1][0] + 1
            texts, part = await texts_of(self.database, keys.values()), []
            for place, row in enumerate(self.rows[begin:end], begin):
                if place not in keys:
                    part.append(row)
                elif keys[place] in texts:
                    part.append((row[0], texts[keys[place]], *row[2:]))
            yield part
            begin = end
        if begin < len(self.rows):
            yield [*self.rows[begin:]]


def in_steps(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """As many of some items at a time as fit into a step by the sizes of their texts, at least one."""
    some: list[T] = []
    full = 0
    for item in items:
        if some and full + size(item) > _STEP_BYTES:
            yield some
            some, full = [], 0
        some.append(item)
        full += size(item)
    if some:
        yield some


async def texts_of(database: Database, keys: Iterable[int]) -> dict[int, bytes]:
    """The texts of some versions by their keys."""
    return dict(await database.connections.read(partial(Session.lines, text=_TEXTS, values={"keys": [*keys]})))


def _size_and_key(text: bytes) -> tuple[int, int]:
    size, key = text.split()
    return int(size), int(key)


async def stepped(
    database: Database, number: int, text: str, after: int, values: dict[str, object] | None = None
) -> AsyncIterator[Lines]:
    """The rows of one type, known by its number, that a statement gives which has a key to begin `after` and a limit `rows`."""
    asked = database.rows_at_once.get(number, _FIRST_ROWS)
    while True:
        step = await Step.read(database, text, {**(values or {}), "after": after}, asked)
        async for lines in step.parts():
            yield lines
        if len(step.rows) < step.asked:
            return
        after = step.rows[-1][0]
        asked = database.rows_at_once[number] = step.following


async def by_keys(database: Database, keys: Sequence[int], living: str) -> AsyncIterator[Lines]:
    """Those of the versions that meet a condition, by their keys."""
    text, start, asked = _BY_KEYS.format(living=living), 0, _FIRST_ROWS
    while start < len(keys):
        step = await Step.read(database, text, {"keys": keys[start : start + asked]}, asked)
        async for lines in step.parts():
            yield lines
        start, asked = start + asked, step.following
