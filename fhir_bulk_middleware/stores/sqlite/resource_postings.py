"""Postings in SQLite: which versions have a key of the parameter index.

A row has the places of one key's versions in one block of neighbouring versions, a byte each. So a key that most resources have,
such as a status, costs one byte for each of them, and a load writes one row for each key and block.

The parameters of a type are registered when its first version is written. A parameter that is not registered is not looked up:
the versions of its type may have been written before it was indexed.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

from fhir_bulk_middleware.fhir.search.parameter_index import Key, KeyRange, decoded, indexed
from fhir_bulk_middleware.stores.sqlite.resource_schema import BLOCK_BITS, COUNTER_BITS

T = TypeVar("T")

__all__ = ["Postings", "blocks_of", "keys_of", "register", "registered", "remove"]

_PLACES = (1 << BLOCK_BITS) - 1
_PLACE = tuple(bytes((place,)) for place in range(1 << BLOCK_BITS))
_BLOCKS = COUNTER_BITS - BLOCK_BITS
"""The number of bits of a block's number below its type's."""

# One value's blocks are neighbours in the table; those of a range of values are not, so all blocks of the range are visited.
_OF_VALUE = "SELECT block, places FROM posting WHERE parameter = ? AND value = ? AND block BETWEEN ? AND ?"
_OF_RANGE = "SELECT block, places FROM posting WHERE parameter = ? AND value BETWEEN ? AND ? AND block BETWEEN ? AND ?"
_ADD = """
    INSERT INTO posting VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET places = CAST(places || excluded.places AS BLOB)
"""


class Postings:
    """The postings of one write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._places: dict[int, dict[Key, bytes]] = {}

    def add(self, seq: int, keys: Iterable[Key]) -> None:
        """Collect the keys of a version."""
        places = self._places.get(seq >> BLOCK_BITS)
        if places is None:
            places = self._places[seq >> BLOCK_BITS] = {}
        place = _PLACE[seq & _PLACES]
        for key in keys:
            places[key] = places[key] + place if key in places else place

    def write(self) -> None:
        """Write what was collected, in the order of the table."""
        self._connection.executemany(_ADD, sorted(_rows(self._connection, self._places)))


def _rows(connection: sqlite3.Connection, found: Mapping[int, Mapping[Key, T]]) -> list[tuple[int, int, int, T]]:
    """Number of the parameter, value and block of each key in each block, with what belongs to it.

    Keys of parameters that are not registered for the type have none.
    """
    numbers: dict[int, Sequence[int | None]] = {}
    rows = []
    for block, keys in found.items():
        type_ = block >> _BLOCKS
        if type_ not in numbers:
            numbers[type_] = _in_order(connection, type_)
        of_type = numbers[type_]
        for key, of in keys.items():
            place, value = decoded(key)
            if (number := of_type[place]) is not None:
                rows.append((number, value, block, of))
    return rows


def _in_order(connection: sqlite3.Connection, type_: int) -> Sequence[int | None]:
    """The numbers of all indexed parameters of a type; None for one that is not registered."""
    (name,) = connection.execute("SELECT name FROM type WHERE number = ?", (type_,)).fetchone()
    known = _numbers(connection, type_)
    return [known.get(parameter) for parameter in indexed(name)]


def register(connection: sqlite3.Connection, number: int, type_: str) -> None:
    """Register the parameters of a type of which no version was written."""
    rows = [(number, name) for name in indexed(type_)]
    connection.executemany("INSERT OR IGNORE INTO posting_parameter (type, name) VALUES (?, ?)", rows)


def remove(connection: sqlite3.Connection, gone: Iterable[tuple[int, Iterable[Key]]]) -> None:
    """Remove versions, by their keys in the index."""
    places: dict[int, dict[Key, set[int]]] = {}
    for seq, keys in gone:
        block = places.setdefault(seq >> BLOCK_BITS, {})
        for key in keys:
            block.setdefault(key, set()).add(seq & _PLACES)
    for number, value, block_number, of in sorted(_rows(connection, places), key=itemgetter(0, 1, 2)):
        _remove(connection, (number, value, block_number), of)


def _remove(connection: sqlite3.Connection, row: tuple[int, int, int], gone: set[int]) -> None:
    where = "WHERE parameter = ? AND value = ? AND block = ?"
    found = connection.execute(f"SELECT places FROM posting {where}", row).fetchone()  # noqa: S608 - our own words
    if found is None:
        return
    if kept := bytes(place for place in found[0] if place not in gone):
        connection.execute(f"UPDATE posting SET places = ? {where}", (kept, *row))  # noqa: S608 - as above
    else:
        connection.execute(f"DELETE FROM posting {where}", row)  # noqa: S608 - as above


def keys_of(connection: sqlite3.Connection, ranges: Iterable[KeyRange], first: int, last: int) -> Iterator[int]:
    """The keys of the versions between two keys of a type that have a posting in one of the ranges; some more than once."""
    edges = first >> BLOCK_BITS, last >> BLOCK_BITS
    for block, places in _found(connection, ranges, first, last):
        begin = block << BLOCK_BITS
        keys = [begin + place for place in places]
        yield from keys if block not in edges else (seq for seq in keys if first <= seq <= last)


def blocks_of(connection: sqlite3.Connection, ranges: Iterable[KeyRange], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The blocks between two keys of a type that have postings in one of the ranges, with how many; some more than once."""
    edges = first >> BLOCK_BITS, last >> BLOCK_BITS
    for block, places in _found(connection, ranges, first, last):
        count = len(places)
        if block in edges:
            begin = block << BLOCK_BITS
            count = sum(first <= begin + place <= last for place in places)
        if count:
            yield block, count


def registered(connection: sqlite3.Connection, type_: int, ranges: Iterable[KeyRange]) -> bool:
    """Whether the parameters of the ranges are registered for a type."""
    return {name for name, _, _ in ranges} <= _numbers(connection, type_).keys()


def _found(connection: sqlite3.Connection, ranges: Iterable[KeyRange], first: int, last: int) -> Iterator[tuple[int, bytes]]:
    numbers = _numbers(connection, first >> COUNTER_BITS)
    for name, low, high in ranges:
        blocks = first >> BLOCK_BITS, last >> BLOCK_BITS
        if low == high:
            yield from connection.execute(_OF_VALUE, (numbers[name], low, *blocks))
        else:
            yield from connection.execute(_OF_RANGE, (numbers[name], low, high, *blocks))


def _numbers(connection: sqlite3.Connection, type_: int) -> Mapping[str, int]:
    """The numbers of the parameters that are registered for a type."""
    rows = connection.execute("SELECT CAST(name AS BLOB), number FROM posting_parameter WHERE type = ?", (type_,))
    return {name.decode(): number for name, number in rows}
