"""`fhir-bulk worker`: runs a further worker for the jobs of a STATE folder, or of a host's own BulkData."""

import argparse
import logging
import signal
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import anyio

from fhir_bulk_middleware.cli import job_place, settings_option, shared_option
from fhir_bulk_middleware.cli.complaint import Complaint
from fhir_bulk_middleware.cli.log_setup import add_log_level, logging_to_stderr
from fhir_bulk_middleware.cli.own_host import check_shared, own_bulk
from fhir_bulk_middleware.cli.shared_option import Shared, complaints
from fhir_bulk_middleware.cli.state import AUDIT_SETTINGS, State
from fhir_bulk_middleware.contract.recipes import make
from fhir_bulk_middleware.contract.registration import NotAdmitted
from fhir_bulk_middleware.contract.running import Dispatcher, Work, WorkingDispatcher
from fhir_bulk_middleware.demo.show import screen
from fhir_bulk_middleware.settings import Settings

if TYPE_CHECKING:
    from fhir_bulk_middleware.app import BulkData

__all__ = ["add_options"]

_log = logging.getLogger("fhir_bulk_middleware")


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
            anyio.run(_work_own, given.app, own_bulk(given.app))
        return 0
    state, shared = job_place.place_of(given)
    with logging_to_stderr(given.log_level):
        anyio.run(_work, state, settings_option.settings_of(given, defaults=AUDIT_SETTINGS), shared)
    return 0


async def _work_own(app: str, bulk: "BulkData") -> None:
    """Work on the jobs of a host's own BulkData, beside its servers."""
    check_shared(bulk)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with bulk.running(), _in_this_process(bulk):
                screen().say(f"Working on the exports of {app} (Ctrl-C ends it)")
                async for _ in signals:
                    break
        except NotAdmitted as refused:
            raise Complaint(f"--app: {refused}") from refused


def _in_this_process(bulk: "BulkData") -> AbstractAsyncContextManager[None]:
    """Work in this process too, where the engine only dispatches, keeps a pool of workers, or stands by for one of a server.

    The parts are made again as in a worker process, which may block. An engine that works in its own
    loop works here already.
    """
    from fhir_bulk_middleware.startup import without_recipe  # noqa: PLC0415 - for a fast start
    from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner  # noqa: PLC0415

    recipe = bulk.engine.work.recipe()
    if recipe is None:
        _log.warning(
            "this worker works in its own loop, one piece at a time: %s",
            "; ".join(without_recipe(bulk.parts)) or "the clock is not the machine's, or groups= has no recipe()",
        )
    runner, work = bulk.engine.runner, bulk.engine.work
    if isinstance(runner, WorkingDispatcher):
        return runner.working(work)
    if isinstance(runner, Dispatcher) or (recipe is not None and isinstance(runner, ProcessRunner)):
        return LoopRunner().running(work if recipe is None else cast("Work", make(recipe)))
    return nullcontext()


async def _work(state: State, given: Settings, shared: Shared) -> None:
    from fhir_bulk_middleware.cli.wiring import Stores, audit_of, settings_of, work_of  # noqa: PLC0415 - for a fast start
    from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner  # noqa: PLC0415

    with complaints(shared):
        stores = Stores.of(state, shared=shared)
    try:
        with complaints(shared):
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
