"""Row 2c: the next full export of a store that has not changed, or hardly, beside the first one."""

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

from .bench import Bench
from .data import Data
from .exports import Pool, Wanted
from .figures import Figure
from .rounds import Series

__all__ = ["unchanged"]

_SHARES = (0.001, 0.01, 0.1, 0.5)
_JOBS = 10
_LIVING = "SELECT json FROM resource WHERE valid_to = 9223372036854775807 AND deleted = 0"


def unchanged(bench: Bench) -> Iterator[Figure]:
    """The next export, and the disk that ten exports of one store need beside one."""
    with bench.exports(bench.data, reuse="owner") as exports, exports.pool() as pool:
        again = Series(tuple(_ratio(pool) for _ in range(bench.rounds)))
        pool.export(Wanted())
        one = _disk(exports.folder / "exports")
        for _ in range(_JOBS - 1):
            pool.again(Wanted())
        ten = _disk(exports.folder / "exports")
    yield Figure("2c", "second export of an unchanged store / first", again.values)
    yield Figure("2c disk", f"disk for {_JOBS} exports of it / for one", (ten / one,), exact=True)
    for share in _SHARES:
        for what in ("updates", "appends"):
            ratio, linked = _after(bench, share, appends=what == "appends")
            yield Figure("", f"2c after {share:.1%} {what}", (ratio,), f"{linked:.0%} of the bytes linked")


def _ratio(pool: Pool) -> float:
    first = pool.export(Wanted())
    return pool.again(Wanted()).seconds / first.seconds


def _after(bench: Bench, share: float, *, appends: bool) -> tuple[float, float]:
    """Export, change some resources, export again: the ratio, and the share of the bytes that was linked."""
    folder = bench.folder / "changing"
    folder.mkdir()
    try:
        shutil.copy(bench.data.store, folder / "store.db")
        data = replace(bench.data, store=folder / "store.db")
        with bench.exports(data, reuse="owner") as exports, exports.pool() as pool:
            first = pool.export(Wanted())
            _change(data, share, appends=appends)
            second = pool.again(Wanted())
        linked = sum(part.size for part in second.parts if part.source is not None)
        return second.seconds / first.seconds, linked / second.size
    finally:
        shutil.rmtree(folder)


def _change(data: Data, share: float, *, appends: bool) -> None:
    """Write random resources again, as they are or as new ones."""
    with sqlite3.connect(data.store) as connection:
        lines: list[str] = [line for (line,) in connection.execute(_LIVING)]
    connection.close()
    chosen = random.Random(7).sample(lines, max(1, round(share * len(lines))))  # noqa: S311 - repeatable, not secret
    if appends:
        contents = [json.loads(line) for line in chosen]
        chosen = [json.dumps({**content, "id": f"new-{number}"}) for number, content in enumerate(contents)]
    store = SQLiteResourceStore(data.store)
    store.load(line.encode() for line in chosen)
    store.close()


def _disk(folder: Path) -> int:
    """Bytes of the files, each counted once however many names it has."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({each.st_ino: each.st_size for each in found}.values())
