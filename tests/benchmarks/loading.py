"""Row 17: what `serve --data` costs until it serves, beside parsing and writing the same lines with the standard library."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from .bench import Bench
from .figures import Figure, ratio
from .rounds import Series, interleave
from .server import environment

__all__ = ["loading"]

_PARSE = """
import json, sys, time
with open(sys.argv[1], "rb") as lines:
    for line in lines:
        json.dumps(json.loads(line))
print(time.process_time())
"""


@dataclass(frozen=True, slots=True)
class _Load:
    """One load.

    Attributes:
        cpu: seconds of the server's process.
        helpers: seconds of all processes that it started and that have ended.
        elapsed: seconds from its start until it answers.
    """

    cpu: float
    helpers: float
    elapsed: float


def loading(bench: Bench) -> Iterator[Figure]:
    """What a server costs that loads one line is taken off: its own start."""
    folder = bench.folder / "loading"
    folder.mkdir()
    with bench.data.plain.open("rb") as lines:
        (folder / "one.ndjson").write_bytes(lines.readline())
    loads: dict[str, list[_Load]] = {"all": [], "one": []}
    contenders: dict[str, Callable[[], float]] = {
        "all": partial(_measured, folder, bench.data.plain, loads["all"]),
        "one": partial(_measured, folder, folder / "one.ndjson", loads["one"]),
        "json": partial(_parsed, bench.data.plain),
    }
    found = interleave(contenders, bench.rounds, warm=False)
    mine = Series(tuple(whole - start for whole, start in zip(found["all"].values, found["one"].values, strict=True)))
    count = bench.data.count
    took = median(each.elapsed for each in loads["all"])
    note = f"CPU, {mine.median / count * 1e6:,.0f} s per million; the server answered after {took:.1f} s"
    yield ratio("17", f"serve --data of {count:,} resources / json.loads and dumps of the same lines", mine, found["json"], note)
    processes = max(len(os.sched_getaffinity(0)) - 1, 1)
    busy = tuple((each.cpu + each.helpers) / max(each.cpu, each.helpers / processes) for each in loads["all"])
    writer, helpers = median(each.cpu for each in loads["all"]), median(each.helpers for each in loads["all"])
    note = f"CPU of all its processes / of the busiest; the one that writes {writer:.1f} s, those that parse {helpers:.1f} s"
    yield Figure("17 cores", "cores that loading can keep busy", busy, note)


def _measured(folder: Path, source: Path, loads: list[_Load]) -> float:
    """CPU seconds of a server from its start until it answers."""
    loads.append(_load(folder / "state", source))
    return loads[-1].cpu + loads[-1].helpers


def _load(state: Path, source: Path) -> _Load:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-m", "fhir_bulk_middleware.cli", "serve", "--data", str(source), "--dir", str(state)]
        begun = time.perf_counter()
        # Without workers, which have nothing to do with it. Requests wait until the load is complete.
        server = subprocess.Popen(
            [*command, "--workers", "0", "--fd", str(fd), "--log-level", "error"],
            env=environment(),
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/fhir/metadata")
        connection.getresponse().read()
        elapsed = time.perf_counter() - begun
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        own, helpers = (sum(map(int, fields[at : at + 2])) / os.sysconf("SC_CLK_TCK") for at in (11, 13))
    finally:
        server.terminate()
        server.wait()
    shutil.rmtree(state)
    return _Load(own, helpers, elapsed)


def _parsed(source: Path) -> float:
    ran = subprocess.run([sys.executable, "-c", _PARSE, str(source)], stdout=subprocess.PIPE, check=True)
    return float(ran.stdout)
