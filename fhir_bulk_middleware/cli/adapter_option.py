"""The options that say which storage a command reads: `--dir STATE` or `--adapter MODULE:FACTORY`."""

import argparse
from pathlib import Path

from fhir_bulk_middleware.checks.factory import NoAdapter, adapter_of
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.contract.storage import SupportsExport
from fhir_bulk_middleware.stores.sqlite.resources import SQLiteResourceStore

__all__ = ["add_adapter", "chosen_adapter"]


def add_adapter(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Add the options, of which one must be given, and return their group, to which a command may add another source."""
    storage = parser.add_mutually_exclusive_group(required=True)
    storage.add_argument("--dir", type=Path, metavar="STATE", help="the server's STATE folder")
    storage.add_argument("--adapter", metavar="MODULE:FACTORY", help="returns a storage adapter when called")
    return storage


def chosen_adapter(given: argparse.Namespace) -> SupportsExport:
    """The adapter of the given option.

    Raises:
        Complaint: the folder holds no resources, or the factory makes no adapter.
    """
    if given.dir is not None:
        state = State(given.dir)
        if not state.store.exists():
            raise Complaint(f"{state.folder} holds no resources: is it the server's STATE folder?")
        return SQLiteResourceStore(state.store)
    try:
        return adapter_of(given.adapter)
    except NoAdapter as error:
        raise Complaint(f"--adapter: {error}") from error
