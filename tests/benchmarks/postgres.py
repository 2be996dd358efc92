"""PostgreSQL to sealed files against psql's own COPY: by the example adapter (row 3), and from our resource store (row 3b)."""

import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore

from .bench import Bench
from .data import Data
from .exports import Export, Exports, Wanted
from .figures import Figure, ratio
from .postgres_server import postgres_server, psql
from .rounds import interleave, timed

__all__ = ["load_store", "postgres", "psql_copy"]

_EXAMPLES = Path(__file__).parents[2] / "examples"
_ALL = "SELECT json FROM version WHERE ended = 9223372036854775807 AND NOT deleted ORDER BY type, seq"
_ALL_STORED = "SELECT json FROM {}.resource WHERE ended = 9223372036854775807 AND NOT deleted ORDER BY seq"
_ROWS = """
    SELECT name, id, version, last_updated, json FROM resource JOIN type ON type.number = seq >> 40
    WHERE deleted = 0 ORDER BY last_updated, seq
"""
_INTO = "COPY version (type, id, number, last_updated, json, deleted, in_patient) FROM STDIN"


def postgres(bench: Bench) -> Iterator[Figure]:
    """Rows 3 and 3b."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_EXAMPLES))  # for this process; and so for its workers
        from documents.storage import DocumentStorage
        from documents.writing import SCHEMA

        with postgres_server(Path(folder)) as dsn:
            bench.say("loading into PostgreSQL ...")
            _load(bench.data, dsn, SCHEMA)
            exports = Exports(bench.data, bench.folder / "postgres", resources=DocumentStorage(dsn))
            title = "PostgreSQL to sealed files / psql COPY csv, same query and order"
            yield _against_psql(bench, exports, ("3", title), _psql(dsn, _ALL, bench.data.plain))
            store = PostgresResourceStore(dsn)
            bench.say(f"loaded {load_store(bench.data, dsn, store):,.0f} resources/s into a PostgresResourceStore")
            exports = Exports(bench.data, bench.folder / "postgres-store", resources=store)
            title = "PostgresResourceStore to sealed files / psql COPY csv, same rows and order"
            yield _against_psql(bench, exports, ("3b", title), psql_copy(dsn, bench.data.plain))
            store.close()


def _against_psql(bench: Bench, exports: Exports, row: tuple[str, str], psql: Callable[[], None]) -> Figure:
    sealed: dict[str, Export] = {}
    data = bench.data
    with exports.pool() as pool:

        def export() -> float:
            sealed["files"] = pool.export(Wanted())
            return sealed["files"].seconds

        found = interleave({"export": export, "psql": timed(psql)}, bench.rounds)
    exports.close()
    if sealed["files"].count != data.count:
        raise RuntimeError("the export is not complete")
    rate = f"{data.count / found['export'].median:,.0f} resources/s"
    return ratio(*row, found["export"], found["psql"], rate)


def psql_copy(dsn: str, plain: Path, *, schema: str = "fhir_bulk") -> Callable[[], None]:
    """Copies what is current in a `PostgresResourceStore`."""
    return _psql(dsn, _ALL_STORED.format(schema), plain)


def _psql(dsn: str, query: str, plain: Path) -> Callable[[], None]:
    """As COPY writes a line per resource: with a quote and a delimiter that no JSON holds."""
    target = plain.with_name("psql.out")
    copy = f"COPY ({query}) TO STDOUT (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')"

    def run() -> None:
        with target.open("wb") as out:
            subprocess.run([psql(), dsn, "-q", "-c", copy], stdout=out, check=True)

    return run


def _load(data: Data, dsn: str, schema: str) -> None:
    """The same resources, in the order in which they came."""
    with psycopg.connect(dsn, autocommit=True) as into, sqlite3.connect(data.store) as source:
        into.execute(schema.encode())
        with into.cursor() as cursor, cursor.copy(_INTO) as rows:
            for type_, id_, number, last_updated, text in source.execute(_ROWS):
                rows.write_row((type_, id_, number, last_updated, text, False, False))
        into.execute("VACUUM ANALYZE")
    source.close()


def load_store(data: Data, dsn: str, store: PostgresResourceStore) -> float:
    """The same resources into our store; how many a second."""
    before = time.perf_counter()
    with data.plain.open("rb") as lines:
        store.load(lines)
    rate = data.count / (time.perf_counter() - before)
    with psycopg.connect(dsn, autocommit=True) as into:
        into.execute("VACUUM ANALYZE")
    return rate
