"""A worker process: `python -m fhir_bulk_middleware.workers.process`, with its assignment as the first line of stdin.

It ends when stdin closes, so it never outlives its server. On SIGTERM and SIGINT it gives its work back and ends.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from fhir_bulk_middleware.contract.recipes import as_json, from_json, make
from fhir_bulk_middleware.contract.running import Recipe, Work
from fhir_bulk_middleware.workers.loop import keep_working
from fhir_bulk_middleware.workers.starts import BEGAN, report
from fhir_bulk_middleware.workers.wakeup import WakeUps

__all__ = ["GRACE", "Assignment", "main"]

GRACE = 5.0
"""The time in seconds that a worker has for a clean stop."""

_STDIN = 0
_NOT_BEGUN = 70  # EX_SOFTWARE
_AUTOGROUP = Path("/proc/self/autogroup")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The configuration of a worker process.

    Attributes:
        worker: its name.
        pipes: the folder of the wake-up pipes.
        recipe: how to make the work.
        log_level: the level of the package's own log, which goes to stderr; other packages log from WARNING.
        niceness: its niceness.
        report: the file descriptor for its start report (`StartReport`).
    """

    worker: str
    pipes: Path
    recipe: Recipe
    log_level: int
    niceness: int = 0
    report: int = -1

    def line(self) -> bytes:
        """The assignment as one line of JSON."""
        content = {
            "worker": self.worker,
            "pipes": str(self.pipes),
            "recipe": as_json(self.recipe),
            "log_level": self.log_level,
            "niceness": self.niceness,
            "report": self.report,
        }
        return json.dumps(content).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Assignment":
        """The assignment of a `line`."""
        content = json.loads(line)
        return cls(
            content["worker"],
            Path(content["pipes"]),
            from_json(content["recipe"]),
            content["log_level"],
            content["niceness"],
            content["report"],
        )


def main() -> int:
    """Work until stopped; the exit status of the process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop handles it, Ctrl-C ends this without a traceback
    line = _read_line()
    if not line:
        return 0
    assignment = Assignment.parse(line)
    _give_way(assignment.niceness)
    _configure_logging(assignment)
    return asyncio.run(_serve(assignment))


async def _serve(assignment: Assignment) -> int:
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, scope.cancel)
        threading.Thread(target=_wait_for_end, args=(loop, scope), name="stdin", daemon=True).start()
        try:
            work = cast("Work", make(assignment.recipe))
        except BaseException:  # noqa: BLE001 - an adapter's factory may raise anything, and the pool gets a report
            report(assignment.report, traceback.format_exc().encode(errors="replace"))
            return _NOT_BEGUN
        report(assignment.report, BEGAN)
        wake_ups = WakeUps(assignment.pipes)
        with wake_ups.subscribed(assignment.worker) as wake_up:
            await keep_working(work, assignment.worker, wake_up.wait, wake_ups.notify)
    return 0


def _configure_logging(assignment: Assignment) -> None:
    """Log to stderr: this package at the assigned level, others from WARNING, because HTTP clients log patients' URLs."""
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s %(levelname)s {assignment.worker}: %(message)s")
    logging.getLogger("fhir_bulk_middleware").setLevel(assignment.log_level)


def _give_way(niceness: int) -> None:
    """Lower the priority of the process, and of its session where Linux shares CPU time among sessions."""
    os.nice(niceness)
    with suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))


def _read_line() -> bytes:
    """The first line of stdin, unbuffered: a thread that waits in `sys.stdin` would keep the interpreter from ending."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(_STDIN, 65536)
        if not data:
            return b""
        line += data
    return line


def _wait_for_end(loop: asyncio.AbstractEventLoop, scope: anyio.CancelScope) -> None:
    while os.read(_STDIN, 4096):
        pass
    try:
        loop.call_soon_threadsafe(scope.cancel)
    except RuntimeError:  # it has ended already
        return
    threading.Event().wait(GRACE)
    os._exit(1)  # an adapter hangs in a blocking call; its leases pass to other workers


if __name__ == "__main__":
    sys.exit(main())
