"""`fhir-bulk jobs`: the operator's list of all jobs, of one job, a cancel, and a live view."""

import argparse
import os
import pwd
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from fhir_bulk_middleware.cli import job_place, jobs_report, settings_option, shared_option, wiring
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.jobs_watch import watch
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.own_host import own_bulk
from fhir_bulk_middleware.cli.shared_option import Shared, complaints
from fhir_bulk_middleware.cli.state import AUDIT_SETTINGS, State
from fhir_bulk_middleware.compact_json import compact_json
from fhir_bulk_middleware.contract.job import Job
from fhir_bulk_middleware.identifiers import is_job_id
from fhir_bulk_middleware.jobs.operator import JobOperator
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["add_options"]

_ACTIONS = {"list": False, "show": True, "cancel": True, "cancel-all": False, "watch": False}
"""The actions, and whether they need the id of a job."""

_REFUSALS = {
    Reason.JOB_UNKNOWN: "there is no job {id}; `fhir-bulk jobs list` prints the ids",
    Reason.JOB_CANCELLED: "the job {id} is cancelled already",
    Reason.JOB_EXPIRED: "the job {id} has expired already",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        default="list",
        metavar="ACTION",
        help="list (default), show, cancel, cancel-all, watch",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="the id of the job, for show and cancel")
    job_place.add_to(parser)
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="list and watch the newest N jobs (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; watch prints a line for each change")
    parser.add_argument("--until-idle", action="store_true", help="end watch when no job is queued or running")
    add_log_level(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    if _ACTIONS[given.action] != (given.id is not None):
        raise Complaint(f"jobs {given.action}: {'the ID of a job is required' if given.id is None else 'no ID belongs here'}")
    if given.limit < 1:
        raise Complaint("--limit: a positive number is required")
    with logging_to_stderr(given.log_level, unless_configured=given.app is not None):
        try:
            anyio.run(_act, given)
        except KeyboardInterrupt:
            if given.action != "watch":
                raise
        except Refused as refused:
            raise Complaint("the job store cannot be reached now; the log above says why") from refused
    return 0


async def _act(given: argparse.Namespace) -> None:
    async with _of_dir(*job_place.place_of(given)) if given.app is None else _of_app(given) as operator:
        match given.action:
            case "watch":
                await watch(operator, given.limit, as_json=given.json, until_idle=given.until_idle)
            case "list":
                found = await operator.listed(given.limit)
                text = compact_json([jobs_report.document(job) for job in found]) if given.json else jobs_report.table(found)
                sys.stdout.write(f"{text}\n")
            case "cancel-all":
                cancelled = await operator.cancel_all(_user())
                sys.stdout.write(compact_json({"cancelled": cancelled}) + "\n" if given.json else f"{cancelled} jobs cancelled\n")
            case _:
                job = await _one(given, operator)
                text = compact_json(jobs_report.document(job)) if given.json else jobs_report.lines(job)
                sys.stdout.write(f"{text}\n")


async def _one(given: argparse.Namespace, operator: JobOperator) -> Job:
    """The job that was named, cancelled if that was asked for."""
    try:
        if not is_job_id(given.id):
            raise Refused(Reason.JOB_UNKNOWN)
        return await (operator.cancel(given.id, _user()) if given.action == "cancel" else operator.job(given.id))
    except Refused as refused:
        told = _REFUSALS.get(refused.reason)
        raise Complaint(
            refused.detail or refused.reason.name if told is None else told.format(id=repr(given.id)[1:-1])
        ) from refused


@asynccontextmanager
async def _of_dir(state: State, shared: Shared) -> AsyncIterator[JobOperator]:
    """The jobs of a STATE folder, or of the database that several machines share.

    Raises:
        Complaint: the jobs are of another version of this package, or cannot be reached.
    """
    settings = settings_option.settings_of(argparse.Namespace(settings=[]), defaults=AUDIT_SETTINGS)
    with complaints(shared):
        stores = wiring.Stores.of(state, shared=shared)
    try:
        try:
            with complaints(shared):
                settings = await wiring.settings_of(stores, settings)
        except (sqlite3.DatabaseError, RuntimeError) as error:
            raise Complaint(f"{state.jobs} cannot be read: {error}") from error
        found = wiring.operator(stores, settings, wiring.audit_of(state, stores, settings))
        try:
            yield found
        finally:
            await found.close()
    finally:
        stores.close()


@asynccontextmanager
async def _of_app(given: argparse.Namespace) -> AsyncIterator[JobOperator]:
    """The jobs of a host's own BulkData.

    Raises:
        Complaint: there is no such BulkData.
    """
    shared_option.none_with_app(given)
    made = own_bulk(given.app)
    try:
        yield made.operator
    finally:
        await made.operator.close()


def _user() -> str:
    """The user of this process, as the audit names the operator."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
