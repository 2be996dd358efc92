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
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log to stderr while the context is open. Worker processes that start meanwhile use the same level."""
    log = logging.getLogger("fhir_bulk_middleware")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = log.level
    log.addHandler(handler)
    log.setLevel(level.upper())
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
