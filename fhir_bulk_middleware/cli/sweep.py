"""`fhir-bulk sweep`: ends overdue and expired jobs and deletes their files, once."""

import argparse

import anyio

from fhir_bulk_middleware.app import BulkData
from fhir_bulk_middleware.cli import job_place, settings_option, shared_option
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.own_host import check_shared, own_bulk
from fhir_bulk_middleware.cli.shared_option import Shared, complaints
from fhir_bulk_middleware.cli.state import AUDIT_SETTINGS, State
from fhir_bulk_middleware.cli.wiring import Stores, audit_of, retention, settings_of
from fhir_bulk_middleware.contract.registration import NotAdmitted
from fhir_bulk_middleware.settings import Settings

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    job_place.add_to(parser)
    settings_option.add_to(parser, with_dir=True)
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    if given.app is not None:
        settings_option.none_with_app(given)
        shared_option.none_with_app(given)
        with logging_to_stderr(given.log_level, unless_configured=True):
            anyio.run(_sweep_own, own_bulk(given.app))
        return 0
    state, shared = job_place.place_of(given)
    settings = settings_option.settings_of(given, defaults=AUDIT_SETTINGS)
    with logging_to_stderr(given.log_level):
        anyio.run(_sweep, state, settings, shared)
    return 0


async def _sweep_own(bulk: BulkData) -> None:
    """Sweep the jobs of a host's own BulkData."""
    check_shared(bulk)
    try:
        await bulk.retention.sweep()
    except NotAdmitted as refused:
        raise Complaint(f"--app: {refused}") from refused
    finally:
        await bulk.operator.close()


async def _sweep(state: State, given: Settings, shared: Shared) -> None:
    with complaints(shared):
        stores = Stores.of(state, shared=shared)
    try:
        with complaints(shared):
            settings = await settings_of(stores, given)
        observers = audit_of(state, stores, settings)
        try:
            await retention(stores, settings, observers).sweep()
        finally:
            await observers.close()
    finally:
        stores.close()
