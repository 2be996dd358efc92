"""Logging of the commands, to stderr.

Only commands configure logging. A host configures its own, for the logger `fhir_bulk_middleware`.
"""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["add_log_level", "logging_to_stderr"]

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add `--log-level` to a command."""
    levels = ["debug", "info", "warning", "error"]
    parser.add_argument("--log-level", choices=levels, default="info", help="minimum level to log (default: %(default)s)")


@contextmanager
def logging_to_stderr(level: str, *, unless_configured: bool = False) -> Iterator[None]:
    """Log to stderr while the context is open. Worker processes that start meanwhile use the same level.

    Args:
        level: the lowest level to log.
        unless_configured: leave it to the handlers of the host, as soon as its module has been imported and configured some;
            each line would be logged twice otherwise.
    """
    log = logging.getLogger("fhir_bulk_middleware")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    if unless_configured:
        handler.addFilter(lambda _: not _others(log, handler))
    before = log.level
    log.addHandler(handler)
    log.setLevel(level.upper())
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def _others(log: logging.Logger, handler: logging.Handler) -> bool:
    """Whether the records of a logger reach other handlers, too."""
    looked_at: logging.Logger | None = log
    while looked_at is not None:
        if any(each is not handler for each in looked_at.handlers):
            return True
        looked_at = looked_at.parent if looked_at.propagate else None
    return False
