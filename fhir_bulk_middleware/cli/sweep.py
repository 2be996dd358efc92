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
    state = State(given.dir)
    if not state.jobs.exists():
        raise Complaint(f"{state.folder} holds no jobs: is it the folder that the server was given?")
    anyio.run(_sweep, state)
    return 0


async def _sweep(state: State) -> None:
    from fhir_bulk_middleware.cli.wiring import Stores, audit_of  # noqa: PLC0415 - what the other commands need not wait for
    from fhir_bulk_middleware.export.retention import Retention  # noqa: PLC0415

    settings = Settings(on_audit_failure="refuse", audit_key=state.audit_key())
    stores, observers = Stores.of(state), audit_of(state, settings)
    try:
        await Retention(stores.jobs, stores.outputs, settings, system_clock, observers).sweep()
    finally:
        await observers.close()
        stores.close()
