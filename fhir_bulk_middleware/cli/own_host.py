"""`--app MODULE:NAME`: the host's own `BulkData`, for commands on its machine."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.contract.recipes import factory_of, named
from fhir_bulk_middleware.contract.running import Recipe
from fhir_bulk_middleware.stores.memory.deletions import MemoryDeletionLog
from fhir_bulk_middleware.stores.memory.jobs import MemoryJobStore
from fhir_bulk_middleware.stores.memory.outputs import MemoryOutputStore
from fhir_bulk_middleware.stores.memory.resources import MemoryResourceStore

__all__ = ["APP_HELP", "check_shared", "own_bulk"]

APP_HELP = "your host's BulkData, or a function that returns it"
_NAME_IT = "name your BulkData, or a function without arguments that returns it"


def own_bulk(app: str) -> BulkData:
    """The `BulkData` that `MODULE:NAME` names, or that the function of this name returns.

    Raises:
        Complaint: there is no such name, the function cannot be called, or the value is something else.
    """
    sys.path.insert(0, str(Path.cwd()))  # as with `python -m`, so that a host need not be installed
    try:
        made = named(app)
        if not isinstance(made, BulkData):
            factory = factory_of(Recipe(app, {}))
            if not _without_arguments(factory):  # such as an ASGI application
                kind = "function with arguments" if inspect.isroutine(factory) else type(factory).__name__
                raise Complaint(f"--app: {app} is a {kind}; {_NAME_IT}")
            made = factory()
    except ModuleNotFoundError as error:
        raise Complaint(
            f"--app: {error}; modules are looked for among the installed packages and in the current folder, {Path.cwd()}"
        ) from error
    except (ValueError, ImportError, TypeError) as error:
        raise Complaint(f"--app: {error}") from error
    if not isinstance(made, BulkData):
        raise Complaint(f"--app: {app} returns a {type(made).__name__}, which is not a BulkData; {_NAME_IT}")
    return made


def _without_arguments(factory: Callable[..., object]) -> bool:
    """Whether it can be called without arguments, as far as Python knows it."""
    try:
        inspect.signature(factory).bind()
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


def check_shared(bulk: BulkData) -> None:
    """Check that other processes see the same jobs, files and resources.

    Raises:
        Complaint: a part is in the memory of one process; the message names all of them.
    """
    in_memory = (MemoryJobStore, MemoryOutputStore, MemoryResourceStore, MemoryDeletionLog)
    if found := [f"{name} ({type(part).__name__})" for name, part in bulk.parts.items() if isinstance(part, in_memory)]:
        raise Complaint(
            f"--app: {', '.join(found)} {'is' if len(found) == 1 else 'are'} in the memory of the server's process, which no"
            " other process sees; use stores in files or a database, such as SQLiteJobStore and FileOutputStore"
        )
