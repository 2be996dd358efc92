"""Makes the adapter to check from the name of a factory, and closes it."""

import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fhir_bulk_middleware.contract.recipes import make
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.contract.storage import SupportsExport

__all__ = ["NoAdapter", "adapter_of", "released"]

T = TypeVar("T")


class NoAdapter(Exception):  # noqa: N818 - a message to the user
    """The factory does not make an adapter; the message says why."""


def adapter_of(factory: str) -> SupportsExport:
    """Call the factory, `module:factory`, which is looked for in the current folder, too.

    Raises:
        NoAdapter: it cannot be imported or called, or returns something else.
    """
    if str(Path.cwd()) not in sys.path:  # as with `python -m`, so that an adapter need not be installed
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = make(Recipe(factory, {}))
    except ModuleNotFoundError as error:
        where = f"modules are looked for among the installed packages and in the current folder, {Path.cwd()}"
        raise NoAdapter(f"{factory}: {error}; {where}") from error
    except Exception as error:  # whatever the module or the factory of the user raises; the message says it
        raise NoAdapter(f"{factory}: {type(error).__name__}: {error}") from error
    if not isinstance(made, SupportsExport):
        raise NoAdapter(f"{factory} returns a {type(made).__name__}, which does not implement SupportsExport")
    return made


@asynccontextmanager
async def released(made: T) -> AsyncIterator[T]:
    """The object, whose `close()` is called at the end of the context if it has one."""
    try:
        yield made
    finally:
        close = getattr(made, "close", None)
        ended = close() if callable(close) else None
        if isinstance(ended, Awaitable):
            await ended
