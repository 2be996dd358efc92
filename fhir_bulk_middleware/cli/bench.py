"""`fhir-bulk bench`: measures the stages of an export of the user's data, or a whole server from outside."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli.adapter_option import add_adapter, chosen_adapter
from fhir_bulk_middleware.cli.bench_server import Bench, as_json, measure_server, show_rounds
from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.profiler import Profile, measure
from fhir_bulk_middleware.cli.state import ISSUER
from fhir_bulk_middleware.cli.token import EVERYTHING
from fhir_bulk_middleware.contract.access import Owner, Principal
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.demo.show import Screen, screen
from fhir_bulk_middleware.identifiers import new_job_id
from fhir_bulk_middleware.instant import after, system_clock
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.stores.filesystem import FileOutputStore

__all__ = ["add_to"]

_MB = 1_000_000
_HOUR = 3600
_BLOCK = 1_048_576


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="time the stages of an export, or a server's exports from outside")
    chosen = add_adapter(parser)
    chosen.add_argument("--server", metavar="URL", help="the base URL of any bulk data server: measure whole exports as a client")
    _add_server_options(parser)
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="stop after S seconds (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for temporary files (default: STATE, or the current folder)"
    )
    parser.set_defaults(run=_run)


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "with --server",
        "The access token is read from --token-file at each request, else from the environment variable BULK_DATA_TOKEN.",
    )
    group.add_argument("--request", default="$export", metavar="PATH", help="the kick-off below URL (default: %(default)s)")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the access token")
    group.add_argument("--rounds", type=int, default=3, metavar="N", help="exports, one after the other (default: %(default)s)")
    group.add_argument("--connections", type=int, default=4, metavar="N", help="downloads at a time (default: %(default)s)")
    group.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="a process of the server here: show its CPU and memory",
    )
    group.add_argument("--json", action="store_true", help="print each round as JSON")


def _run(given: argparse.Namespace) -> int:
    return _run_server(given) if given.server is not None else _run_storage(given)


def _run_server(given: argparse.Namespace) -> int:
    if given.rounds < 1 or given.connections < 1:
        raise Complaint("--rounds and --connections: 1 or more is required")
    if not given.server.startswith(("http://", "https://")):
        raise Complaint(f"--server: {given.server} is no URL; write http://... or https://...")
    where: Path = given.out or Path.cwd()
    if not where.is_dir():
        raise Complaint(f"--out: the folder {where} does not exist")
    token = _token(given.token_file)
    token()
    bench = Bench(given.server, given.request, token, given.rounds, given.connections, tuple(given.pid), where)
    rounds = measure_server(bench)
    if given.json:
        sys.stdout.write(as_json(rounds) + "\n")
    else:
        show_rounds(rounds, screen())
    return int(any(one.problems for one in rounds))


def _token(file: Path | None) -> Callable[[], str]:
    """The access token, read again for each request, so that another program may renew it while exports run."""

    def read() -> str:
        if file is None:
            return os.environ.get("BULK_DATA_TOKEN", "")
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Complaint(f"--token-file: {file} cannot be read ({error})") from error

    return read


def _run_storage(given: argparse.Namespace) -> int:
    if given.seconds <= 0:
        raise Complaint("--seconds: a positive number is required")
    resources = chosen_adapter(given)
    where: Path = given.out or given.dir or Path.cwd()
    if not where.is_dir():
        raise Complaint(f"--out: the folder {where} does not exist")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=where) as folder:
        stages = anyio.run(_measure, resources, Path(folder), given.seconds)
        copied = _copy(Path(folder) / "copy", stages.plain)
    _show(stages, copied, screen())
    return 0


async def _measure(resources: SupportsExport, folder: Path, seconds: float) -> Profile:
    owner = Owner(ISSUER, "bench")
    principal = Principal(owner=owner, scopes=(EVERYTHING,), expires_at=after(system_clock(), _HOUR))
    async with FileOutputStore(folder, blocking=True).create(f"{new_job_id()}/all") as sink:
        return await measure(resources, principal, sink, Settings(), system_clock, seconds=seconds)


def _copy(target: Path, size: int) -> float:
    """Seconds for writing and syncing the same number of bytes: the lower bound of an export of plain files."""
    block = bytes(_BLOCK)
    begun = time.perf_counter()
    with target.open("wb", buffering=0) as file:
        for at in range(0, size, _BLOCK):
            file.write(block[: size - at])
        os.fsync(file.fileno())
    return time.perf_counter() - begun


def _show(stages: Profile, copied: float, out: Screen) -> None:
    total = stages.total
    rows = [
        (stage.value, f"{seconds:.3f}", f"{seconds / total:.0%}", _speed(stages.plain, seconds))
        for stage, seconds in stages.seconds.items()
    ]
    out.table(("stage", "seconds", "share", "MB/s"), [*rows, ("all", f"{total:.3f}", "100%", _speed(stages.plain, total))])
    part = "all" if stages.complete else "the first"
    out.say(
        f"\nRead {part} {stages.resources:,} resources, {stages.plain / _MB:,.1f} MB, written as {stages.stored / _MB:,.1f} MB: "
        f"{stages.resources / total:,.0f} resources/s in one process."
    )
    if copied:
        out.say(f"Writing as many plain bytes to the same place takes {copied:.3f} s; this took {total / copied:.1f} times that.")


def _speed(size: int, seconds: float) -> str:
    return f"{size / seconds / _MB:,.0f}" if seconds else "-"
