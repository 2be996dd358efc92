"""Measures a bulk data server from outside, as a client that keeps to its pace sees it."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from fhir_bulk_middleware.cli.complaint import Complaint, need
from fhir_bulk_middleware.cli.process_use import ProcessUse
from fhir_bulk_middleware.demo.show import Screen

if TYPE_CHECKING:
    from fhir_bulk_middleware.demo.client import BulkClient
    from fhir_bulk_middleware.demo.download import Fetched

__all__ = ["Bench", "Round", "as_json", "measure_server", "of_json", "show_beside", "show_rounds"]

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Bench:
    """What to measure.

    Attributes:
        server: the base URL.
        request: the kick-off below it, such as `Group/7/$export?_type=Patient`.
        token: returns the access token; empty for a server without authorization.
        rounds: how many exports, one after the other.
        connections: downloads at a time.
        pids: processes of the server that run on this machine; their descendants count with them.
        folder: where downloads are written; each round's are removed.
    """

    server: str
    request: str
    token: Callable[[], str]
    rounds: int
    connections: int
    pids: tuple[int, ...]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One export from kick-off to the last byte.

    Attributes:
        kick_off: seconds until the kick-off was answered.
        manifest: seconds from then until the manifest was there.
        download: seconds from then until all files were downloaded and checked.
        polls: requests for the status, the last included.
        resources: lines of the files of `output`.
        files: of all lists.
        size: bytes of the files without content encoding.
        transferred: bytes of the files on the network.
        problems: differences from what the manifest says of count, size and hash.
        client_cpu: seconds of CPU time of this process.
        server_cpu: those of the server's processes; None without `--pid`.
        server_peak: the sum of their largest resident sizes in bytes, so far; None without `--pid`.
    """

    kick_off: float
    manifest: float
    download: float
    polls: int
    resources: int
    files: int
    size: int
    transferred: int
    problems: int
    client_cpu: float
    server_cpu: float | None
    server_peak: int | None

    @property
    def total(self) -> float:
        """Seconds of the whole."""
        return self.kick_off + self.manifest + self.download


def measure_server(bench: Bench) -> list[Round]:
    """Export as often as asked for.

    Raises:
        Complaint: the server cannot be reached, or answers what no client can go on with.
    """
    need("bench --server", "httpx2")
    return anyio.run(_rounds, bench)


async def _rounds(bench: Bench) -> list[Round]:
    import httpx2  # noqa: PLC0415 - of an extra

    from fhir_bulk_middleware.demo.client import BulkClient, Unexpected  # noqa: PLC0415 - needs the extra

    try:
        async with httpx2.AsyncClient(timeout=60, follow_redirects=True) as http:
            client = BulkClient(http, bench.token)
            return [await _round(client, bench) for _ in range(bench.rounds)]
    except Unexpected as unexpected:
        raise Complaint(f"{bench.server}: {unexpected}") from unexpected
    except httpx2.HTTPError as error:
        raise Complaint(f"{bench.server} cannot be reached: {error or type(error).__name__}") from error
    except (KeyError, ValueError) as error:
        raise Complaint(f"{bench.server} sent a manifest that cannot be read: {error!r}") from error


async def _round(client: "BulkClient", bench: Bench) -> Round:
    from fhir_bulk_middleware.demo.client import InProgress, Unexpected  # noqa: PLC0415 - needs the extra

    served, own = _used(bench.pids), time.process_time()
    begun = time.perf_counter()
    status_url = await client.kick_off(f"{bench.server.rstrip('/')}/{bench.request.lstrip('/')}")
    accepted = time.perf_counter()
    polls, ready = 0, accepted
    fetched: list[Fetched] = []
    page: str | None = status_url
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=bench.folder) as folder:
        while page is not None:
            async for answer in client.wait(page):
                polls += 1
                if isinstance(answer, InProgress):
                    continue
                ready = ready if fetched else time.perf_counter()
                fetched += await client.fetch(answer, Path(folder) / str(polls), connections=bench.connections)
                page = answer.next
    done, own, now = time.perf_counter(), time.process_time() - own, _used(bench.pids)
    with suppress(Unexpected):  # a server need not let a client release what it has downloaded
        await client.cancel(status_url)
    return Round(
        kick_off=accepted - begun,
        manifest=ready - accepted,
        download=done - ready,
        polls=polls,
        resources=sum(file.count for file in fetched if file.file.list == "output"),
        files=len(fetched),
        size=sum(file.size for file in fetched),
        transferred=sum(file.transferred for file in fetched),
        problems=sum(len(file.problems) for file in fetched),
        client_cpu=own,
        server_cpu=now.cpu - served.cpu if now and served else None,
        server_peak=now.peak if now else None,
    )


