"""Small requests: polls, a host's own routes and kick-offs (rows 9, 10, 12 and 13)."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from fhir_bulk_middleware.contract.access import Owner
from fhir_bulk_middleware.contract.job import Job, Request
from fhir_bulk_middleware.contract.query import Everything, Level, Rows, Window
from fhir_bulk_middleware.dialects import STANDARD
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import Precision, system_clock

from . import watch
from .bench import Bench
from .figures import Figure, ratio
from .load import Load
from .parked import Parked, parked
from .rounds import Series, interleave
from .served import IN_LOOP, ISSUER
from .server import SUBJECT, Server, serve

__all__ = ["a_job", "host", "in_loop", "kick_off", "polls"]

_FEW = 4
"""Connections of a load that shares the machine with an export."""


def polls(bench: Bench) -> Iterator[Figure]:
    """Rows 9 and 10."""
    folder = bench.folder / "polls"
    job = a_job(bench.data.types)
    with parked(folder, job, Rows(Everything())) as held:
        held.hold(3600)
        with serve(bench.data, folder, workers=0) as server:
            yield from _idle(bench, server.pin(0), held)
        held.hold(30)
        with serve(bench.data, folder, workers=2) as server:
            yield from _busy(bench, server, held)


def _idle(bench: Bench, server: Server, held: Parked) -> Iterator[Figure]:
    """Server on one core, client on the other."""
    loads: dict[str, Load] = {}
    around = held.path.replace("/fhir/", "/around/", 1)
    paths = {"installed": held.path, "around": around, "bare": "/bare", "verified": "/bare/verified"}
    measures = {name: _rate(bench, server, loads, name, path, token=True, core=1) for name, path in paths.items()}
    found = interleave(measures, bench.rounds, rate=True)
    for way, name in (("around", "BulkDataMiddleware"), ("installed", "install()")):
        load = loads[way]
        note = f"p50 {load.p50:.2f} ms, p99 {load.p99:.2f} ms at 32 connections"
        yield ratio("9", f"authorised poll, {name} / bare Starlette 202", found[way], found["bare"], note)
    verified = "authorised poll, install() / bare Starlette 202 that verifies the same token with python-jose"
    yield ratio("", verified, found["installed"], found["verified"])


def _busy(bench: Bench, server: Server, held: Parked) -> Iterator[Figure]:
    """No pinning: whoever needs a core takes one."""
    loads: dict[str, list[Load]] = {"idle": [], "export": []}

    def measure(name: str) -> Callable[[], float]:
        def rate() -> float:
            held.hold(30)
            load = server.load(held.path, token=True, connections=_FEW, seconds=bench.seconds)
            loads[name].append(load)
            return load.rate

        return rate

    exported: list[float] = []

    def during_export() -> float:
        with _exporting(server, exported):
            return measure("export")()

    found = interleave({"idle": measure("idle"), "export": during_export}, bench.rounds, rate=True)
    p99 = [load.p99 for load in loads["export"][1:]]
    idle = median(load.p99 for load in loads["idle"][1:])
    note = f"{_FEW} connections; exports of everything took {median(exported):.2f} s meanwhile" if exported else "no export ended"
    yield ratio("10", "polls during exports / idle", found["export"], found["idle"], note)
    yield Figure("10 p99 ms", "p99 of polls during exports, ms", tuple(p99), f"idle {idle:.2f} ms")


@contextmanager
def _exporting(server: Server, exported: list[float]) -> Generator[None]:
    """Export everything, again and again."""
    other = Server(server.port, server.folder, server.token, server.process)
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            path = other.kick_off()
            other.wait(path)
            exported.append(time.perf_counter() - begun)
            other.ask("DELETE", path)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def host(bench: Bench) -> Iterator[Figure]:
    """Row 12: the same host, on the same server, with us and without."""
    bases = ("around", "installed", "without")
    loads: dict[str, Load] = {}
    with serve(bench.data, bench.folder / "host", workers=0) as server:
        server.pin(0)
        measures = {base: _rate(bench, server, loads, base, f"/{base}/Patient/1", token=False, core=1) for base in bases}
        found = interleave(measures, bench.rounds, rate=True)
    yield ratio("12", "a host's own request, BulkDataMiddleware around it / without", found["around"], found["without"])
    yield ratio("12", "a host's own request, install() / without", found["installed"], found["without"])


def in_loop(bench: Bench) -> Iterator[Figure]:
    """A host's own requests while exports run in the loop of its server."""
    loads: dict[str, list[Load]] = {"idle": [], "export": []}
    exported: list[float] = []
    with serve(bench.data, bench.folder / "in-loop", workers=IN_LOOP) as server:

        def measure(name: str) -> float:
            load = server.load("/installed/Patient/1", token=False, connections=_FEW, seconds=bench.seconds)
            loads[name].append(load)
            return load.rate

        def during_export() -> float:
            with _exporting(server, exported):
                return measure("export")

        found = interleave({"idle": partial(measure, "idle"), "export": during_export}, bench.rounds, rate=True)
    p99 = [load.p99 for load in loads["export"][1:]]
    idle = median(load.p99 for load in loads["idle"][1:])
    note = f"{_FEW} connections; exports of everything took {median(exported):.2f} s meanwhile"
    yield ratio("", "a host's own requests during exports in its loop / idle", found["export"], found["idle"], note)
    yield Figure("in loop p99 ms", "p99 of those requests, ms", tuple(p99), f"idle {idle:.2f} ms")


def kick_off(bench: Bench) -> Iterator[Figure]:
    """Row 13: how soon a kick-off is answered, and how soon a worker has read the first resources."""
    answered, read = [], []
    with serve(bench.data, bench.folder / "kick-off", workers=2) as server:
        for number in range(4 * bench.rounds + 2):
            watch.forget(bench.data.store.parent)
            begun = time.monotonic()
            path = server.kick_off()
            after = time.monotonic() - begun
            server.wait(path)
            if number > 1:
                answered.append(after * 1000)
                read.append((watch.read_at(bench.data.store.parent) - begun) * 1000)
            server.ask("DELETE", path)
    for row, name, values in (
        ("13 p50 ms", "kick-off to its answer, ms", answered),
        ("13 read ms", "kick-off to the first page read, ms", read),
    ):
        series = Series(tuple(values))
        yield Figure(row, name, series.values, f"{len(values)} kick-offs, the slowest {max(values):.1f} ms")


def _rate(
    bench: Bench, server: Server, loads: dict[str, Load], name: str, path: str, *, token: bool, core: int
) -> Callable[[], float]:
    expected = 200 if path.endswith("/Patient/1") else 202

    def rate() -> float:
        load = loads[name] = server.load(path, token=token, seconds=bench.seconds, core=core)
        if load.status != expected:
            raise RuntimeError(f"{path} was answered with {load.status}")
        return load.rate

    return rate


def a_job(types: tuple[str, ...]) -> Job:
    """A job of the benchmark's own subject."""
    now = system_clock()
    request = Request(
        url=f"{ISSUER}/fhir/$export",
        level=Level.SYSTEM,
        types=types,
        window=Window(),
        retention=3600,
        precision=Precision.MICROSECONDS,
    )
    owner = Owner(ISSUER, SUBJECT)
    return Job(id=new_job_id(), mount=STANDARD.name, owner=owner, request=request, created_at=now, changed_at=now)
