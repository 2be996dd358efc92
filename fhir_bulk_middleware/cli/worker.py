"""`fhir-bulk worker`: runs a further worker for the jobs of a STATE folder."""

import argparse
import signal
from pathlib import Path

import anyio

from fhir_bulk_middleware.cli import settings_option
from fhir_bulk_middleware.cli.commands import Commands
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.state import AUDIT_SETTINGS, State
from fhir_bulk_middleware.demo.show import screen
from fhir_bulk_middleware.settings import Settings

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("worker", help="run a further worker for a STATE folder until Ctrl-C or SIGTERM")
    parser.add_argument("--dir", type=Path, required=True, metavar="STATE", help="the server's STATE folder")
    settings_option.add_to(parser)
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    state = State(given.dir)
    if not state.jobs.exists():
        raise Complaint(f"{state.folder} holds no jobs: is it the server's STATE folder?")
    with logging_to_stderr(given.log_level):
        anyio.run(_work, state, settings_option.settings_of(given, defaults=AUDIT_SETTINGS))
    return 0


async def _work(state: State, given: Settings) -> None:
    from fhir_bulk_middleware.cli.wiring import Stores, audit_of, settings_of, work_of  # noqa: PLC0415 - for a fast start
    from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner  # noqa: PLC0415

    stores = Stores.of(state)
    try:
        settings = await settings_of(stores, given)
        observers = audit_of(state, stores, settings)
        work = work_of(stores, settings, observers)
        # It works itself, and keeps the worker pool running if no server does.
        pool = ProcessRunner(state.runner, settings)
        try:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with LoopRunner().running(work), pool.running(work):
                    screen().say(f"Working on the exports of {state.folder} (Ctrl-C ends it)")
                    async for _ in signals:
                        break
        finally:
            await observers.close()
    finally:
        stores.close()
