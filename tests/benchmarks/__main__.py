"""`python -m tests.benchmarks`: measure, and say how it compares."""

import argparse
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from .bench import Bench, Scenario
from .downloads import downloads
from .figures import UNCLEAR, Figure, Skipped, table
from .files import files, identical
from .filters import context, filters, firewall, shapes
from .incremental import incremental
from .lifecycle import large, lifecycle, one_type, scaling, small
from .loading import loading
from .machines import machines
from .plainly import noise
from .postgres import postgres
from .prediction import prediction
from .starting import starting
from .tables import mapped, tables
from .traffic import host, in_loop, kick_off, polls
from .unchanged import unchanged
from .worst import worst

__all__ = ["SCENARIOS", "main"]

SCENARIOS: dict[str, Scenario] = {
    "files": files,
    "identical": identical,
    "postgres": postgres,
    "machines": machines,
    "filters": filters,
    "incremental": incremental,
    "context": context,
    "shapes": shapes,
    "firewall": firewall,
    "scaling": scaling,
    "polls": polls,
    "host": host,
    "in-loop": in_loop,
    "kick-off": kick_off,
    "downloads": downloads,
    "lifecycle": lifecycle,
    "small": small,
    "one-type": one_type,
    "starting": starting,
    "worst": worst,
    "mapped": mapped,
    "tables": tables,
    "unchanged": unchanged,
    "loading": loading,
}
ON_DEMAND: dict[str, Scenario] = {"large": large, "prediction": prediction}
"""Not measured unless asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; 1 if a figure is beyond its floor in so many rounds that it is no accident; 130 if it was interrupted."""
    names = [*SCENARIOS, *ON_DEMAND]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ratios against baselines of the same run.")
    parser.add_argument("--quick", action="store_true", help="small data and few rounds: whether it works, not how fast it is")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--data", type=Path, metavar="DIR", help="NDJSON files, plain or .gz, instead of the population")
    parser.add_argument(
        "--resources", type=int, default=200_000, metavar="N", help="size of the population (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="(default: 5; with --quick 2, too few for a verdict)")
    parser.add_argument("--work", type=Path, default=_memory(), metavar="DIR", help="a folder for files (default: %(default)s)")
    given = parser.parse_args(arguments)
    out = sys.stdout
    with tempfile.TemporaryDirectory(prefix="fhir-bulk-bench-", dir=given.work) as folder:
        bench = Bench(
            folder=Path(folder),
            rounds=given.rounds or (2 if given.quick else 5),
            resources=2_000 if given.quick else given.resources,
            seconds=0.3 if given.quick else 2,
            source=given.data,
            say=_say,
        )
        out.write(_machine(given.work))
        found: list[Figure | Skipped] = []
        interrupted = False
        try:
            wanted = {name: (SCENARIOS | ON_DEMAND)[name] for name in given.only or SCENARIOS}
            for name, scenario in {"noise": noise, **wanted}.items():
                bench.say(f"{name} ...")
                found.extend(scenario(bench))  # which keeps what came before an interruption
        except KeyboardInterrupt:
            interrupted = True
    out.write(table(found))
    if any(isinstance(item, Figure) and "unclear" in item.verdict for item in found):
        out.write(UNCLEAR)
    if interrupted:
        out.write("Interrupted: the rest was not measured.\n")
        return 130
    if given.quick:
        out.write("These data are too small to judge by: fixed costs weigh most.\n")
        return 0
    return int(any(isinstance(item, Figure) and item.verdict == "REGRESSION" for item in found))


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def _memory() -> Path:
    """A folder in memory where there is one: a disk's moods are no figure of ours."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def _machine(work: Path) -> str:
    extras = [name for name in ("isal", "msgspec", "uvloop", "httptools") if importlib.util.find_spec(name)]
    tools = [name for name in ("sqlite3", "nginx") if shutil.which(name)]
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {len(os.sched_getaffinity(0))} cores, "
        f"load {os.getloadavg()[0]:.1f}; extras: {', '.join(extras) or 'none'}; tools: {', '.join(tools) or 'none'}; "
        f"files in {work}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
