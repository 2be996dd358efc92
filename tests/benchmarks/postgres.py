"""PostgreSQL to sealed files, by the example adapter, against psql's own COPY (row 3)."""

import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from .bench import Bench
from .data import Data
from .exports import Export, Exports, Wanted
from .figures import Figure, ratio
from .postgres_server import postgres_server, psql
from .rounds import interleave, timed

__all__ = ["postgres"]

_EXAMPLES = Path(__file__).parents[2] / "examples"
_ALL = "SELECT json FROM version WHERE ended = 9223372036854775807 AND NOT deleted ORDER BY type, seq"
_ROWS = """
    SELECT name, id, version, last_updated, json FROM resource JOIN type ON type.number = seq >> 40
    WHERE deleted = 0 ORDER BY last_updated, seq
"""
_INTO = "COPY version (type, id, number, last_updated, json, deleted, in_patient) FROM STDIN"


def postgres(bench: Bench) -> Iterator[Figure]:
    """Row 3."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_EXAMPLES))  # for this process; and so for its workers
        from documents.storage import DocumentStorage
        from documents.writing import SCHEMA

        with postgres_server(Path(folder)) as dsn:
            bench.say("loading into PostgreSQL ...")
            _load(bench.data, dsn, SCHEMA)
            yield _against_psql(bench, dsn, Exports(bench.data, bench.folder / "postgres", resources=DocumentStorage(dsn)))


def _against_psql(bench: Bench, dsn: str, exports: Exports) -> Figure:
    sealed: dict[str, Export] = {}
    data = bench.data
    with exports.pool() as pool:

        def export() -> float:
            sealed["files"] = pool.export(Wanted())
            return sealed["files"].seconds

        found = interleave({"export": export, "psql": timed(_psql(dsn, data.plain.with_name("psql.out")))}, bench.rounds)
    exports.close()
    if sealed["files"].count != data.count:
        raise RuntimeError("the export is not complete")
    rate = f"{data.count / found['export'].median:,.0f} resources/s"
    return ratio("3", "PostgreSQL to sealed files / psql COPY csv, same query and order", found["export"], found["psql"], rate)


def _psql(dsn: str, target: Path) -> Callable[[], None]:
    """As COPY writes a line per resource: with a quote and a delimiter that no JSON holds."""
    copy = f"COPY ({_ALL}) TO STDOUT (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')"

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
