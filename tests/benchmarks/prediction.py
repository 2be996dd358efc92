"""Whether the cost of a small export tells that of a large one: PostgreSQL, S3 and two workers, 20 times a million resources."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg
import pytest

from fhir_bulk_middleware.demo.population import population
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore

from .bench import Bench
from .data import Data
from .figures import Figure, Skipped
from .machines import Site, Spent, site_of
from .server import memory

__all__ = ["prediction"]

_TIMES = 20
_PER_PATIENT = 70.4
_SLICE = 64 * 1024 * 1024
_WORKERS = 2

_COPIED = ("resource", "resource_compartment", "resource_target", "resource_naming", "resource_posting", "resource_extent")
_COPY = """
    INSERT INTO resource
    SELECT seq + {offset}, stamp, writer, ended, ended_by, type, number, size + {longer}, deleted, in_patient, moved,
           id || '{suffix}', owners, replace(json, '"id":"' || id || '"', '"id":"' || id || '{suffix}"')
    FROM first_resource;
    INSERT INTO resource_compartment SELECT owner, seq + {offset} FROM first_resource_compartment;
    INSERT INTO resource_target SELECT type, id, seq + {offset} FROM first_resource_target;
    INSERT INTO resource_naming SELECT target, seq + {offset} FROM first_resource_naming;
    INSERT INTO resource_posting SELECT parameter, value, block + {offset} / 256, places FROM first_resource_posting;
    INSERT INTO resource_extent SELECT block + {offset} / 256, versions, live, in_patient, size FROM first_resource_extent
"""
"""Everything once more, under other ids and later keys, and as mixed as it was loaded: in the order of the keys it would be read
faster. References, owners and values stay those of the first."""

_SIZE = b"""
    SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace
"""


def prediction(bench: Bench) -> Iterator[Figure | Skipped]:
    """Row 15 large. The folder needs 2 kB for each resource, and should lie on a disk, from which both exports read."""
    try:
        with site_of(bench, _SLICE) as site:
            store = PostgresResourceStore(site.database.dsn, schema=site.place.resources)
            bench.say("loading into PostgreSQL ...")
            count = store.load(population(max(round(bench.resources / _PER_PATIENT), 20)), helpers=1)
            store.close()
            small = _cost(site, count, bench.rounds)
            _multiply(site, bench.say)
            large = _cost(site, count * _TIMES, 1)
    except pytest.skip.Exception as missing:
        yield Skipped("15 large", "a large export on PostgreSQL and S3", str(missing))
        return
    whole = f"{count * _TIMES:,} resources"
    for name, value in large.measures.items():
        yield _off(f"{whole}: {name}, off {_TIMES} times that of {count:,} by", value, small.measures[name] * _TIMES)
    title = f"{whole}: objects, off one for each slice's bytes and one for each type by"
    yield _off(title, large.objects, large.size / _SLICE + large.types)
    title = f"peak RSS of a worker: {_TIMES} times the resources / 1 time"
    note = f"{large.memory:.0f} MB / {small.memory:.0f} MB"
    yield Figure("15 memory", title, (large.memory / small.memory,), note, exact=True)


def _off(title: str, measured: float, predicted: float) -> Figure:
    """The factor between the two, whichever is larger."""
    factor = max(measured / predicted, predicted / measured)
    return Figure("15 large", title, (factor,), f"{measured:,.1f}, predicted {predicted:,.1f}", exact=True)


@dataclass(frozen=True, slots=True)
class _Cost:
    """What an export took.

    Attributes:
        measures: seconds, CPU seconds and gigabytes, which should grow as the data do.
        objects: in the object store.
        size: bytes of NDJSON.
        types: with resources.
        memory: the most of a worker, in MB.
    """

    measures: dict[str, float]
    objects: int
    size: int
    types: int
    memory: float


def _cost(site: Site, count: int, rounds: int) -> _Cost:
    """The median of each measure, over exports after one that is not counted if there are several."""
    with psycopg.connect(site.database.dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path = {site.place.resources}".encode())
        site.bench.say("VACUUM ANALYZE ...")
        connection.execute("VACUUM ANALYZE")
        types = tuple(sorted(name for (name,) in connection.execute("SELECT name FROM resource_type")))
        ((stored,),) = connection.execute(_SIZE, (site.place.resources,)).fetchall()
    site.bench.say(f"exporting {count:,} resources, {stored / 1e9:,.1f} GB of tables ...")
    data = Data(Path(), Path(), count, types)
    with site.workers(_WORKERS, data) as workers:
        spent = Spent(site.database, workers.processes)
        seconds = []
        for _ in range(rounds + 1 if rounds > 1 else 1):
            _evict(site.bench.folder)
            seconds.append(spent.on(workers.export))
        peak = max(memory(pid)[pid] for pid in workers.processes)
    counted = slice(rounds > 1, None)
    measures = {"seconds": median(seconds[counted])}
    measures |= {f"CPU, {name}": median(each[name] for each in spent.seconds[counted]) for name in spent.seconds[0]}
    found = spent.exports[-1]
    measures |= {"tables, GB": stored / 1e9, "objects, GB": found.stored / 1e9}
    return _Cost(measures, len(found.parts), found.size, len({part.type for part in found.parts}), peak)


def _evict(folder: Path) -> None:
    """Let the machine forget what it has in memory of the files, since a small export is to tell what one from disk costs."""
    os.sync()
    for path in folder.rglob("*"):
        with suppress(OSError), path.open("rb") as file:  # PostgreSQL removes some meanwhile, and some are sockets
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _multiply(site: Site, say: Callable[[str], None]) -> None:
    """Make as many copies as it takes."""
    with psycopg.connect(site.database.dsn, autocommit=True) as connection:
        connection.execute(f"SET search_path = {site.place.resources}; SET synchronous_commit = off".encode())
        ((last,),) = connection.execute("SELECT last_value FROM resource_counter").fetchall()
        stride = (last // 256 + 1) * 256
        for name in _COPIED:
            connection.execute(f"CREATE UNLOGGED TABLE first_{name} AS TABLE {name}".encode())
        for number in range(1, _TIMES):
            say(f"copy {number} of {_TIMES - 1} ...")
            suffix = f"-{number}"
            connection.execute(_COPY.format(offset=number * stride, suffix=suffix, longer=len(suffix)).encode())
        for name in _COPIED:
            connection.execute(f"DROP TABLE first_{name}".encode())
        connection.execute("SELECT setval('resource_counter', %s)", (_TIMES * stride,))
