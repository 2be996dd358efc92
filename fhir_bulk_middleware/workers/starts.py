"""Reports of starting workers, and when to give up on workers that cannot start (law 43)."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio

from fhir_bulk_middleware.contract.running import Work

__all__ = ["BEGAN", "StartReport", "Starts", "how_it_ended", "report"]

_log = logging.getLogger("fhir_bulk_middleware")

BEGAN = b"+"
_LONGEST = 16 * 1024


class StartReport:
    """A pipe on which a worker reports that it has started, or why it cannot.

    Attributes:
        descriptor: the worker's end of the pipe.
    """

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)
        self._said = b""

    @property
    def began(self) -> bool:
        """Whether the worker has started."""
        with suppress(BlockingIOError):
            while data := os.read(self._reading, 65_536):
                self._said += data
        return self._said.startswith(BEGAN)

    @property
    def words(self) -> str:
        """Why the worker could not start; empty if it reported nothing."""
        return "" if self.began else self._said.decode(errors="replace").strip()

    def handed_over(self) -> None:
        """Close the server's copy of the worker's end, once the worker has its own."""
        os.close(self.descriptor)

    def close(self) -> None:
        """Close the server's end."""
        os.close(self._reading)


def report(descriptor: int, words: bytes) -> None:
    """Send the report and close the pipe; called in the worker."""
    with suppress(OSError):
        os.write(descriptor, words[-_LONGEST:])
    with suppress(OSError):
        os.close(descriptor)


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class Starts:
    """Counts the workers of a pool that end before they start to work.

    The first failure is logged with its report, later ones are not. After `attempts` failures in a row, over `patience` seconds,
    each further failure calls `Work.give_up`.

    Args:
        attempts: the minimum number of failures.
        patience: the minimum time since the first failure in seconds.
    """

    def __init__(self, attempts: int, patience: float) -> None:
        self._attempts = attempts
        self._patience = patience
        self._reports: set[StartReport] = set()
        self._failed = 0
        self._since = 0.0

    @contextmanager
    def watched(self) -> Iterator[StartReport]:
        """A report for a worker that is about to start."""
        report = StartReport()
        self._reports.add(report)
        try:
            yield report
        finally:
            self._reports.discard(report)
            report.close()

    async def ended(self, worker: str, status: int, report: StartReport, work: Work) -> None:
        """Record the end of a worker."""
        how = how_it_ended(status)
        if any(each.began for each in self._reports):  # this one or another has started, so the recipe works
            if self._failed:
                _log.warning("workers start again, after %d that could not", self._failed)
            self._failed = 0
            if report.began:
                _log.warning("worker %s %s", worker, how)
                return
        words = report.words or f"it {how} without a word"
        self._failed += 1
        if self._failed == 1:
            self._since = anyio.current_time()
            _log.error("worker %s could not start to work; others are started, ever more rarely: %s", worker, words)
        if self._failed >= self._attempts and anyio.current_time() - self._since >= self._patience:
            await work.give_up(f"no worker can start: {words.splitlines()[-1]}")
