"""`fhir-bulk sweep`: end what is overdue or expired and give space back, once."""

import argparse
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.instant import system_clock
from fhir_bulk_middleware.settings import Settings

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("sweep", help="end expired exports and give their space back, now")
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="the folder that the server was given")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    from fhir_bulk_middleware.cli.wiring import Stores, audit_of  # noqa: PLC0415 - what the other commands need not wait for
    from fhir_bulk_middleware.export.retention import Retention  # noqa: PLC0415

    state = State(given.dir)
    if not state.jobs.exists():
        raise Complaint(f"{state.folder} holds no jobs: is it the folder that the server was given?")
    settings = Settings(on_audit_failure="refuse", audit_key=state.audit_key())
    stores = Stores.of(state)
    try:
        anyio.run(Retention(stores.jobs, stores.outputs, settings, system_clock, audit_of(state, settings)).sweep)
    finally:
        stores.close()
    return 0
