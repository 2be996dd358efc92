"""`fhir-bulk worker`: one more process that works on the exports of a STATE folder, started by hand."""

import argparse
import signal
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.state import State
from fhir_bulk_middleware.demo.show import screen
from fhir_bulk_middleware.settings import Settings

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("worker", help="help with the exports of a STATE folder, until told to stop")
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="the folder that the server was given")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    state = State(given.dir)
    if not state.jobs.exists():
        raise Complaint(f"{state.folder} holds no jobs: is it the folder that the server was given?")
    anyio.run(_work, state)
    return 0


async def _work(state: State) -> None:
    from fhir_bulk_middleware.cli.wiring import Stores, exporter  # noqa: PLC0415 - what the other commands need not wait for
    from fhir_bulk_middleware.export.runner import LoopRunner  # noqa: PLC0415

    settings = Settings(on_audit_failure="refuse", audit_key=state.audit_key())
    stores = Stores.of(state)
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with LoopRunner().running(exporter(state, stores, settings)):
                screen().say(f"Working on the exports of {state.folder} (Ctrl-C ends it)")
                async for _ in signals:
                    break
    finally:
        stores.close()
