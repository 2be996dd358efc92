"""Chooses the runner of a `BulkData` that was given none, and tells a dispatcher its work."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from fhir_bulk_middleware.contract.running import Dispatcher, JobRunner, SupportsWorkerProcess, Work
from fhir_bulk_middleware.jobs.work import JobWork
from fhir_bulk_middleware.settings import Settings
from fhir_bulk_middleware.workers.runner import LoopRunner, ProcessRunner

__all__ = ["bound", "default_runner"]

_log = logging.getLogger("fhir_bulk_middleware")


def default_runner(work: JobWork, settings: Settings, groups: object | None) -> JobRunner:
    """Worker processes if the parts have recipes, else the server's loop. Servers with the same recipe share a pool (law 19)."""
    recipe = work.recipe()
    if settings.worker_processes and groups is not None and not isinstance(groups, SupportsWorkerProcess):
        _log.warning(
            "groups: %s has no recipe(), so a worker process, which reads the members of groups, cannot make it; exports run in "
            "the server's event loop. Implement SupportsWorkerProcess to export in worker processes.",
            type(groups).__name__,
        )
    if recipe is None or not settings.worker_processes:
        return LoopRunner()
    same = hashlib.sha256(json.dumps([recipe.factory, recipe.arguments], sort_keys=True, default=dict).encode()).hexdigest()
    return ProcessRunner(Path(tempfile.gettempdir()) / f"fhir-bulk-{os.getuid()}-{same[:16]}", settings)


def bound(runner: JobRunner, work: Work) -> JobRunner:
    """The runner, which knows the work if it is a dispatcher."""
    if isinstance(runner, Dispatcher):
        runner.bind(work)
    return runner
