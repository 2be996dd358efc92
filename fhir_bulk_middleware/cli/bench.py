"""`fhir-bulk bench`: measures the stages of an export of the user's data, or a whole server from outside."""

import argparse
import os
import tempfile
import time
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli.adapter_option import add_adapter, chosen_adapter
from fhir_bulk_middleware.cli.bench_server import add_server_options, run_server
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

__all__ = ["add_options"]

_MB = 1_000_000
_HOUR = 3600
_BLOCK = 1_048_576


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    chosen = add_adapter(parser)
    chosen.add_argument("--server", metavar="URL", help="the base URL of any bulk data server: measure whole exports as a client")
    add_server_options(parser)
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="stop after S seconds (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for temporary files (default: STATE, or the current folder)"
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    return run_server(given) if given.server is not None else _run_storage(given)


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
