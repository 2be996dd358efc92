"""Where the package's own log goes while a command runs: to stderr, from the level on that was asked for.

Only commands configure logging. A host that uses the package configures its own, for the logger `fhir_bulk_middleware`.
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
    parser.add_argument("--log-level", choices=levels, default="info", help="least level that is logged (default: %(default)s)")


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log to stderr while the context is open. Worker processes that are started meanwhile log from the same level on."""
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
