"""Postings in SQLite: which versions have a key of the parameter index.

A row has the places of one key's versions in one block of neighbouring versions, a byte each. So a key that most resources have,
such as a status, costs one byte for each of them, and a load writes one row for each key and block.

The parameters of a type are registered when its first version is written. A parameter that is not registered is not looked up:
the versions of its type may have been written before it was indexed.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter

from fhir_bulk_middleware.fhir.search.parameter_index import Key, KeyRange, indexed
from fhir_bulk_middleware.stores.sqlite.resource_schema import BLOCK_BITS, COUNTER_BITS

__all__ = ["Postings", "blocks_of", "keys_of", "register", "registered", "remove"]

_PLACES = (1 << BLOCK_BITS) - 1

_FIND = """
    SELECT block, places FROM posting
    WHERE parameter = ? AND value BETWEEN ? AND ? AND block BETWEEN ? AND ?
"""
_ADD = """
    INSERT INTO posting VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET places = CAST(places || excluded.places AS BLOB)
"""


class Postings:
    """The postings of one write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[int, Mapping[str, int]] = {}
        self._places: dict[tuple[int, int, int], bytearray] = {}

    def add(self, seq: int, keys: Iterable[Key]) -> None:
        """Collect the keys of a version; those of parameters that are not registered for its type are left out."""
        type_ = seq >> COUNTER_BITS
        numbers = self._numbers.get(type_)
        if numbers is None:
            numbers = self._numbers[type_] = _numbers(self._connection, type_)
        block, place = seq >> BLOCK_BITS, seq & _PLACES
        places = self._places
        for name, value in keys:
            if name in numbers:
                row = numbers[name], value, block
                if row in places:
                    places[row].append(place)
                else:
                    places[row] = bytearray((place,))

    def write(self) -> None:
        """Write what was collected, in the order of the table."""
        self._connection.executemany(_ADD, ((*row, places) for row, places in sorted(self._places.items())))


def register(connection: sqlite3.Connection, number: int, type_: str) -> None:
    """Register the parameters of a type of which no version was written."""
    rows = [(number, name) for name in indexed(type_)]
    connection.executemany("INSERT INTO posting_parameter (type, name) VALUES (?, ?)", rows)


def remove(connection: sqlite3.Connection, gone: Iterable[tuple[int, Iterable[Key]]]) -> None:
    """Remove versions, by their keys in the index."""
    numbers: dict[int, Mapping[str, int]] = {}
    rows: list[tuple[tuple[int, int, int], int]] = []
    for seq, keys in gone:
        type_ = seq >> COUNTER_BITS
        if type_ not in numbers:
            numbers[type_] = _numbers(connection, type_)
        known = numbers[type_]
        rows += [((known[name], value, seq >> BLOCK_BITS), seq & _PLACES) for name, value in keys if name in known]
    for row, places in groupby(sorted(rows), key=itemgetter(0)):
        _remove(connection, row, {place for _, place in places})


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
    for block, places in _found(connection, ranges, first, last):
        begin = block << BLOCK_BITS
        for place in places:
            if first <= (seq := begin + place) <= last:
                yield seq


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
        yield from connection.execute(_FIND, (numbers[name], low, high, first >> BLOCK_BITS, last >> BLOCK_BITS))


def _numbers(connection: sqlite3.Connection, type_: int) -> Mapping[str, int]:
    """The numbers of the parameters that are registered for a type."""
    rows = connection.execute("SELECT CAST(name AS BLOB), number FROM posting_parameter WHERE type = ?", (type_,))
    return {name.decode(): number for name, number in rows}
