"""What is exported: the seeded population, or files of one's own, in a store as the package keeps it."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fhir_bulk_middleware.demo.loading import NdjsonFolder, load
from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.instant import Instant
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["PLAIN_QUERY", "Data", "prepare"]

PLAIN_QUERY = "SELECT json FROM resource ORDER BY seq"
"""What the plainest possible export of this layout would ask, in the order in which an export of all types reads."""

_PER_PATIENT = 70.4


@dataclass(frozen=True, slots=True)
class Data:
    """A store and what is in it.

    Attributes:
        store: the file.
        plain: a file of the very bytes that an export of all types holds.
        count: resources.
        types: their types.
    """

    store: Path
    plain: Path
    count: int
    types: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of NDJSON."""
        return self.plain.stat().st_size

    def changed_last(self, share: float) -> Instant:
        """The instant after which about this share of the resources was written."""
        with sqlite3.connect(self.store) as connection:
            row = connection.execute(
                "SELECT last_updated FROM resource ORDER BY last_updated LIMIT 1 OFFSET ?", (round(self.count * (1 - share)) - 1,)
            ).fetchone()
        return Instant(row[0])

    def newest_observations(self, share: float) -> str:
        """The day since which about this share of the Observations was made."""
        with sqlite3.connect(self.store) as connection:
            days = connection.execute(
                "SELECT substr(json_extract(json, '$.effectiveDateTime'), 1, 10) FROM resource"
                " JOIN type ON type.number = seq >> 40 WHERE name = 'Observation' ORDER BY 1 DESC"
            ).fetchall()
        return str(days[int(len(days) * share)][0])

    def patients(self, one_in: int) -> frozenset[str]:
        """References of every so-manieth patient."""
        with sqlite3.connect(self.store) as connection:
            rows = connection.execute(
                "SELECT id FROM resource JOIN type ON type.number = seq >> 40 WHERE name = 'Patient' ORDER BY seq"
            ).fetchall()
        return frozenset(f"Patient/{id_}" for (id_,) in rows[::one_in])


def prepare(folder: Path, resources: int, source: Path | None) -> Data:
    """Load a new store and write its plain bytes beside it.

    Args:
        folder: where; it is made.
        resources: about how many, of the population.
        source: NDJSON files to take instead.
    """
    folder.mkdir(parents=True)
    store = SQLiteResourceStore(folder / "store.db")
    try:
        load(store, NdjsonFolder(source) if source else population(max(round(resources / _PER_PATIENT), 20)))
    finally:
        store.close()
    with sqlite3.connect(folder / "store.db") as connection, (folder / "all.ndjson").open("wb") as plain:
        connection.text_factory = bytes
        count = 0
        for (line,) in connection.execute(PLAIN_QUERY):
            plain.write(line + b"\n")
            count += 1
        types = tuple(sorted(name.decode() for (name,) in connection.execute("SELECT name FROM type")))
    connection.close()
    return Data(folder / "store.db", folder / "all.ndjson", count, types)
