"""`fhir-bulk migrate`: makes the tables of a host's own BulkData or of a shared database, or brings them up to date."""

import argparse
import os
from pathlib import Path

import anyio

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli import shared_option
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.own_host import APP_HELP, own_bulk
from fhir_bulk_middleware.cli.shared_option import Shared, complaints, database_of
from fhir_bulk_middleware.contract.migration import SupportsMigration
from fhir_bulk_middleware.demo.loading import ByLastUpdated, NdjsonFolder, load
from fhir_bulk_middleware.demo.show import screen
from fhir_bulk_middleware.environment import DATABASE
from fhir_bulk_middleware.outcomes import Refused

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--app", metavar="MODULE:NAME", help=APP_HELP)
    shared_option.add_to(parser, outputs=False)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="with --database: NDJSON files to load, if it holds no resources"
    )
    parser.add_argument(
        "--keep-last-updated", action="store_true", help="with --data: load in the order of meta.lastUpdated and keep it"
    )
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    if given.app is not None:
        if given.database is not None or given.data is not None:
            raise Complaint("--database and --data: not with --app, whose host says where its data are")
        with logging_to_stderr(given.log_level, unless_configured=True):
            anyio.run(_migrate, own_bulk(given.app))
        return 0
    if (dsn := database_of(given)) is None:
        raise Complaint(f"--app or --database is required (also {DATABASE})")
    if given.keep_last_updated and given.data is None:
        raise Complaint("--keep-last-updated needs --data: it is about resources that are loaded")
    with logging_to_stderr(given.log_level), complaints(Shared(dsn)):
        _migrate_database(dsn, given.data, keep_last_updated=given.keep_last_updated)
    return 0


async def _migrate(bulk: BulkData) -> None:
    for name, part in {**bulk.parts, "runner": bulk.engine.runner}.items():
        if isinstance(part, SupportsMigration):
            try:
                await part.migrate()
            except (RuntimeError, OSError, Refused) as error:
                raise Complaint(f"--app: {name} ({type(part).__name__}): {error}") from error
            screen().say(f"{name}: the tables of {type(part).__name__} are up to date")


def _migrate_database(dsn: str, data: Path | None, *, keep_last_updated: bool) -> None:
    """Make the tables of the commands' stores, and load files into an empty store of resources."""
    from fhir_bulk_middleware.stores.postgres import PostgresJobStore, PostgresResourceStore  # noqa: PLC0415 - an extra

    out, jobs, resources = screen(), PostgresJobStore(dsn, listen=False), PostgresResourceStore(dsn)
    try:
        for store in (jobs, resources):
            anyio.run(store.migrate)
            out.say(f"The tables of {type(store).__name__} are up to date.")
        if data is None:
            return
        if anyio.run(resources.types):
            raise Complaint(
                "--data: the database holds resources already, and nothing was loaded; an interrupted load begins anew"
                " in an empty schema"
            )
        files = NdjsonFolder(data)
        lines = ByLastUpdated(files) if keep_last_updated else files
        with out.bar(f"Loading {data}", lines.size, "bytes") as advance:
            count = load(resources, lines, lambda _: advance(lines.read), helpers=len(os.sched_getaffinity(0)) - 1)
            advance(lines.size)
        out.say(f"{count:,} resources are loaded.")
    finally:
        jobs.close()
        resources.close()