def _used(pids: Sequence[int]) -> ProcessUse | None:
    each = [ProcessUse.of(pid) for pid in pids]
    return ProcessUse(sum(one.cpu for one in each), sum(one.peak for one in each)) if each else None


def show_rounds(rounds: Sequence[Round], out: Screen) -> None:
    """Show each figure's median and its smallest and largest value."""
    rows = [
        (name, *(format(value, form) for value in (statistics.median(values), min(values), max(values))))
        for name, values, form in _all(rounds)
    ]
    out.table(("figure", "median", "least", "most"), [*rows, ("differences from the manifest", f"{_problems(rounds):,}", "", "")])


def show_beside(rounds: Sequence[Round], others: Sequence[Round], out: Screen) -> None:
    """Show the figures of two servers, each as median and range, and this server's median in parts of the other's.

    Where the ranges overlap there is no ratio: these rounds do not tell which server is better.
    """
    theirs = {name: values for name, values, _ in _all(others)}
    rows = []
    for name, mine, form in _all(rounds):
        other = theirs.get(name, [])
        rows.append((name, _spread(mine, form), _spread(other, form), _ratio(mine, other)))
    last = ("differences from the manifest", f"{_problems(rounds):,}", f"{_problems(others):,}", "")
    out.table(("figure", "this", "other", "this/other"), [*rows, last])


def _all(rounds: Sequence[Round]) -> list[tuple[str, list[float], str]]:
    """Each figure's name, its values and their format."""
    figures: list[tuple[str, list[float], str]] = [
        ("kick-off answered, ms", [1000 * one.kick_off for one in rounds], ",.1f"),
        ("kick-off to manifest, s", [one.manifest for one in rounds], ",.3f"),
        ("download, s", [one.download for one in rounds], ",.3f"),
        ("all, s", [one.total for one in rounds], ",.3f"),
        ("polls", [one.polls for one in rounds], ",.0f"),
        ("resources", [one.resources for one in rounds], ",.0f"),
        ("resources/s", [one.resources / one.total for one in rounds], ",.0f"),
        ("files", [one.files for one in rounds], ",.0f"),
        ("MB", [one.size / _MB for one in rounds], ",.1f"),
        ("MB on the network", [one.transferred / _MB for one in rounds], ",.1f"),
        ("this client's CPU, s", [one.client_cpu for one in rounds], ",.3f"),
    ]
    if served := [one.server_cpu for one in rounds if one.server_cpu is not None]:
        figures.append(("the server's CPU, s", served, ",.3f"))
        figures.append(("the server's peak memory, MB", [one.server_peak / _MB for one in rounds if one.server_peak], ",.0f"))
    return figures


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return "not measured"
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _ratio(mine: Sequence[float], other: Sequence[float]) -> str:
    if not mine or not other:
        return ""
    if set(mine) == set(other) and len(set(mine)) == 1:
        return "same"
    if min(mine) <= max(other) and min(other) <= max(mine):
        return "unclear"
    return f"{statistics.median(mine) / statistics.median(other):.2f}" if statistics.median(other) else ""


def _problems(rounds: Sequence[Round]) -> int:
    return sum(one.problems for one in rounds)


def as_json(bench: Bench, rounds: Sequence[Round]) -> str:
    """A JSON object of server, request and rounds, with the names and units of `Round`."""
    return json.dumps({"server": bench.server, "request": bench.request, "rounds": [asdict(one) for one in rounds]}, indent=2)


def of_json(text: str) -> list[Round]:
    """The rounds of what `as_json` made.

    Raises:
        ValueError: it made something else, or there are no rounds.
    """
    try:
        rounds = [Round(**one) for one in json.loads(text)["rounds"]]
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not rounds:
        raise ValueError("there are no rounds")
    return rounds
