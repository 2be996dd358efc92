"""`--dir` and `--app`: where the jobs of a command are."""

import argparse
from pathlib import Path

from fhir_bulk_middleware.cli import shared_option
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.own_host import APP_HELP
from fhir_bulk_middleware.cli.shared_option import Shared
from fhir_bulk_middleware.cli.state import State

__all__ = ["add_to", "place_of"]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command: a STATE folder, with what several machines share in place of its files, or a host's own."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dir", type=Path, metavar="STATE", help="the server's STATE folder")
    where.add_argument("--app", metavar="MODULE:NAME", help=APP_HELP)
    shared_option.add_to(parser)


def place_of(given: argparse.Namespace) -> tuple[State, Shared]:
    """The STATE folder of `--dir`, and what several machines share in place of its files.

    Raises:
        Complaint: the jobs are in the folder, and it holds none; or the shared options are wrong.
    """
    state, shared = State(given.dir), shared_option.shared_of(given)
    if shared.database is None and not state.jobs.is_file():
        raise Complaint(f"{state.folder} holds no jobs: is it the server's STATE folder?")
    return state, shared
