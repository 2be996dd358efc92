"""Postings in PostgreSQL: which versions have a key of the parameter index.

A row has the places of one key's versions in one block of neighbouring versions, a byte each, as one transaction wrote them. So a
load writes one row for each key and block, and writers of the same key add rows and change none, so that none waits for another.
What forgets versions folds the rows that it touches.

The parameters of a type are registered with the type, before its first version is written. A parameter that is not registered is
not looked up: the versions of its type may have been written before it was indexed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fhir_bulk_middleware.fhir.search.parameter_index import Key, KeyRange, decoded
from fhir_bulk_middleware.stores.postgres.resource_types import COUNTER_BITS, ResourceTypes
from fhir_bulk_middleware.stores.postgres.session import Session

__all__ = ["BLOCK_BITS", "INTO", "Postings", "counts_of", "keys_of", "remove"]

BLOCK_BITS = 8
"""A block covers 2 ** 8 neighbouring keys of a type."""

INTO = "$resource_posting (parameter, value, block, places)"

_PLACES = (1 << BLOCK_BITS) - 1
_TYPE = COUNTER_BITS - BLOCK_BITS

# One value's blocks are neighbours in the index; those of a range of values are not, so all blocks of the range are visited.
_FOUND = """
    SELECT {columns}
    FROM unnest(%(parameters)s::integer[], %(lows)s::integer[], %(highs)s::integer[]) AS asked (parameter, low, high)
    JOIN $resource_posting AS posting ON posting.parameter = asked.parameter AND posting.value {value}
    WHERE posting.block BETWEEN %(first)s AND %(last)s {rest}
"""
_TAKE = """
    DELETE FROM $resource_posting AS posting
    USING unnest(%(parameters)s::integer[], %(values)s::integer[], %(blocks)s::bigint[]) AS gone (parameter, value, block)
    WHERE posting.parameter = gone.parameter AND posting.value = gone.value AND posting.block = gone.block
    RETURNING posting.parameter, posting.value, posting.block, posting.places
"""

_Row = tuple[int, int, int]
"""The number of a parameter, a value and a block."""


class Postings:
    """The postings of some versions, to be written or removed in one transaction.

    Args:
        types: those of the versions have numbers.
    """

    def __init__(self, types: ResourceTypes) -> None:
        self._types = types
        self._places: dict[tuple[Key, int], bytearray] = {}

    def add(self, seq: int, keys: Iterable[Key]) -> None:
        """Collect the keys of a version."""
        block, place, places = seq >> BLOCK_BITS, seq & _PLACES, self._places
        for key in keys:
            row = key, block
            if row in places:
                places[row].append(place)
            else:
                places[row] = bytearray((place,))

    def rows(self) -> dict[_Row, bytearray]:
        """The places of each row, without those of parameters that are not registered for the type."""
        found = {}
        for (key, block), places in self._places.items():
            place, value = decoded(key)
            if (number := self._types.parameters(block >> _TYPE)[place]) is not None:
                found[number, value, block] = places
        return found

    def lines(self) -> list[bytes]:
        """The rows as COPY reads them, in the order of the index."""
        return _lines(self.rows())


def _lines(rows: Mapping[_Row, bytes | bytearray]) -> list[bytes]:
    return [b"%d\t%d\t%d\t\\\\x%b\n" % (*row, rows[row].hex().encode()) for row in sorted(rows)]


def remove(session: Session, gone: Postings) -> None:
    """Remove the postings of versions. What two of these transactions remove at once may stay, and leads to no version."""
    places = gone.rows()
    if not places:
        return
    parameters, values, blocks = zip(*sorted(places), strict=True)
    kept: dict[_Row, bytearray] = {}
    for *row, found in session.lines(_TAKE, {"parameters": [*parameters], "values": [*values], "blocks": [*blocks]}):
        parameter, value, block = row
        left = bytes(place for place in found if place not in places[parameter, value, block])
        kept.setdefault((parameter, value, block), bytearray()).extend(left)
    if lines := _lines({row: left for row, left in kept.items() if left}):
        session.copy(INTO, b"".join(lines))


def keys_of(
    session: Session,
    ranges: Sequence[KeyRange],
    numbers: Mapping[str, int],
    between: tuple[int, int],
    most: int | None = None,
) -> list[int] | None:
    """The keys of the versions with a posting in one of the ranges, some more than once; None if they are more than `most`.

    Args:
        session: where to read.
        ranges: of parameters that are registered.
        numbers: the numbers of the type's parameters.
        between: the first and the last key that is wanted.
        most: how many keys are worth to be read; None for all.
    """
    first, last = between
    found: list[int] = []
    for form, values in _asked(ranges, numbers, between):
        text = form.format(columns="posting.block, posting.places", rest="LIMIT %(most)s")
        for block, places in session.lines(text, {**values, "most": None if most is None else most + 1}):
            begin = block << BLOCK_BITS
            found += [seq for place in places if first <= (seq := begin + place) <= last]
            if most is not None and len(found) > most:
                return None
    return found


def counts_of(
    session: Session, ranges: Sequence[KeyRange], numbers: Mapping[str, int], between: tuple[int, int], shift: int
) -> list[tuple[Any, ...]]:
    """How many postings in one of the ranges there are in each group of 2 ** `shift` blocks; some groups more than once."""
    columns = f"posting.block >> {shift}, sum(length(posting.places))::bigint"
    statements = _asked(ranges, numbers, between)
    return [row for form, values in statements for row in session.rows(form.format(columns=columns, rest="GROUP BY 1"), values)]


def _asked(
    ranges: Sequence[KeyRange], numbers: Mapping[str, int], between: tuple[int, int]
) -> Iterator[tuple[str, dict[str, object]]]:
    """The statements that find the ranges, single values apart from the others."""
    for value, single in (("= asked.low", True), ("BETWEEN asked.low AND asked.high", False)):
        asked = [(numbers[name], low, high) for name, low, high in ranges if (low == high) is single]
        if asked:
            parameters, lows, highs = (list(each) for each in zip(*asked, strict=True))
            blocks = {"first": between[0] >> BLOCK_BITS, "last": between[1] >> BLOCK_BITS}
            yield _FOUND.replace("{value}", value), {"parameters": parameters, "lows": lows, "highs": highs, **blocks}
