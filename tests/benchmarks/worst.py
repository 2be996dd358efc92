"""Polls of others while 16 callers send the largest that is read (law 38): `python -m tests.benchmarks.worst PORT TOKEN...`.

As a program it is those callers: each sends its next request when the last one is answered, until its standard input ends.
"""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from statistics import median

from fhir_bulk_middleware.caps import BODY_OPENINGS, CRITERIA_VALUES, REPORTS, VALUES
from fhir_bulk_middleware.contract.query import Everything, Rows

from .bench import Bench
from .figures import Figure, ratio
from .load import Load
from .parked import parked
from .rounds import interleave
from .server import Server, environment, serve
from .traffic import a_job

__all__ = ["worst"]

_POLLING = 4


def worst(bench: Bench) -> Iterator[Figure]:
    """How much slower polls get."""
    folder = bench.folder / "worst"
    loads: dict[str, list[Load]] = {"idle": [], "attacked": []}
    with parked(folder, a_job(bench.data.types), Rows(Everything())) as held:
        held.hold(3600)
        with serve(bench.data, folder, workers=0) as server:

            def measure(name: str) -> Callable[[], float]:
                def rate() -> float:
                    load = server.load(held.path, token=True, connections=_POLLING, seconds=bench.seconds)
                    loads[name].append(load)
                    return load.rate

                return rate

            def under_attack() -> float:
                with _callers(server):
                    return measure("attacked")()

            found = interleave({"idle": measure("idle"), "attacked": under_attack}, bench.rounds, rate=True)
    idle, slow = (median(load.p99 for load in loads[name][1:]) for name in ("idle", "attacked"))
    note = f"p99 {slow:.1f} ms / {idle:.1f} ms, {_POLLING} connections poll"
    yield ratio(
        "", f"polls while {len(server.others)} callers send the worst that is read / idle", found["attacked"], found["idle"], note
    )
    each = (attacked.p99 / calm.p99 for attacked, calm in zip(loads["attacked"][1:], loads["idle"][1:], strict=True))
    yield Figure("", "p99 of those polls, in parts of the idle one's", tuple(each))


@contextmanager
def _callers(server: Server) -> Generator[None]:
    command = [sys.executable, "-m", f"{__package__}.worst", str(server.port), *server.others]
    callers = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if callers.stdout is None or callers.stdin is None:
            raise RuntimeError("no pipes")
        callers.stdout.readline()  # all have had an answer
        yield
    finally:
        callers.communicate()


def _requests() -> list[tuple[str, str, dict[str, str], bytes]]:
    """Method, path, headers and body of the largest that is read."""
    lenient = {"Prefer": "respond-async, handling=lenient"}
    strict = {"Prefer": "respond-async", "Content-Type": "application/fhir+json"}

    def body(name: str, value: str, **more: object) -> bytes:
        entry = {"name": name, "valueString": value, **more}
        return json.dumps({"resourceType": "Parameters", "parameter": [entry]}).encode()

    codes = ",".join(f"http://loinc.org|{number}" for number in range(CRITERIA_VALUES))
    dates = ",".join(["ge2020-01-01T00:00:00Z"] * CRITERIA_VALUES)
    return [
        ("GET", "/fhir/$export", {"Prefer": 'respond-async, "' + '\\"' * 500}, b""),
        ("GET", "/fhir/$export?" + "&".join(f"unknown{number}=1" for number in range(REPORTS)), lenient, b""),
        ("POST", "/fhir/$export", strict, body("_elements", ",".join(["id"] * VALUES))),
        ("POST", "/fhir/$export", strict, body("_typeFilter", f"Observation?code={codes}")),
        ("POST", "/fhir/$export", strict, body("_typeFilter", f"Observation?date={dates}")),
        ("POST", "/fhir/$export", strict, body("_type", "Patient", extension=[{}] * (BODY_OPENINGS - 5))),
        ("GET", "/fhir/$export?_elements=" + "%25" * 5_000, {"Prefer": "respond-async"}, b""),
    ]


def _send(port: int, token: str, answered: threading.Barrier, over: threading.Event, number: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    requests = _requests()
    count = 0
    while not over.is_set():
        method, path, headers, body = requests[(number + count) % len(requests)]
        connection.request(method, path, body or None, {"Authorization": f"Bearer {token}", **headers})
        connection.getresponse().read()
        count += 1
        if count == 1:
            answered.wait()


def _main() -> None:
    port, *tokens = sys.argv[1:]
    answered, over = threading.Barrier(len(tokens) + 1), threading.Event()
    callers = [
        threading.Thread(target=_send, args=(int(port), token, answered, over, number), daemon=True)
        for number, token in enumerate(tokens)
    ]
    for caller in callers:
        caller.start()
    answered.wait()
    print("begun", flush=True)  # noqa: T201
    sys.stdin.read()
    over.set()
    for caller in callers:
        caller.join()


if __name__ == "__main__":
    _main()
