"""`fhir-bulk migrate`: makes the tables of a host's own BulkData, or brings them up to date."""

import argparse

import anyio

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.own_host import APP_HELP, own_bulk
from fhir_bulk_middleware.contract.migration import SupportsMigration
from fhir_bulk_middleware.demo.show import screen
from fhir_bulk_middleware.outcomes import Refused

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--app", metavar="MODULE:NAME", required=True, help=APP_HELP)
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    with logging_to_stderr(given.log_level, unless_configured=True):
        anyio.run(_migrate, own_bulk(given.app))
    return 0


async def _migrate(bulk: BulkData) -> None:
    for name, part in {**bulk.parts, "runner": bulk.engine.runner}.items():
        if isinstance(part, SupportsMigration):
            try:
                await part.migrate()
            except (RuntimeError, OSError, Refused) as error:
                raise Complaint(f"--app: {name} ({type(part).__name__}): {error}") from error
            screen().say(f"{name}: the tables of {type(part).__name__} are up to date")
