"""`fhir-bulk sweep`: end what is overdue or expired and give space back, once."""

import argparse
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli import settings_option
from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.logs import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.state import State, audit_settings

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("sweep", help="end expired exports and give their space back, now")
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="the folder that the server was given")
    settings_option.add_to(parser)
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.cli.wiring import Stores, retention, settings_of  # noqa: PLC0415 - what the others need not wait for

    state = State(given.dir)
    if not state.jobs.exists():
        raise Complaint(f"{state.folder} holds no jobs: is it the folder that the server was given?")
    settings = settings_option.settings_of(given, defaults=audit_settings())
    stores = Stores.of(state)

    async def sweep() -> None:
        await retention(state, stores, await settings_of(stores, settings)).sweep()

    try:
        with logging_to_stderr(given.log_level):
            anyio.run(sweep)
    finally:
        stores.close()
    return 0
