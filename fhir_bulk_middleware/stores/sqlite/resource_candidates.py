"""Candidates in SQLite: the versions that can meet search criteria, found by the indexes of the file.

Of all criteria that an index has, the one with the fewest candidates is used. The candidates are read by their keys and judged
line by line (`Filters`), so that an index never decides. Where half of the versions or more are candidates, or no index has the
criteria, all versions are read.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from fhir_bulk_middleware.contract.query import Filter
from fhir_bulk_middleware.fhir.search.criteria import Criteria
from fhir_bulk_middleware.stores.criteria_lookups import ByCompartment, ById, ByKey, ByName, CriteriaLookups, Lookup
from fhir_bulk_middleware.stores.sqlite.resource_postings import blocks_of, keys_of, registered
from fhir_bulk_middleware.stores.sqlite.resource_schema import BLOCK_BITS, COUNTER_BITS

__all__ = ["Candidates", "candidates"]

_SHARE = 2
"""Candidates are read by their keys if they are less than this part of the versions."""
_KEYS_PER_STATEMENT = 5_000

# CROSS JOIN fixes the order in which the tables are visited: one look-up for each value.
_OF_VALUES: dict[type[Lookup], str] = {
    ById: "resource ON resource.id = asked.value AND resource.seq BETWEEN ? AND ?",
    ByName: "naming ON naming.target = asked.value AND naming.seq BETWEEN ? AND ?",
    ByCompartment: "owner ON owner.reference = asked.value"
    " CROSS JOIN compartment ON compartment.owner = owner.number AND compartment.seq BETWEEN ? AND ?",
}


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates among the versions of one type between two keys.

    Attributes:
        lookups: each candidate is found by at least one.
        first: the lowest key.
        last: the highest key.
        count: about how many there are.
    """

    lookups: tuple[Lookup, ...]
    first: int
    last: int
    count: int

    def blocks(self, connection: sqlite3.Connection) -> dict[int, int]:
        """About how many there are in each block that has some."""
        found: dict[int, int] = {}
        for block, count in chain.from_iterable(_blocks(connection, lookup, self.first, self.last) for lookup in self.lookups):
            found[block] = found.get(block, 0) + count
        return found

    def collect(self, connection: sqlite3.Connection, table: str, first: int, last: int) -> None:
        """Add the keys of those between two keys to a temporary table."""
        statement = f"INSERT OR IGNORE INTO temp.{table} SELECT value FROM json_each(?)"  # noqa: S608 - a name of ours
        for some in self.keys(connection, first, last, _KEYS_PER_STATEMENT):
            connection.execute(statement, (json.dumps(some),))

    def keys(self, connection: sqlite3.Connection, first: int, last: int, at_most: int) -> Iterator[Sequence[int]]:
        """The keys of those between two keys, in portions of at most so many; some more than once."""
        found = chain.from_iterable(_keys(connection, lookup, first, last) for lookup in self.lookups)
        while some := list(islice(found, at_most)):
            yield some


def candidates(
    connection: sqlite3.Connection, lookups: CriteriaLookups, filters: Iterable[Filter], type_: str, between: tuple[int, int]
) -> Candidates | None:
    """The candidates for all filters of a type; None if reading them by their keys saves nothing.

    Args:
        connection: where to read.
        lookups: of the store.
        filters: all must hold; those of other types are ignored.
        type_: the type.
        between: the lowest and the highest key that is wanted.
    """
    first, last = between
    best = None
    for filter_ in filters:
        if filter_.type == type_:
            most = (last - first + 1) // _SHARE if best is None else best.count
            best = _of_filter(connection, lookups, filter_, between, most) or best
    return best


def _of_filter(
    connection: sqlite3.Connection, lookups: CriteriaLookups, filter_: Filter, between: tuple[int, int], most: int
) -> Candidates | None:
    """The candidates for any of a filter's alternatives; None if there are `most` or more."""
    chosen, total = [], 0
    for criteria in filter_.alternatives:
        fewest = _fewest(connection, lookups, criteria, between, most - total)
        if fewest is None:
            return None
        lookup, count = fewest
        chosen.append(lookup)
        total += count
    return Candidates(tuple(chosen), *between, total)


def _fewest(
    connection: sqlite3.Connection, lookups: CriteriaLookups, criteria: Criteria, between: tuple[int, int], most: int
) -> tuple[Lookup, int] | None:
    """The look-up that finds the fewest, and how many; None if each finds `most` or more."""
    found = None
    for lookup in lookups.of(criteria):
        if isinstance(lookup, ByKey) and not registered(connection, between[0] >> COUNTER_BITS, lookup.ranges):
            continue
        count = 0
        for _, several in _blocks(connection, lookup, *between):
            count += several
            if count >= most:
                break
        else:
            found, most = (lookup, count), count
    return found


def _blocks(connection: sqlite3.Connection, lookup: Lookup, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Blocks with candidates, and how many; some more than once."""
    if isinstance(lookup, ByKey):
        return blocks_of(connection, lookup.ranges, first, last)
    return ((seq >> BLOCK_BITS, 1) for seq in _keys(connection, lookup, first, last))


def _keys(connection: sqlite3.Connection, lookup: Lookup, first: int, last: int) -> Iterator[int]:
    """The keys of candidates; some more than once."""
    match lookup:
        case ByKey():
            return keys_of(connection, lookup.ranges, first, last)
        case ById():
            values: tuple[str, ...] | tuple[int, ...] = lookup.ids
        case ByName():
            values = lookup.keys
        case ByCompartment():
            values = lookup.owners
    found = connection.execute(
        f"SELECT seq FROM json_each(?) AS asked CROSS JOIN {_OF_VALUES[type(lookup)]}",  # noqa: S608 - our own words
        (json.dumps(values), first, last),
    )
    return (seq for (seq,) in found)
