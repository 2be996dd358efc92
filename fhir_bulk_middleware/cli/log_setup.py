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
        unless_configured: leave it to the handlers that the host's module configures meanwhile; each line would be logged twice
            otherwise.
    """
    log = logging.getLogger("fhir_bulk_middleware")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    if unless_configured:
        known = {handler, *_handlers(log)}
        handler.addFilter(lambda _: known.issuperset(_handlers(log)))
    before = log.level
    log.addHandler(handler)
    log.setLevel(level.upper())
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def _handlers(log: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that the records of a logger reach."""
    looked_at: logging.Logger | None = log
    while looked_at is not None:
        yield from looked_at.handlers
        looked_at = looked_at.parent if looked_at.propagate else None
