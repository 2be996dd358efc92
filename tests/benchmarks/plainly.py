"""The work of an export done plainly, as commands: the baseline of rows 1 and 2, and what shows how much the machine varies."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .bench import Bench, core
from .data import PLAIN_QUERY, Data
from .figures import Figure, Skipped, ratio
from .rounds import interleave, timed

__all__ = ["noise", "plainly", "shell", "tools_missing"]


def noise(bench: Bench) -> Iterator[Figure | Skipped]:
    """The same commands against themselves: what any ratio of this machine may be off by."""
    name = "this machine's noise: the plain commands of rows 1 and 2 / themselves"
    if missing := tools_missing():
        yield Skipped("noise", name, missing)
        return
    with core(0):
        found = interleave({each: timed(plainly(bench.data)) for each in ("first", "second")}, bench.rounds)
    yield ratio("noise", name, found["first"], found["second"], "one core; without noise it would be 1.00 in each round")


def tools_missing() -> str:
    """Why the plain way cannot be gone; empty if it can."""
    if not shutil.which("sqlite3"):
        return "there is no sqlite3 shell here"
    return "" if _hash(Path()) else "there is neither openssl nor sha256sum here"


def plainly(data: Data) -> Callable[[], None]:
    """Query to a file by SQLite's shell, its sha256, and its gzip by isal, one after the other. On one core if the caller is."""
    read, plain, gzip = shell(data), data.plain.with_name("shell.out"), data.plain.with_name("shell.out.gz")

    def run() -> None:
        read()
        subprocess.run(_hash(plain), stdout=subprocess.DEVNULL, check=True)
        with gzip.open("wb") as target:
            subprocess.run(_gzip(plain), stdout=target, check=True)

    return run


def shell(data: Data) -> Callable[[], None]:
    """The query of a whole export in SQLite's own shell."""
    target = data.plain.with_name("shell.out")

    def run() -> None:
        subprocess.run(["sqlite3", str(data.store), f".output {target}", PLAIN_QUERY], check=True)

    return run


def _hash(file: Path) -> Sequence[str]:
    """The faster of the usual commands first: sha256sum may do without the processor's own instructions."""
    commands = (["openssl", "dgst", "-sha256"], ["sha256sum"])
    return next(([*command, str(file)] for command in commands if shutil.which(command[0])), ())


def _gzip(file: Path) -> Sequence[str]:
    """At level 1, as parts are."""
    program = ["igzip"] if shutil.which("igzip") else [sys.executable, "-m", "isal.igzip"]
    return [*program, "-1", "-c", str(file)]
