"""Many machines: workers of procrastinate on PostgreSQL and S3, and what a million resources costs there (rows 15)."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import object_servers
import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.stores.postgres import PostgresJobStore
from fhir_bulk_middleware.stores.postgres.resources import PostgresResourceStore

from .bench import Bench
from .data import Data
from .exports import Export, Exports, Pool, Wanted
from .figures import Figure, Skipped, ratio
from .machines_worker import Place
from .postgres import load_store, psql_copy
from .postgres_server import PostgresProcess, postgres_process
from .quota import quota
from .rounds import interleave, timed
from .server import environment, memory

__all__ = ["Site", "Spent", "Workers", "machines", "site_of"]

_WAIT = 0.02
_LOOK = 0.05
"""Seconds between polls, so that a client, which nobody measures, takes little of the machine."""
_MIB = 1024 * 1024
_TIMES = 3
_SMALL = 6 * _MIB
"""For so many times the usual data: slices so small that eight workers get the same share of it, and so large that what each
costs the two cores of all workers, PostgreSQL and S3 is little beside what it waits."""
_SLICE = 16 * _MIB
"""As an operator sets it for so few resources: some slices for each worker. By default it is four times that."""
_SHARE = 0.4
"""Of a core: two workers, and what PostgreSQL and S3 do for them, are less than two cores."""
_TICKS = os.sysconf("SC_CLK_TCK")
_MANY = 8


def machines(bench: Bench) -> Iterator[Figure | Skipped]:
    """Rows 15."""
    try:
        with site_of(bench, _SLICE) as site:
            yield from _waiting(site)
            for name, data in {"whole": bench.data, "tenth": bench.data_of(bench.resources // 10)}.items():
                _load(site, name, data)
            yield _scaling(site)
            yield from _working(site)
            yield from _memory(site)
    except pytest.skip.Exception as missing:
        yield Skipped("15 wait", "workers on PostgreSQL and S3", str(missing))


@contextmanager
def site_of(bench: Bench, slice_bytes: int) -> Generator["Site"]:
    """PostgreSQL and an S3 server, empty.

    Args:
        bench: the run.
        slice_bytes: the size of a slice, unless a contender has another.

    Raises:
        pytest.skip.Exception: there is no S3 server here.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("AWS_ACCESS_KEY_ID", object_servers.ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", object_servers.SECRET_KEY)
        objects = stack.enter_context(object_servers.s3(_made(folder / "s3")))
        database = stack.enter_context(postgres_process(_made(folder / "p"), max_connections=300))
        yield Site(bench, database, Place(database.dsn, "", "whole", 0, objects.url, dict(objects.config), slice_bytes))


@dataclass(frozen=True, slots=True)
class Site:
    """What all contenders share.

    Attributes:
        bench: the run.
        database: PostgreSQL.
        place: a place, whose `name` each contender changes.
    """

    bench: Bench
    database: PostgresProcess
    place: Place

    @contextmanager
    def workers(self, count: int, data: Data | None = None, **changed: Any) -> Generator["Workers"]:
        """A place of its own with so many workers, ready."""
        place = replace(self.place, name=f"w{count}_{secrets.token_hex(4)}", **changed)
        with ExitStack() as stack:
            jobs, runner = place.jobs(), place.runner()
            portal = stack.enter_context(start_blocking_portal())
            portal.call(jobs.migrate)
            portal.call(runner.migrate)
            command = [sys.executable, "-m", f"{__package__}.machines_worker", json.dumps(asdict(place))]
            started = [subprocess.Popen(command, env=environment()) for _ in range(count)]
            stack.callback(_end, started)
            stack.enter_context(portal.wrap_async_context_manager(_dispatching(place.work(jobs), jobs, runner)))
            with psycopg.connect(place.dsn, autocommit=True) as connection:
                ready = f"TABLE {place.name}_tasks.procrastinate_workers".encode()
                while connection.execute(ready).rowcount < count:
                    time.sleep(0.05)
            exports = Exports(data or self.bench.data, self.bench.folder, resources=place.storage(), jobs=jobs, look=_LOOK)
            yield Workers(Pool(exports, runner, portal), [process.pid for process in started])
            jobs.close()


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers that wait for exports.

    Attributes:
        pool: gives them exports.
        processes: their ids.
    """

    pool: Pool
    processes: list[int]

    def export(self) -> Export:
        """Export all there is."""
        found = self.pool.again(Wanted())
        if found.count != self.pool.exports.count:
            raise RuntimeError("the export is not complete")
        return found

    def seconds(self) -> float:
        """How long that takes."""
        return self.export().seconds


def _load(site: Site, schema: str, data: Data) -> None:
    """Load data into a schema. What autovacuum would do of it in the middle of a round is done now."""
    store = PostgresResourceStore(site.database.dsn, schema=schema)
    site.bench.say(f"loaded {load_store(data, site.database.dsn, store):,.0f} resources/s into {schema}")
    store.close()
    with psycopg.connect(site.database.dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _waiting(site: Site) -> Iterator[Figure]:
    """A storage whose pages take 20 ms longer: the more workers, the more reads wait at a time."""
    data = site.bench.data_of(_TIMES * site.bench.resources)
    _load(site, "large", data)
    far = {"resources": "large", "seconds": _WAIT, "slice_bytes": _SMALL}
    with ExitStack() as stack:
        one, many = (stack.enter_context(site.workers(count, data, **far)) for count in (1, _MANY))
        found = interleave({"one": one.seconds, "many": many.seconds}, site.bench.rounds)
    title = (
        f"storage that waits {_WAIT * 1000:.0f} ms a page, {_TIMES} times the resources in slices of {_SMALL // _MIB} MiB:"
        f" 1 worker / {_MANY} workers"
    )
    yield ratio("15 wait", title, found["one"], found["many"])


def _scaling(site: Site) -> Figure | Skipped:
    """Workers that have work for more than the CPU time they get, while PostgreSQL and S3 have more than they need.

    On a machine of two cores a second worker would otherwise take time from PostgreSQL and S3, which have machines of their own.
    """
    title = f"storage that does not wait, slices of {_SLICE // _MIB} MiB, {_SHARE:.0%} of a core for each: 1 worker / 2 workers"
    with ExitStack() as stack:
        one, two = (stack.enter_context(site.workers(count)) for count in (1, 2))
        if not stack.enter_context(quota([*one.processes, *two.processes], _SHARE)):
            return Skipped("15 cpu", title, "needs root, and control groups with the controller cpu")
        found = interleave({"one": one.seconds, "two": two.seconds}, site.bench.rounds)
    return ratio("15 cpu", title, found["one"], found["two"])


def _working(site: Site) -> Iterator[Figure]:
    """One and two workers on all cores, which PostgreSQL and S3 use too, against psql's COPY; and where the CPU time goes."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(site.workers(count)) for count in (1, 2))
        spent = Spent(site.database, two.processes)
        copy = psql_copy(site.database.dsn, site.bench.data.plain, schema=site.place.resources)
        contenders: dict[str, Callable[[], float]] = {
            "one": one.seconds,
            "two": partial(spent.on, two.export),
            "psql": timed(copy),
        }
        found = interleave(contenders, site.bench.rounds)
    count = site.bench.data.count
    slices = f"slices of {_SLICE // _MIB} MiB"
    yield ratio("", "the same on all cores, which PostgreSQL and S3 use, too: 1 worker / 2 workers", found["one"], found["two"])
    rate = f"{count / found['two'].median:,.0f} resources/s"
    title = f"PostgreSQL to S3, {slices}, {{}} / psql COPY csv, same rows"
    yield ratio("15 copy", title.format("2 workers"), found["two"], found["psql"], rate)
    yield ratio("", title.format("1 worker"), found["one"], found["psql"])
    for part in ("workers", "PostgreSQL", "object store"):
        values = tuple(seconds[part] / count * 1e6 for seconds in spent.seconds[1:])
        yield Figure("", f"CPU of {part} for a million resources, s", values)
    parts = spent.exports[-1].parts
    yield Figure("", "objects of a million resources", (len(parts) / count * 1e6,), exact=True)
    yield Figure("", "bytes of a resource in the object store", (spent.exports[-1].stored / count,), exact=True)
    yield Figure("", "connections to PostgreSQL, with 3 idle workers", (max(spent.connections),), exact=True)


def _memory(site: Site) -> Iterator[Figure]:
    """The most memory of a worker that exports all, against one that exports a tenth."""
    peaks = {}
    tenth = site.bench.data_of(site.bench.resources // 10)
    for name, data in {"whole": site.bench.data, "tenth": tenth}.items():
        with site.workers(1, data, resources=name) as worker:
            for _ in range(2):
                worker.export()
            (pid,) = worker.processes
            peaks[name] = memory(pid)[pid]
    note = f"{peaks['whole']:.0f} MB / {peaks['tenth']:.0f} MB"
    yield Figure(
        "15 memory", "peak RSS of a worker: 10 times the resources / 1 time", (peaks["whole"] / peaks["tenth"],), note, True
    )


class Spent:
    """The CPU time of exports by the processes that take part.

    Attributes:
        seconds: of each export, by part.
        exports: the exports.
        connections: to PostgreSQL, after each.
    """

    def __init__(self, database: PostgresProcess, workers: list[int]) -> None:
        self.seconds: list[dict[str, float]] = []
        self.exports: list[Export] = []
        self.connections: list[int] = []
        self._database = database
        self._workers = workers

    def on(self, export: Callable[[], Export]) -> float:
        """Export, and note what it took; the seconds that it lasted."""
        before = self._now()
        found = export()
        after = self._now()
        self.seconds.append({name: after[name] - before[name] for name in after})
        self.exports.append(found)
        with psycopg.connect(self._database.dsn) as connection:
            rows = connection.execute("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
            self.connections.append(rows.rowcount - 1)
        return found.seconds

    def _now(self) -> dict[str, float]:
        processes = _processes()
        store = [pid for pid, (parent, name, _) in processes.items() if parent == os.getpid() and name == "versitygw"]
        server = [self._database.pid, *(pid for pid, (parent, _, _) in processes.items() if parent == self._database.pid)]
        parts = {"workers": self._workers, "PostgreSQL": server, "object store": store}
        return {name: sum(processes[pid][2] for pid in pids if pid in processes) for name, pids in parts.items()}


def _processes() -> dict[int, tuple[int, str, float]]:
    """Parent, name and CPU seconds of each process, with those of its children that have ended."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        found[int(stat.parent.name)] = int(fields[1]), head.partition("(")[2], sum(map(int, fields[11:15])) / _TICKS
    return found


@asynccontextmanager
async def _dispatching(work: JobWork, jobs: PostgresJobStore, runner: Any) -> Any:
    """What a server does for its workers: hand out work, and hear of more."""
    hearing = asyncio.create_task(jobs.listen(work=runner.wake, ended=lambda _: None))
    async with runner.running(work):
        yield
    hearing.cancel()


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
