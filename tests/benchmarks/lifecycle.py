"""The whole lifecycle over HTTP, and how time and memory grow with the data (row 5)."""

import http.client
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fhir_bulk_middleware.settings import Settings

from .bench import Bench
from .exports import Pool, Wanted
from .figures import Figure, ratio
from .rounds import Series, interleave
from .server import Server, memory, serve

__all__ = ["large", "lifecycle", "one_type", "scaling", "small"]

_SMALL, _FEW_PATIENTS, _LARGE = 1_000, 8_225, 2_000_000
_BLOCK = 1 << 20


def lifecycle(bench: Bench) -> Iterator[Figure]:
    """Kick-off to the last byte over two connections, small and middle."""
    for size in (_SMALL, max(bench.resources // 2, _SMALL)):
        yield from _lifecycle(bench, size, bench.rounds)


def small(bench: Bench) -> Iterator[Figure]:
    """Row 13b: an export of a few patients by a client that polls as it is told, with ready workers and with new ones."""
    data = bench.data_of(min(_FEW_PATIENTS, bench.resources))
    preferences = {"": "respond-async", ", `Prefer: wait=30`": "wait=30"}
    with serve(data, bench.folder / "small", workers=2) as server:
        warm = interleave({name: partial(_home, server, prefer) for name, prefer in preferences.items()}, 2 * bench.rounds)
    for name, series in warm.items():
        yield Figure("13b warm s", f"{data.count:,} resources, kick-off to the last byte{name}, s", series.values)
    cold = []
    for number in range(bench.rounds):
        with serve(data, bench.folder / f"cold-{number}", workers=2, ready=False) as server:
            cold.append(_home(server, preferences[""]))
    series = Series(tuple(cold))
    note = f"from the first answer of a new server; the slowest {max(cold):.2f} s"
    yield Figure("13b cold s", "the same, of a server that has just started, s", series.values, note)


def one_type(bench: Bench) -> Iterator[Figure]:
    """Row 18: whether the largest type alone keeps all workers busy."""
    wanted = Wanted(types=("Observation",))
    with ExitStack() as running:
        contenders = {}
        for name, workers in {"one": 1, "two": 2}.items():
            exports = running.enter_context(bench.exports(bench.data, settings=Settings(worker_processes=workers)))
            contenders[name] = partial(_seconds, running.enter_context(exports.pool()), wanted)
        found = interleave(contenders, bench.rounds)
    yield ratio("18", "one type alone, two workers / one", found["two"], found["one"])


def _home(server: Server, prefer: str) -> float:
    """Seconds from kick-off until all bytes are here."""
    begun = time.perf_counter()
    path = server.kick_off()
    _take_home(server, server.wait_as_told(path, prefer)["output"])
    taken = time.perf_counter() - begun
    server.ask("DELETE", path)
    return taken


def large(bench: Bench) -> Iterator[Figure]:
    """The same with two million resources, and row 5; takes minutes, mostly for loading."""
    yield from _lifecycle(bench, _LARGE, 1)
    yield from _scaling(bench, bench.resources, _LARGE)


def scaling(bench: Bench) -> Iterator[Figure]:
    """As row 5, with a tenth of the usual data and all of it; its own goal is about two million."""
    yield from _scaling(bench, bench.resources // 10, bench.resources)


def _lifecycle(bench: Bench, size: int, rounds: int) -> Iterator[Figure]:
    data = bench.data_of(size)
    folder = bench.folder / f"lifecycle-{size}"
    with serve(data, folder, workers=2) as server:
        taken = []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            path = server.kick_off()
            manifest = server.wait(path)
            sealed = time.perf_counter() - begun
            _take_home(server, manifest["output"])
            taken.append((time.perf_counter() - begun, sealed))
            if sum(item["count"] for item in manifest["output"]) != data.count:
                raise RuntimeError("the export is not complete")
            server.ask("DELETE", path)
        most = memory(server.process.pid)
    series = Series(tuple(seconds for seconds, _ in taken[1:] or taken))
    note = (
        f"{data.count / series.median:,.0f} resources/s, {data.size / series.median / 1e6:,.0f} MB/s, "
        f"{min(sealed for _, sealed in taken):.2f} s of it to the manifest at best, "
        f"peak {most.pop(server.process.pid):.0f} MB of the server and {max(most.values()):.0f} MB of a worker"
    )
    yield Figure("", f"kick-off to last byte as it lies, {data.count:,} resources, s", series.values, note)


def _scaling(bench: Bench, few: int, many: int) -> Iterator[Figure]:
    with ExitStack() as running:
        contenders = {}
        for name, size in {"few": few, "many": many}.items():
            exports = running.enter_context(bench.exports(bench.data_of(size)))
            contenders[name] = partial(_seconds, running.enter_context(exports.pool()))
        found = interleave(contenders, bench.rounds)
        workers = memory(os.getpid())
    del workers[os.getpid()]
    mine, other = bench.data_of(many).count, bench.data_of(few).count
    title = f"time({mine:,}) / time({other:,})"
    yield ratio("5" if many == _LARGE else "", title, found["many"], found["few"], f"{mine / other:.1f} times the resources")
    peak = (max(workers.values()),)
    yield Figure("5 MB", f"peak RSS of a worker at {mine:,}, MB", peak, "of all workers of both sizes", exact=True)


def _seconds(pool: Pool, wanted: Wanted | None = None) -> float:
    return pool.export(wanted or Wanted()).seconds


def _take_home(server: Server, files: Sequence[dict[str, Any]]) -> None:
    """Fetch all files as they lie, over two connections."""
    left, failures = list(files), []

    def fetch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        block = bytearray(_BLOCK)
        headers = {"Authorization": f"Bearer {server.token}", "Accept-Encoding": "gzip"}
        while left:
            try:
                item = left.pop()
            except IndexError:
                break
            connection.request("GET", urlsplit(item["url"]).path, headers=headers)
            response = connection.getresponse()
            size = 0
            while count := response.readinto(block):
                size += count
            if response.status != 200 or size != int(response.headers["Content-Length"]):
                failures.append(item["url"])
        connection.close()

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"not fetched: {failures}")
