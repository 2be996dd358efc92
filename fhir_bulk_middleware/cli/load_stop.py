"""Stops a load at SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fhir_bulk_middleware.cli.state import State

__all__ = ["LoadStopped", "stopping_at_sigterm"]


class LoadStopped(Exception):  # noqa: N818 - the operator asked for it
    """SIGTERM ended a load; the message says how much of it is kept."""


class _Sigterm(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that no handler of errors takes it for a fault of the data."""


@contextmanager
def stopping_at_sigterm(state: State) -> Iterator[None]:
    """End a load in this context at SIGTERM. Its open transaction is rolled back; what was committed is kept.

    Raises:
        LoadStopped: SIGTERM arrived.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Sigterm

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Sigterm:
        kept = state.loaded_so_far()
        raise LoadStopped(f"Stopped while loading. {kept:,} resources are kept; the same command continues after them.") from None
    finally:
        signal.signal(signal.SIGTERM, before)
