"""A worker process: `python -m fhir_bulk_middleware.workers.process`, with its assignment on the first line of stdin.

It ends when stdin does, so it never outlives the server that keeps it; on SIGTERM and SIGINT it gives its work back and ends.
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
"""Seconds that a worker has to stop by itself."""

_STDIN = 0
_NOT_BEGUN = 70  # EX_SOFTWARE
_AUTOGROUP = Path("/proc/self/autogroup")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker process is told.

    Attributes:
        worker: its name.
        pipes: the folder of the wake-up pipes.
        recipe: how to make the work.
        log_level: from which level on the package's own log goes to stderr; that of other packages does from warnings on.
        niceness: how much it gives way to other processes.
        report: the descriptor on which it says that it begins, or why it cannot.
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
        """The assignment that `line` wrote."""
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
    """Work until told to stop; the process's exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop listens, Ctrl-C ends this without a trace
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
        except BaseException:  # noqa: BLE001 - whatever an adapter's factory does, the keeper is told
            report(assignment.report, traceback.format_exc().encode(errors="replace"))
            return _NOT_BEGUN
        report(assignment.report, BEGAN)
        wake_ups = WakeUps(assignment.pipes)
        with wake_ups.subscribed(assignment.worker) as wake_up:
            await keep_working(work, assignment.worker, wake_up.wait, wake_ups.notify)
    return 0


def _configure_logging(assignment: Assignment) -> None:
    """Log to stderr: what is ours from the assigned level on, of all others warnings, for HTTP clients log patients' URLs."""
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s %(levelname)s {assignment.worker}: %(message)s")
    logging.getLogger("fhir_bulk_middleware").setLevel(assignment.log_level)


def _give_way(niceness: int) -> None:
    """Be nice to the processes of other sessions too: where Linux groups processes by session, it shares time out by group."""
    os.nice(niceness)
    with suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))


def _read_line() -> bytes:
    """The first line, read from the descriptor: a thread that waits in `sys.stdin` would keep the interpreter from ending."""
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
    os._exit(1)  # an adapter hangs in a call that nothing can interrupt; leases bring its work to others


if __name__ == "__main__":
    sys.exit(main())
